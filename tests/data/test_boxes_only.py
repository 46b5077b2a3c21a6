# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Images with masks, images with boxes only, and both in one: MRCNN_EXT.DATA.BOXES_ONLY."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes

from mrcnn_ext.config.check_data import check_data, set_data_keys
from mrcnn_ext.data.check.__main__ import main as check
from mrcnn_ext.data.class_counts import warn_of_missing_masks
from mrcnn_ext.data.instances import filter_empty, to_instances
from mrcnn_ext.data.train_loader import train_loader_from_config
from mrcnn_ext.errors import ConfigError, DataError
from mrcnn_ext.modeling.run_setup import set_up_run
from tests.data.augmentation_cases import dense, record
from tests.data.test_augmentation import ONE, mapper, seeded
from tests.helpers import REPO, run_python, small_cfg, timm_cfg, tool

LAZY = REPO / "configs" / "Shapes" / "mask_rcnn_Lite0_FPN_copy_paste.py"
each_form = pytest.mark.parametrize("form", ["polygon", "rle"])


def _entry(tmp_path, form: str, without: tuple[int, ...]) -> dict:
    entry = record(tmp_path, form)
    for index in without:
        del entry["annotations"][index]["segmentation"]
    return entry


@each_form
@pytest.mark.parametrize("without", [(), (0,), (1,), (0, 1)])
def test_flags_and_masks_follow_their_objects(tmp_path, form, without):
    mask_format = "polygon" if form == "polygon" else "bitmask"
    settings = {"boxes_only": True, "mask_format": mask_format}
    entry = _entry(tmp_path, form, without)
    plain = seeded(mapper([], **settings), entry, 0)["instances"]
    flipped = seeded(mapper([["HorizontalFlip", ONE]], **settings), entry, 0)["instances"]
    whole = dense(seeded(mapper([], **settings), record(tmp_path, form), 0)["instances"])
    expected = [index not in without for index in range(2)]
    for found, masks in ((plain, whole), (flipped, whole[:, :, ::-1])):
        assert found.gt_has_mask.tolist() == expected
        for index, there in enumerate(expected):
            assert (dense(found)[index] == masks[index]).mean() > 0.999 if there else True
            assert dense(found)[index].any() == there
    boxes = plain.gt_boxes.tensor.numpy()
    assert np.allclose(boxes, [a["bbox"] for a in entry["annotations"]], atol=1e-4)


@each_form
def test_an_image_without_objects_has_the_fields_too(form):
    mask_format = "polygon" if form == "polygon" else "bitmask"
    found = to_instances([], (20, 30), mask_format=mask_format, boxes_only=True)
    assert len(found) == len(found.gt_masks) == len(found.gt_has_mask) == 0
    assert len(filter_empty(found)) == 0


def test_only_a_mask_that_should_be_there_may_not_be_empty():
    found = to_instances(
        [{"bbox": [0, 0, 9, 9], "bbox_mode": 0, "category_id": 0}] * 3,
        (20, 30),
        mask_format="bitmask",
        boxes_only=True,
    )
    found.gt_boxes = Boxes(torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 9], [3, 3, 3, 9]]))
    found.gt_masks = BitMasks(torch.zeros(3, 20, 30, dtype=torch.bool))
    found.gt_has_mask = torch.tensor([False, True, False])
    assert filter_empty(found).gt_has_mask.tolist() == [False]


def test_without_the_key_nothing_is_flagged(tmp_path):
    assert not seeded(mapper([]), record(tmp_path, "polygon"), 0)["instances"].has("gt_has_mask")


def test_copy_paste_pastes_what_has_a_mask_and_keeps_the_flags(tmp_path):
    source = _entry(tmp_path, "rle", (0,))
    steps = [["CopyPaste", {"probability": 1.0}]]
    made = mapper(steps, boxes_only=True, mask_format="bitmask", dataset=[source])
    for seed in range(8):
        found = seeded(made, _entry(tmp_path, "rle", (1,)), seed)["instances"]
        assert len(found.gt_has_mask) == len(found)
        assert [bool(mask.any()) for mask in dense(found)] == found.gt_has_mask.tolist()


# ---- Config, data set and check --------------------------------------------------------------------


@pytest.fixture
def mixed(tmp_path):
    """A config whose training set has one object with a mask, and one without, in two images."""
    content = {
        "images": [
            {"id": i, "file_name": f"{i}.png", "height": 96, "width": 96} for i in (1, 2)
        ],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [
            {
                "id": i, "image_id": i, "category_id": 1, "iscrowd": 0, "area": 1600,
                "bbox": [10, 10, 40, 40],
            }
            for i in (1, 2)
        ],
    }  # fmt: skip
    content["annotations"][0]["segmentation"] = [[10, 10, 50, 10, 50, 50, 10, 50]]
    file = tmp_path / "mixed.json"
    file.write_text(json.dumps(content))
    for i in (1, 2):
        entry = record(tmp_path, "", i, (96, 96))
        (tmp_path / f"{i}.png").write_bytes((tmp_path / entry["file_name"]).read_bytes())
    name = f"mrcnn_ext_test_mixed_{tmp_path.name}"
    cfg = small_cfg()
    cfg.MODEL.MASK_ON, cfg.MODEL.ROI_HEADS.NUM_CLASSES = True, 1
    cfg.MODEL.ROI_MASK_HEAD.NAME = "MrcnnExtFCNMaskHead"
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (name,), ()
    cfg.MRCNN_EXT.DATA.DATASETS = [[name, str(file), str(tmp_path)]]
    yield cfg
    if name in DatasetCatalog:
        DatasetCatalog.remove(name)


def test_the_data_set_is_taken_with_the_key(mixed):
    set_up_run(mixed)
    with pytest.raises(DataError, match=r"image 2 .*1 of its 1 objects have no.*BOXES_ONLY"):
        DatasetCatalog.get(mixed.DATASETS.TRAIN[0])
    mixed.MRCNN_EXT.DATA.BOXES_ONLY = True
    assert set_data_keys(mixed) == ["MRCNN_EXT.DATA.BOXES_ONLY"]
    set_up_run(mixed)
    assert len(DatasetCatalog.get(mixed.DATASETS.TRAIN[0])) == 2


def test_a_stock_head_is_refused_before_training(mixed, monkeypatch):
    mixed.MRCNN_EXT.DATA.BOXES_ONLY = True
    mixed.MODEL.ROI_MASK_HEAD.NAME = "MaskRCNNConvUpsampleHead"
    build_model(mixed)  # to predict
    monkeypatch.setattr("mrcnn_ext.modeling.run_setup.trainer_being_built", lambda: object())
    with pytest.raises(ConfigError, match=r"ROI_MASK_HEAD.NAME is 'MaskRCNNConvUpsampleHead'"):
        set_up_run(mixed)


def test_a_test_set_without_all_masks_needs_the_key_before_training(mixed, monkeypatch):
    mixed.DATASETS.TEST = mixed.DATASETS.TRAIN
    set_up_run(mixed)  # to predict
    monkeypatch.setattr("mrcnn_ext.modeling.run_setup.trainer_being_built", lambda: object())
    expected = r"1 of 2 objects have no segm.* image 2, annotation 2. Set MRCNN_EXT.DATA.BOXES_ONLY"
    with pytest.raises(DataError, match=expected):
        set_up_run(mixed)
    evaluation = mixed.MRCNN_EXT.EVALUATION
    evaluation.ENABLED, evaluation.TASKS = True, ["bbox"]
    set_up_run(mixed)  # nothing is measured on masks
    evaluation.TASKS, mixed.MRCNN_EXT.DATA.BOXES_ONLY = [], True
    monkeypatch.setattr("mrcnn_ext.modeling.run_setup.extend_running_tool", lambda cfg: None)
    set_up_run(mixed)


@pytest.mark.parametrize(
    ("masked", "agnostic", "expected"),
    [
        ((), False, "No training object has a mask, so that the mask head learns nothing"),
        ((), True, "No training object has a mask"),
        ((0,), False, "No training object of 'cat', class 2 has a mask"),
        ((0,), True, None),
        ((0, 1, 2), False, None),
    ],
)
def test_classes_that_masks_are_not_learned_of_are_named(monkeypatch, masked, agnostic, expected):
    said: list[str] = []
    monkeypatch.setattr("mrcnn_ext.data.class_counts.logger.warning", said.append)
    monkeypatch.setattr(
        "mrcnn_ext.data.class_counts.MetadataCatalog",
        SimpleNamespace(get=lambda name: {"thing_classes": ["dog", "cat"]}),
    )
    square = [[1, 1, 4, 1, 4, 4]]
    objects = [
        {"category_id": k, "iscrowd": 0, **({"segmentation": square} if k in masked else {})}
        for k in (0, 1, 1, 2)
    ]
    crowd = {"category_id": 1, "iscrowd": 1, "segmentation": square}
    records = [{"annotations": objects}, {"annotations": [crowd]}, {}]
    warn_of_missing_masks(records, ["pets"], class_agnostic=agnostic)
    assert len(said) == (expected is not None)
    assert not expected or said[0].startswith(expected)


@pytest.mark.parametrize("masks", [False, True])
def test_a_loader_says_that_no_object_has_a_mask(mixed, tmp_path, monkeypatch, masks):
    said: list[str] = []
    monkeypatch.setattr("mrcnn_ext.data.class_counts.logger.warning", said.append)
    file = tmp_path / "mixed.json"
    content = json.loads(file.read_text())
    for annotation in content["annotations"] * (not masks):
        annotation.pop("segmentation", None)
    file.write_text(json.dumps(content))
    mixed.MRCNN_EXT.DATA.BOXES_ONLY, mixed.DATALOADER.NUM_WORKERS = True, 0
    set_up_run(mixed)
    train_loader_from_config(mixed)
    assert bool(said) == (not masks)


def test_the_value_of_the_key_is_checked(mixed):
    mixed.MRCNN_EXT.DATA.BOXES_ONLY = "yes"
    with pytest.raises(ConfigError, match=r"BOXES_ONLY is 'yes'; expected True or False"):
        check_data(mixed)


def test_the_check_of_data_tells_what_it_found(mixed, tmp_path, capsys):
    mixed.DATASETS.TEST = mixed.DATASETS.TRAIN
    for value, code in ((False, 1), (True, 0)):
        mixed.MRCNN_EXT.DATA.BOXES_ONLY = value
        file = tmp_path / "config.yaml"
        file.write_text(mixed.dump())
        assert check(["--config-file", str(file)]) == code
        text = " ".join(capsys.readouterr().out.split())
        assert ("segmentation-missing" in text) != value
        assert ("1 of 2 instances have a box and no mask" in text) == value
        assert ("masks learn from and are evaluated on the others" in text) == value


def test_the_check_of_data_looks_at_samplers_and_weights(mixed, tmp_path, capsys):
    data = mixed.MRCNN_EXT.DATA
    data.BOXES_ONLY, data.SAMPLER, mixed.MODEL.PIXEL_STD = True, "rare", [1.0, 1.0, 1.0]
    mixed.MRCNN_EXT.BOX_HEAD.CLASS_WEIGHTS = [["b", 2.0]]
    file = tmp_path / "config.yaml"
    file.write_text(mixed.dump())
    assert check(["--config-file", str(file)]) == 1
    text = " ".join(capsys.readouterr().out.split())
    assert "MRCNN_EXT.DATA.SAMPLER is 'rare'; expected" in text
    assert "MRCNN_EXT.BOX_HEAD.CLASS_WEIGHTS names 'b', which is no class" in text
    data.SAMPLER, mixed.MRCNN_EXT.BOX_HEAD.CLASS_WEIGHTS = "repeat_factor", [["a", 2.0]]
    file.write_text(mixed.dump())
    assert check(["--config-file", str(file)]) == 0


@pytest.mark.slow
@pytest.mark.skipif(not tool("train_net.py").is_file(), reason="Detectron2's tools are not there")
@pytest.mark.parametrize("command", ["train_net.py", "ours"])
def test_it_trains(mixed, tmp_path, command):
    given, mixed = mixed, timm_cfg("resnet18", fpn=True)  # with normalisation: it finds something
    mixed.MRCNN_EXT.DATA, mixed.DATASETS = given.MRCNN_EXT.DATA, given.DATASETS
    mixed.MODEL.ROI_HEADS.NUM_CLASSES = 1
    mixed.MODEL.ROI_MASK_HEAD.NAME = given.MODEL.ROI_MASK_HEAD.NAME
    mixed.MRCNN_EXT.DATA.BOXES_ONLY = True
    mixed.MODEL.DEVICE, mixed.SOLVER.MAX_ITER, mixed.SOLVER.IMS_PER_BATCH = "cpu", 3, 2
    mixed.INPUT.MIN_SIZE_TRAIN, mixed.DATALOADER.NUM_WORKERS = (96,), 0
    mixed.DATASETS.TEST, mixed.INPUT.MIN_SIZE_TEST = mixed.DATASETS.TRAIN, 96
    mixed.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    if command == "ours":
        mixed.MRCNN_EXT.EVALUATION.ENABLED = mixed.MRCNN_EXT.EVALUATION.VALIDATION_LOSS = True
    mixed.MRCNN_EXT.LOG.PERIOD = 1
    mixed.OUTPUT_DIR = str(tmp_path / "out")
    file = tmp_path / "config.yaml"
    file.write_text(mixed.dump())
    start = ["-m", "mrcnn_ext.train"] if command == "ours" else [tool(command)]
    env = {"DETECTRON2_ENV_MODULE": "mrcnn_ext.d2_env", "PYTHONPATH": str(REPO)}
    done = run_python(["-W", "ignore", *start, "--config-file", file], env=env)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    lines = (tmp_path / "out" / "metrics.json").read_text().splitlines()
    found: dict = {}
    for line in lines:
        found.update(json.loads(line))
    assert "loss_mask" in found
    assert found["segm/without_mask"] == 1
    assert found["bbox/AP"] >= 0
    assert ("validation/loss_mask" in found) == (command == "ours")
    text = done.stdout + done.stderr
    assert "1 of 2 objects have a box and no mask" in text
    if command == "train_net.py":
        assert "Detectron2's evaluator cannot take" in text


@pytest.mark.slow
@pytest.mark.skipif(not tool("train_net.py").is_file(), reason="Detectron2's tools are not there")
def test_a_lazy_config_of_ours_evaluates_in_detectron2s_script(mixed, tmp_path):
    name, file, images = mixed.MRCNN_EXT.DATA.DATASETS[0]
    config = tmp_path / "mine.py"
    config.write_text(
        "from detectron2.config import LazyConfig\n"
        "from mrcnn_ext.data import register_coco\n"
        f"register_coco({name!r}, {file!r}, {images!r})\n"
        f"cfg = LazyConfig.load({str(LAZY)!r})\n"
        "model, dataloader, train = cfg.model, cfg.dataloader, cfg.train\n"
        "optimizer, lr_multiplier = cfg.optimizer, cfg.lr_multiplier\n"
        f"dataloader.train.dataset.names = dataloader.test.dataset.names = {name!r}\n"
        "dataloader.train.mapper.boxes_only = True\n"
        "dataloader.test.num_workers, train.device, train.init_checkpoint = 0, 'cpu', ''\n"
        "model.roi_heads.num_classes = model.roi_heads.box_predictor.num_classes = 1\n"
        "model.roi_heads.box_predictor.test_score_thresh = 0.0\n"
        f"train.output_dir = {str(tmp_path / 'out')!r}\n"
    )
    start = [
        "-W",
        "ignore",
        tool("lazyconfig_train_net.py"),
        "--eval-only",
        "--config-file",
        config,
    ]
    done = run_python(start, env={"PYTHONPATH": str(REPO)})
    text = done.stdout + done.stderr
    assert done.returncode == 0, text[-3000:]
    assert "that of mrcnn_ext does it instead" in text
    assert "1 of 2 objects have a box and no mask" in text
