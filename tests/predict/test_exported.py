# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""python -m mrcnn_ext.predict --model, and what an export takes from a predictor."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from detectron2.data import Metadata
from detectron2.data import transforms as T

from mrcnn_ext import export
from mrcnn_ext.config.load import load_config
from mrcnn_ext.errors import ConfigError
from mrcnn_ext.predict.__main__ import main
from mrcnn_ext.predict.exported import ExportedPredictor, input_of
from mrcnn_ext.skeletons import Skeleton, SkeletonSet
from mrcnn_ext.skeletons.from_json import skeletons_content
from tests.deploy.constant_model import some_outputs, write_model

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
_THRESHOLD = "model.roi_heads.box_predictor.test_score_thresh"


@pytest.fixture
def model(tmp_path):
    return write_model(tmp_path / "model.onnx", some_outputs())


def test_the_command_writes_what_it_writes_of_checkpoints(model, photos, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["--model", str(model), str(photos), "--output", str(out)]
    assert main([*arguments, "--score-threshold", "0"]) == 0
    assert "3 images, 6 instances" in capsys.readouterr().out
    content = json.loads((out / "predictions.json").read_text())
    assert content["classes"] == ["cat", "dog"]
    first = content["images"][0]["instances"][0]
    assert (first["class_name"], first["class_id"]) == ("dog", 1)
    results = json.loads((out / "coco_results.json").read_text())
    assert [r["category_id"] for r in results[:2]] == [9, 7]
    assert len(list((out / "pictures").rglob("*.png"))) == 3
    run = json.loads((out / "run.json").read_text())
    assert "model" in run
    assert "weights" not in run
    assert main([*arguments, "--score-threshold", "0"]) == 0  # goes on: nothing to do
    write_model(model, some_outputs(), classes=["a", "b"])
    assert main([*arguments, "--score-threshold", "0"]) == 2
    assert "predictions of another run: model was" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "none.onnx"], "--model none.onnx: there is no such file"),
        (["--model", "MODEL", "--config-file", "x"], "--config-file does not go with --model"),
        (["--model", "MODEL", "--device", "tpu"], "with --model expected auto, cpu or cuda"),
        (["--weights", "x.pth"], "--weights needs --config-file, the config of those weights"),
    ],
)
def test_wrong_use(arguments, message, model, photos, tmp_path, capsys):
    arguments = [str(model) if item == "MODEL" else item for item in arguments]
    assert main([*arguments, str(photos), "--output", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err


def test_skeletons_come_back(tmp_path):
    points = Skeleton("dog", ["nose", "left_paw", "right_paw"], [("left_paw", "right_paw")])
    skeletons = SkeletonSet((points,), (None, 0), ("cat", "dog"))
    content = skeletons_content(
        skeletons.skeletons, skeletons.class_skeletons, skeletons.class_names
    )
    rule = {
        "score": "max",
        "sigmas": None,
        "class_keypoints": None,
        "fold_score": False,
        "slots": None,
    }
    file = write_model(
        tmp_path / "m.onnx", some_outputs(keypoints=3), keypoints=rule, skeletons=content
    )
    predictor = ExportedPredictor(file, device="cpu")
    assert SkeletonSet.from_metadata(predictor.metadata) == skeletons
    instances = predictor(np.zeros((60, 60, 3), np.uint8))["instances"]
    assert instances.pred_keypoints.shape == (2, 3, 3)
    assert instances.pred_masks.shape == (2, 60, 60)


class _Predictor:
    """What input_of reads of a Predictor."""

    input_format = "BGR"
    num_classes = 2
    model = type("Model", (), {"roi_heads": type("Heads", (), {"keypoint_on": False})})

    def __init__(self, *augmentations, **metadata):
        self.augmentation = T.AugmentationList(list(augmentations))
        self.metadata = Metadata(**metadata)


def test_what_an_export_takes_from_a_predictor():
    resize = T.ResizeShortestEdge([300, 300], 500)
    ids = {17: 1, 3: 0}
    predictor = _Predictor(
        resize, thing_classes=["cat", "dog"], thing_dataset_id_to_contiguous_id=ids
    )
    found = input_of(predictor)
    assert (found.min_size, found.max_size, found.classes) == (300, 500, ["cat", "dog"])
    assert found.category_ids == [3, 17]
    assert input_of(predictor, ["x", "y"]).classes == ["x", "y"]
    assert input_of(_Predictor(resize, thing_classes=["of another set"])).classes is None
    assert input_of(_Predictor()).min_size == 0
    with pytest.raises(ConfigError, match=r"augmentations is \[RandomFlip\]; .*ResizeShortestEdge"):
        input_of(_Predictor(T.RandomFlip()))
    with pytest.raises(ConfigError, match=r"ResizeShortestEdge of one size"):
        input_of(_Predictor(T.ResizeShortestEdge([300, 400], 500)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--opset", "12"], "opset 12: expected 17 to 20"),
        (["--opset", "17", "--resize-in-graph"], "takes 18 or more"),
        (["--int8"], "--int8 needs --calibration FOLDER"),
        (["--output", "."], "is a folder; expected the name of a file"),
        (["--weights", "none.pth"], "there is no file 'none.pth'"),
        (["--check", "none.jpg"], "none.jpg"),
    ],
)
def test_wrong_use_of_export(arguments, message, trained, tmp_path, capsys):
    output = tmp_path / "m.onnx"
    common = ["--config-file", str(trained[0]), "--output", str(output)]
    assert export.main([*common, *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not output.exists()


@pytest.mark.slow
def test_from_checkpoint_to_predictions(trained, photos, tmp_path, capsys):
    """The exported model's files hold what the checkpoint's hold."""
    config, _ = trained
    output = tmp_path / "m.onnx"
    arguments = ["--config-file", str(config), "--output", str(output)]
    assert export.main([*arguments, "--check", str(photos / "a.png")]) == 0
    assert "0 unmatched; boxes differ by" in capsys.readouterr().out
    for name, model in (("a", ["--config-file", str(config)]), ("b", ["--model", str(output)])):
        common = [str(photos), "--score-threshold", "0", "--output", str(tmp_path / name)]
        assert main([*model, *common]) == 0
    names = {path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*")}
    assert names == {path.relative_to(tmp_path / "b") for path in (tmp_path / "b").rglob("*")}
    expected, found = (
        json.loads((tmp_path / name / "coco_results.json").read_text()) for name in "ab"
    )
    assert len(expected) == len(found) == 15
    for a, b in zip(expected, found):
        assert (a["image_id"], a["category_id"]) == (b["image_id"], b["category_id"])
        assert a["score"] == pytest.approx(b["score"], abs=1e-4)
        assert a["bbox"] == pytest.approx(b["bbox"], abs=0.05)


@pytest.mark.slow
def test_a_file_that_resizes_is_compared_with_images_that_it_resized(
    trained, photos, tmp_path, capsys
):
    config, _ = trained
    arguments = ["--config-file", str(config), "--output", str(tmp_path / "m.onnx")]
    check = ["--check", str(photos / "a.png"), "--resize-in-graph"]
    assert export.main([*arguments, *check]) == 0
    assert "0 unmatched; boxes differ by" in capsys.readouterr().out


@pytest.mark.slow
def test_a_lazy_config_is_exported(photos, tmp_path, capsys):
    """By its name here, with overrides; predict runs the file and the checkpoint alike."""
    name, options = "Shapes/mask_rcnn_Lite0_FPN.py", ["--opts", f"{_THRESHOLD}=0.0"]
    torch.manual_seed(0)
    model = instantiate(load_config(name).model)
    weights = tmp_path / "model.pth"
    torch.save({"model": model.state_dict()}, weights)
    output = tmp_path / "m.onnx"
    arguments = ["--config-file", name, "--weights", str(weights)]
    check = ["--output", str(output), "--check", str(photos / "a.png")]
    assert export.main([*arguments, *check, *options]) == 0
    assert "0 unmatched; boxes differ by" in capsys.readouterr().out
    info = ExportedPredictor(output, device="cpu").model.info
    assert (info["resize"]["min_size"], info["resize"]["max_size"]) == (272, 384)
    numbers = []
    for kind, options_of in ((["--model", str(output)], []), (arguments, options)):
        folder = tmp_path / f"out{len(numbers)}"
        common = [str(photos / "a.png"), "--output", str(folder), "--score-threshold", "0"]
        assert main([*kind, *common, "--no-pictures", *options_of]) == 0
        numbers.append(len(json.loads((folder / "coco_results.json").read_text())))
    assert numbers[0] == numbers[1] > 0


@pytest.mark.slow
def test_quantisation(trained, photos, tmp_path):
    config, _ = trained
    output = tmp_path / "m.onnx"
    arguments = ["--config-file", str(config), "--output", str(output)]
    assert export.main(arguments) == 0
    size = output.stat().st_size
    assert export.main([*arguments, "--int8", "--calibration", str(photos / "more")]) == 0
    assert output.stat().st_size < size / 2
    predictor = ExportedPredictor(output, device="cpu")
    assert len(predictor(np.full((80, 120, 3), 99, np.uint8))["instances"]) > 0
