# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Exported models answer as the originals do, whatever their heads, sizes and detections."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.modeling import ROI_MASK_HEAD_REGISTRY

from mrcnn_ext import export
from mrcnn_ext.config.load import list_configs, load_config
from mrcnn_ext.deploy import ModelInput, OnnxModel, export_onnx, quantise, supported
from mrcnn_ext.deploy.export import resizing_file
from mrcnn_ext.deploy.parity import Parity, compare_detections
from mrcnn_ext.errors import ConfigError
from mrcnn_ext.modeling.keypoint_codecs import KEYPOINT_CODEC_REGISTRY
from mrcnn_ext.skeletons import Skeleton, SkeletonSet
from tests.deploy import export_cases
from tests.deploy.export_cases import CASES, build_case, keypoint_cfg, parity, picture

pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
NO_RESIZE = ModelInput("BGR", 0, 0)


def _assert_same(result, least: int = 1):
    assert result.unmatched == 0, result
    assert result.matched >= least, result
    assert result.box < 1e-3, result
    assert result.score < 1e-3, result
    assert result.same_pixels > 0.999, result


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Boxes, masks, keypoints that the runner decodes: a model and its file."""
    cfg = keypoint_cfg("MrcnnExtHeatmapKeypointHead")
    model = build_case(cfg)
    images = export_cases.pictures()
    export_cases.set_threshold(model, export_cases.choose_threshold(model, images))
    names = [f"class {i}" for i in range(cfg.MODEL.ROI_HEADS.NUM_CLASSES)]
    points = Skeleton("thing", [f"k{i}" for i in range(7)], [("k0", "k1")], [("k0", "k2")])
    source = ModelInput("BGR", 0, 0, names, list(range(10, 18)), SkeletonSet.single(points, names))
    file = tmp_path_factory.mktemp("export") / "model.onnx"
    info = export_onnx(model, file, source)
    return model, file, info, images


def test_an_exported_model_answers_the_same(exported):
    model, file, _, images = exported
    result, numbers = parity(model, OnnxModel(file, threads=1), images)
    _assert_same(result, least=5)
    assert result.keypoint < 1e-2  # a tie of two pixels is decided by rounding
    assert {0, 1} <= set(numbers)
    assert not model.training
    assert model.roi_heads.mask_on
    assert model.roi_heads.keypoint_on


def test_the_file_describes_the_model(exported):
    _, file, info, _ = exported
    runner = OnnxModel(file, threads=1)
    assert runner.info == info
    assert runner.classes[:2] == ["class 0", "class 1"]
    assert info["category_ids"][0] == 10
    assert (info["resize"]["min_size"], info["pixel_format"]) == (0, "BGR")
    assert (info["keypoints"]["codec"], info["keypoints"]["decoded"]) == ("one_hot", "runner")
    assert info["skeletons"]["skeletons"][0]["flip_map"] == [["k0", "k1"]]
    inputs, outputs = runner._session.get_inputs(), runner._session.get_outputs()
    assert [(i.name, i.shape) for i in inputs] == [("image", [3, "height", "width"])]
    assert [o.name for o in outputs] == ["boxes", "scores", "classes", "masks", "keypoint_maps"]
    assert outputs[3].shape[0] == "detections"


def test_nothing_of_the_machine_is_in_the_file(exported):
    content = exported[1].read_bytes()
    for part in (b"site-packages", b"/mrcnn_ext", b"/tmp/", b"/home/"):
        assert part not in content


def test_norms_are_folded_and_last_layers_keep_float32(exported):
    """What decides how good 8 bits are: which results are quantised, and which layers are not."""
    import onnx

    graph = onnx.load(str(exported[1])).graph
    convolved = {node.output[0] for node in graph.node if node.op_type == "Conv"}
    takers = {node.op_type for node in graph.node if convolved & set(node.input)}
    assert "Relu" in takers
    assert not takers & {"Mul", "Sub", "Div", "BatchNormalization"}
    kept = quantise.kept_layers(graph)
    last = ("objectness_logits", "anchor_deltas", "cls_score", "bbox_pred", "predictor")
    for part in (*last, "score_lowres"):
        assert any(part in name for name in kept), part
    assert not any("backbone" in name or "/fc1/" in name for name in kept)


@pytest.mark.slow
def test_the_same_model_gives_the_same_bytes(exported, tmp_path):
    model, _, _, _ = exported
    for name in "ab":
        export_onnx(model, tmp_path / name, NO_RESIZE)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_every_head_and_codec_has_a_case():
    masks = [name for name, _ in ROI_MASK_HEAD_REGISTRY if name.startswith("MrcnnExt")]
    assert {f"{name[8:-8]} masks" for name in masks} <= set(CASES)
    own = {
        "rle" if name == "residual_likelihood" else name
        for name, codec in KEYPOINT_CODEC_REGISTRY
        if codec.__module__.startswith("mrcnn_ext.")
    }
    assert own <= {name.partition(",")[0] for name in CASES}


def _check_file(name: str, model, folder):
    """Export a model and compare file and model, also on images with no and with one detection."""
    images = export_cases.pictures()
    export_cases.set_threshold(model, export_cases.choose_threshold(model, images))
    runner = export_cases.export_case(model, folder / "model.onnx")
    result, numbers = parity(model, runner, images)
    print(name, numbers, result)
    _assert_same(result)
    assert {0, 1} <= set(numbers)
    return result


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_every_kind_of_model_answers_the_same(name, tmp_path):
    result = _check_file(name, build_case(CASES[name]()), tmp_path)
    assert result.keypoint < 1e-2


def test_masks_that_need_half_cells_are_refused(monkeypatch):
    """Nothing but an error of ours comes out of what the exporter cannot write."""

    def no_symbolic(*args, **kwargs):
        raise torch.onnx.errors.OnnxExporterError("Unsupported: something [Caused by the value …]")

    monkeypatch.setattr(torch.onnx, "export", no_symbolic)
    with pytest.raises(ConfigError, match=r"cannot be written as ONNX: Unsupported: something$"):
        export_onnx(build_case(export_cases.boxes_only_cfg()), "never.onnx", NO_RESIZE)


def test_wrong_opsets(exported, tmp_path):
    model = exported[0]
    with pytest.raises(ConfigError, match=r"opset 16: expected 17 to 20"):
        export_onnx(model, tmp_path / "m.onnx", NO_RESIZE, opset=16)
    with pytest.raises(ConfigError, match=r"opset 17 cannot resize .* takes 18 or more"):
        export_onnx(model, tmp_path / "m.onnx", NO_RESIZE, opset=17, resize=True)
    assert not (tmp_path / "m.onnx").exists()


def test_models_that_cannot_be_exported(exported):
    model = exported[0]
    with pytest.raises(ConfigError, match=r"Linear cannot be exported: only GeneralizedRCNN"):
        supported.check_model(torch.nn.Linear(1, 1))
    head = model.roi_heads.mask_head
    try:
        model.roi_heads.mask_head = torch.nn.Identity()
        with pytest.raises(ConfigError, match=r"Identity cannot be exported: .* PointRend take"):
            supported.check_model(model)
    finally:
        model.roi_heads.mask_head = head


def test_a_missing_package_is_named(monkeypatch, exported, tmp_path):
    monkeypatch.setattr(supported.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ImportError, match=r"onnx must be .*: pip install onnx, or 'mrcnn_ext\[export\]'"
    ):
        export_onnx(exported[0], tmp_path / "m.onnx", NO_RESIZE)


def test_check_fails_where_near_ties_outnumber_matches():
    assert export._is_same(Parity(matched=9, near_ties=2))
    assert export._is_same(Parity())
    assert not export._is_same(Parity(matched=1, near_ties=198))
    assert not export._is_same(Parity(near_ties=1))  # found by one of the two only
    assert not export._is_same(Parity(matched=9, unmatched=1))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"classes": ["a"]}, "there are 1 names for 8 classes"),
        ({"category_ids": [1, 2]}, "there are 2 ids for 8 classes"),
        (
            {"skeletons": SkeletonSet.single(Skeleton("a", ["x"]), ["b"] * 8)},
            "skeletons have 1 keypoints, but the model has 7",
        ),
    ],
)
def test_names_that_do_not_fit_the_model(exported, source, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        export_onnx(exported[0], tmp_path / "m.onnx", ModelInput(**source))


@pytest.mark.parametrize(("fields", "message"), [
    ({"pixel_format": "L"}, "pixel format is 'L'"),
    ({"min_size": 800, "max_size": 600}, "800 to 600"),
])  # fmt: skip
def test_wrong_inputs(fields, message):
    with pytest.raises(ConfigError, match=message):
        ModelInput(**fields)


@pytest.mark.slow
def test_resizing_in_the_graph(tmp_path):
    """One grey level from Pillow's; boxes move as far as that moves them; sizes are Detectron2's."""
    model = build_case(export_cases.mask_cfg())
    images = [picture(seed, *size) for seed, size in enumerate([(200, 300), (131, 97), (60, 90)])]
    export_cases.set_threshold(model, 0.5)
    source = ModelInput("RGB", 96, 160)
    runners = []
    for resize in (False, True):
        file = tmp_path / f"{resize}.onnx"
        export_onnx(model, file, source, opset=18, resize=resize)
        runners.append(OnnxModel(file, threads=1))
    resizing = onnxruntime.InferenceSession(resizing_file(source, 18))
    for image in images:
        (pixels,) = resizing.run(None, {"image": image})
        assert np.abs(pixels - runners[0].resized(image)).max() <= 1
        found = [runner(image) for runner in runners]
        values = runners[1]._run(image)
        assert tuple(values["resized"]) == runners[0].resized_shape(*image.shape[:2])
        result = compare_detections(*found)  # a grey level moves scores of random weights
        assert result.matched >= 0.7 * len(found[0]) > 0, result


def _groups() -> list[str]:
    return [name for name in list_configs() if name.endswith(("1x.yaml", "cpu.yaml", "FPN.yaml"))]


@pytest.mark.slow
@pytest.mark.parametrize("name", _groups())
def test_the_package_s_configs(name, tmp_path):
    """Random weights, small images: R50 and the rest at their real widths."""
    options = ["MODEL.WEIGHTS", "", "MODEL.DEVICE", "cpu", "DATASETS.TRAIN", "()"]
    cfg = load_config(name, [*options, "DATASETS.TEST", "()"])
    cfg.TEST.DETECTIONS_PER_IMAGE, cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 20, 100
    _check_file(name, export_cases.scale_outputs(build_case(cfg)), tmp_path)
