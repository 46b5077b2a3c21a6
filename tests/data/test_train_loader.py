# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Training data by config: from the keys to batches, in trainers that know them and that do not."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, DatasetMapper, build_detection_train_loader
from detectron2.engine import DefaultTrainer
from detectron2.utils.env import seed_all_rng

from mrcnn_ext.config.check_data import check_data, set_data_keys
from mrcnn_ext.data import TrainingMapper, build_train_loader, register_datasets
from mrcnn_ext.data.augmentation import augmentations_from_config, build_augmentations
from mrcnn_ext.data.train_loader import train_loader_from_config
from mrcnn_ext.engine import Trainer
from mrcnn_ext.errors import ConfigError
from tests.data.augmentation_cases import FLIP_INDICES, record
from tests.engine.training_cases import LossTrainer, linear_cfg
from tests.helpers import REPO, run_python, small_cfg, tool

ENTRIES = [["ScaleJitter", {"size": 64, "scale": [0.5, 1.5]}], "HorizontalFlip",
           ["CopyPaste", {"scale": None}], "Noise"]  # fmt: skip


def _same(first: dict, second: dict, but: tuple = ()) -> None:
    assert first.keys() == second.keys()
    assert torch.equal(first["image"], second["image"])
    a, b = first["instances"], second["instances"]
    assert a.get_fields().keys() == b.get_fields().keys()
    assert torch.equal(a.gt_boxes.tensor, b.gt_boxes.tensor)
    assert torch.equal(a.gt_classes, b.gt_classes)
    if a.has("gt_keypoints"):
        assert torch.equal(a.gt_keypoints.tensor, b.gt_keypoints.tensor)
    if hasattr(a.gt_masks, "polygons"):
        pairs = zip(a.gt_masks.polygons, b.gt_masks.polygons)
        assert all((p == q).all() for one, other in pairs for p, q in zip(one, other))
    else:
        assert torch.equal(a.gt_masks.tensor, b.gt_masks.tensor)


@pytest.mark.parametrize("entries", [[], ["Default"]])
@pytest.mark.parametrize(
    ("form", "mask_format"), [("polygon", "polygon"), ("polygon", "bitmask"), ("rle", "bitmask")]
)
def test_detectron2s_augmentations_give_detectron2s_sample(
    tmp_path, monkeypatch, entries, form, mask_format
):
    monkeypatch.setattr(
        "detectron2.data.detection_utils.create_keypoint_hflip_indices", lambda _: FLIP_INDICES
    )
    cfg = small_cfg()
    cfg.INPUT.MASK_FORMAT, cfg.MODEL.KEYPOINT_ON = mask_format, True
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (100, 140), 180
    cfg.MRCNN_EXT.DATA.AUGMENTATIONS = entries
    cfg.INPUT.CROP.ENABLED = form == "rle"  # polygons would need shapely there
    ours, theirs = TrainingMapper(cfg, True), DatasetMapper(cfg, True)
    for seed in range(6):
        entry = record(tmp_path, form, seed % 2)
        entry["annotations"][0]["keypoints"][2] = 0
        np.random.seed(seed)
        expected = theirs(entry)
        np.random.seed(seed)
        _same(ours(entry), expected)


def test_for_evaluation_it_is_detectron2s(tmp_path):
    entry = record(tmp_path, "rle")
    cfg = small_cfg()
    out, expected = TrainingMapper(cfg, False)(entry), DatasetMapper(cfg, False)(entry)
    assert out.keys() == expected.keys()
    assert torch.equal(out["image"], expected["image"])


def test_keys_are_checked():
    cfg = small_cfg()
    assert set_data_keys(cfg) == []
    check_data(cfg)
    cfg.MRCNN_EXT.DATA.AUGMENTATIONS = ["Noise"]
    assert set_data_keys(cfg) == ["MRCNN_EXT.DATA.AUGMENTATIONS"]
    cfg.MRCNN_EXT.DATA.MIN_AREA_LEFT = -1.0
    with pytest.raises(ConfigError, match=r"MIN_AREA_LEFT is -1\.0; expected a number of pixels"):
        check_data(cfg)
    cfg.MRCNN_EXT.DATA.AUGMENTATIONS, cfg.INPUT.MASK_FORMAT = ["CopyPaste"], "polygon"
    with pytest.raises(ConfigError, match=r"MASK_FORMAT is 'polygon', but CopyPaste .*'bitmask'"):
        augmentations_from_config(cfg)
    cfg.INPUT.MASK_FORMAT, cfg.MODEL.LOAD_PROPOSALS = "bitmask", True
    with pytest.raises(ConfigError, match=r"MODEL\.LOAD_PROPOSALS"):
        augmentations_from_config(cfg)


def _batches(cfg, number: int) -> list[dict]:
    seed_all_rng(3)
    loader = train_loader_from_config(cfg)
    return [item for batch in itertools.islice(iter(loader), number) for item in batch]


@pytest.fixture
def cfg(tmp_path):
    cfg = linear_cfg(tmp_path)
    cfg.MRCNN_EXT.DATA.AUGMENTATIONS = ENTRIES
    register_datasets(cfg)
    return cfg


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_the_same_seed_gives_the_same_batches(cfg, workers):
    cfg.DATALOADER.NUM_WORKERS = workers
    first, second = _batches(cfg, 3), _batches(cfg, 3)
    for a, b in zip(first, second):
        _same(a, b)
    assert len({float(item["image"].float().mean()) for item in first}) == len(first)


def _losses(cfg, trainer_class) -> list[float]:
    seed_all_rng(3)
    trainer = trainer_class(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    return trainer.losses


def test_a_scripts_trainer_follows_and_so_does_ours(cfg):
    """A data key alone extends the script's trainer; samples are not those of Detectron2."""

    class Script(LossTrainer):
        pass

    class Own(LossTrainer, Trainer):
        pass

    first = _losses(cfg, Script)
    assert _losses(cfg, Own) == first
    cfg.MRCNN_EXT.DATA.AUGMENTATIONS = []

    class Plain(LossTrainer):
        pass

    assert _losses(cfg, Plain) != first


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_exact_resume_has_the_samples_of_their_positions(cfg, workers):
    cfg.MRCNN_EXT.RESUME.EXACT, cfg.DATALOADER.NUM_WORKERS = True, workers
    loaders = [Trainer.build_train_loader(cfg) for _ in range(2)]
    loaders[1].start = 2
    whole = list(itertools.islice(iter(loaders[0]), 4))
    rest = list(itertools.islice(iter(loaders[1]), 2))
    for a, b in zip(itertools.chain(*whole[2:]), itertools.chain(*rest)):
        _same(a, b)


def test_a_loader_of_the_scripts_own_is_an_error(cfg):
    class Script(LossTrainer):
        @classmethod
        def build_train_loader(cls, cfg):
            return build_detection_train_loader(cfg)

    with pytest.raises(ConfigError, match=r"DATA\.AUGMENTATIONS is set, but .*Script has a build_"):
        Script(cfg)


def test_a_trainer_that_cannot_be_extended_is_an_error(cfg):
    with pytest.raises(ConfigError, match=r"DATA\.AUGMENTATIONS is set, but .*DefaultTrainer does"):
        DefaultTrainer(cfg)


def test_a_mistake_ends_before_training(cfg):
    cfg.MRCNN_EXT.DATA.AUGMENTATIONS = ["Noize"]

    class Script(LossTrainer):
        pass

    with pytest.raises(ConfigError, match=r"AUGMENTATIONS\[0\] is 'Noize'; similar: Noise"):
        Script(cfg)


def test_a_lazy_config_gives_the_data_set_to_the_mapper(cfg):
    records = DatasetCatalog.get("mrcnn_ext_shapes_train")
    mapper = TrainingMapper(
        True, augmentations=build_augmentations(ENTRIES), image_format="RGB",
        use_instance_mask=True, instance_mask_format="bitmask",
    )  # fmt: skip
    loader = build_train_loader(dataset=records, mapper=mapper, total_batch_size=2)
    assert len(mapper.dataset) == len(records)
    (batch,) = itertools.islice(iter(loader), 1)
    assert [item["image"].shape for item in batch] == [(3, 64, 64)] * 2
    # Detectron2's mapper is as good as without.
    build_train_loader(dataset=records, mapper=DatasetMapper(cfg, True), total_batch_size=2)


# ------------------------------------------------------------------------------ in processes

YAML = REPO / "configs" / "Shapes" / "pose_Lite0_FPN_copy_paste.yaml"
LAZY = REPO / "configs" / "Shapes" / "mask_rcnn_Lite0_FPN_copy_paste.py"
TINY = """
    MODEL.ROI_BOX_HEAD.FC_DIM 32 MODEL.RPN.POST_NMS_TOPK_TEST 20
    MRCNN_EXT.SHAPES.NUM_TRAIN 6 MRCNN_EXT.SHAPES.NUM_VAL 2 MRCNN_EXT.SHAPES.IMAGE_SIZE 96
    SOLVER.IMS_PER_BATCH 2 SOLVER.MAX_ITER 3 SOLVER.STEPS () SOLVER.WARMUP_ITERS 1
    SOLVER.BASE_LR 0.0001 TEST.EVAL_PERIOD 0 SEED 4 DATALOADER.NUM_WORKERS 2
    MRCNN_EXT.LOG.PERIOD 1
""".split()


def _metrics(command, output, *opts, env=None) -> list[dict]:
    whole = ["-W", "ignore", *command, "--config-file", YAML, "MODEL.WEIGHTS", "", *TINY, *opts]
    result = run_python([*whole, "OUTPUT_DIR", output], env=env)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    lines = map(json.loads, (output / "metrics.json").read_text().splitlines())
    return [{k: v for k, v in line.items() if "loss" in k} for line in lines]


@pytest.mark.slow
@pytest.mark.skipif(not tool("train_net.py").is_file(), reason="Detectron2's tools are not there")
@pytest.mark.parametrize("opts", [(), ("MRCNN_EXT.RESUME.EXACT", "True")])
def test_train_net_and_our_command_train_on_the_same_samples(tmp_path, opts):
    hook = {"DETECTRON2_ENV_MODULE": "mrcnn_ext.d2_env"}
    first = _metrics([tool("train_net.py")], tmp_path / "train_net", *opts, env=hook)
    assert first
    assert {"loss_mask", "loss_keypoint"} <= first[0].keys()
    assert _metrics(["-m", "mrcnn_ext.train"], tmp_path / "train", *opts) == first
    other = ["MRCNN_EXT.DATA.AUGMENTATIONS", "['Default']"]
    assert _metrics(["-m", "mrcnn_ext.train"], tmp_path / "default", *opts, *other) != first


@pytest.mark.slow
@pytest.mark.skipif(not tool("train_net.py").is_file(), reason="Detectron2's tools are not there")
@pytest.mark.parametrize("which", ["ours", "lazyconfig_train_net.py"])
def test_a_lazy_config_trains(tmp_path, which):
    (tmp_path / "mine.py").write_text(
        "from detectron2.config import LazyConfig\n"
        "from mrcnn_ext.data.shapes import configure_builtin_shapes\n"
        "configure_builtin_shapes(num_train=6, num_val=2, image_size=96)\n"
        f"cfg = LazyConfig.load({str(LAZY)!r})\n"
        "model, dataloader, train = cfg.model, cfg.dataloader, cfg.train\n"
        "optimizer, lr_multiplier = cfg.optimizer, cfg.lr_multiplier\n"
    )
    command = ["-m", "mrcnn_ext.train"] if which == "ours" else [tool(which)]
    settings = [
        f"train.output_dir={tmp_path / 'out'}", "train.max_iter=2", "train.eval_period=0",
        "train.init_checkpoint=''", "optimizer.lr=0.0001", "train.checkpointer.period=100",
    ]  # fmt: skip
    if which == "ours":
        settings.append("train.exact_resume=True")
    result = run_python(
        ["-W", "ignore", *command, "--config-file", tmp_path / "mine.py", *settings]
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    assert (tmp_path / "out" / "model_final.pth").is_file()
