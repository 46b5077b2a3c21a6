# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""How often images are drawn: against brute force and Detectron2, in loaders, and what is refused."""

from __future__ import annotations

import itertools
import json
import logging
import math
import re
import time
from collections import Counter

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.samplers import RepeatFactorTrainingSampler
from detectron2.utils.env import seed_all_rng
from hypothesis import given, settings
from hypothesis import strategies as st

from mrcnn_ext.config.check_data import SAMPLERS, check_data, set_data_keys
from mrcnn_ext.data import build_train_loader
from mrcnn_ext.data.samplers import (
    ClassBalancedSampling,
    ClassBalancedTrainingSampler,
    HeldClasses,
    RepeatFactorSampling,
    build,
    class_factors,
    image_factors,
)
from mrcnn_ext.data.train_loader import train_loader_from_config
from mrcnn_ext.engine import Trainer
from mrcnn_ext.errors import ConfigError, DataError
from tests.engine.training_cases import LossTrainer, linear_cfg
from tests.helpers import REPO, run_python, tool

NAME = "mrcnn_ext_test_samplers"


def _records(labels: list[list[int]], crowds: tuple = ()) -> list[dict]:
    """One record for each list of classes; in those of ``crowds``, objects are crowds."""
    return [
        {
            "file_name": f"{i}.jpg",
            "width": 10 + i % 3,
            "height": 11,
            "annotations": [{"category_id": k, "iscrowd": int(i in crowds)} for k in row],
        }
        for i, row in enumerate(labels)
    ]


labels_of_images = st.lists(
    st.lists(st.integers(0, 5), max_size=6), min_size=1, max_size=15
).filter(lambda rows: any(rows))


# ---- Factors -----------------------------------------------------------------------------------


def _by_hand(labels: list[list[int]], threshold: float, frequency: str) -> list[float]:
    total = sum(map(len, labels))
    factors = {}
    for k in {k for row in labels for k in row}:
        images = sum(k in row for row in labels) / len(labels)
        objects = sum(row.count(k) for row in labels) / total
        f = {"images": images, "instances": objects, "both": (images * objects) ** 0.5}[frequency]
        factors[k] = max(1.0, math.sqrt(threshold / f))
    return [max((factors[k] for k in row), default=1.0) for row in labels]


@settings(max_examples=40)
@given(labels_of_images, st.floats(0.001, 1), st.sampled_from(["images", "instances", "both"]))
def test_factors_are_those_of_the_definition(labels, threshold, frequency):
    held = HeldClasses.of_records(_records(labels))
    found = image_factors(held, class_factors(held, threshold, frequency))
    np.testing.assert_allclose(found, _by_hand(labels, threshold, frequency), rtol=1e-12)


@settings(max_examples=40)
@given(labels_of_images, st.floats(0.001, 1))
def test_with_frequencies_of_images_they_are_detectron2s_to_the_bit(labels, threshold):
    records = _records(labels)
    held = HeldClasses.of_records(records)
    found = image_factors(held, class_factors(held, threshold, "images"))
    theirs = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(records, threshold)
    assert torch.equal(torch.from_numpy(found).to(torch.float32), theirs)


def test_crowds_do_not_count_and_neither_does_a_class_without_images():
    held = HeldClasses.of_records(_records([[0, 0], [1], [2], []], crowds=(1,)))
    assert held.names == ["0", "1", "2"]
    assert held.images_of_class.tolist() == [1, 0, 1]
    assert held.objects_of_class.tolist() == [2, 0, 1]
    assert class_factors(held, 1.0, "images").tolist() == [2, 1, 2]


@pytest.mark.slow
def test_a_hundred_thousand_images_take_less_than_two_seconds():
    rng = np.random.default_rng(0)
    records = _records(rng.integers(0, 80, (100_000, 8)).tolist())
    for sampling in (RepeatFactorSampling(threshold=0.1), ClassBalancedSampling()):
        start = time.process_time()
        sampling(records)
        assert time.process_time() - start < 2


# ---- Streams of indices ------------------------------------------------------------------------


def _first(sampler, number: int) -> list[int]:
    return list(itertools.islice(sampler, number))


def test_a_seed_gives_detectron2s_stream():
    labels = [[0], [0, 1], [0], [2], [0], [], [0], [0]]
    ours = RepeatFactorSampling(threshold=0.9, frequency="images", seed=3)(_records(labels))
    factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
        _records(labels), 0.9
    )
    assert factors.max() > 2
    theirs = RepeatFactorTrainingSampler(factors, seed=3)
    assert _first(ours, 500) == _first(theirs, 500)


def test_each_class_comes_equally_often_and_each_of_its_images():
    # Class 0 in 6 images, class 1 in 2, class 2 in 1 that holds class 0, too; 3 of 12 without objects.
    labels = [[0]] * 5 + [[0, 2, 2]] + [[1]] * 2 + [[3], [], [], []]
    sampler = ClassBalancedSampling(seed=0)(_records(labels))
    number = 12_000
    counts = np.bincount(_first(sampler, number), minlength=len(labels)) / number
    each = (1 - 3 / 12) / 4
    expected = [each / 6] * 5 + [each / 6 + each] + [each / 2] * 2 + [each] + [1 / 12] * 3
    np.testing.assert_allclose(counts, expected, atol=5 * (0.25 / number) ** 0.5)


def test_images_of_a_class_come_once_before_one_comes_again():
    sampler = ClassBalancedTrainingSampler([[3, 5, 8], [1, 2]], [0.5, 0.5], seed=1)
    drawn = _first(sampler, 400)
    for group in ({3, 5, 8}, {1, 2}):
        own = [i for i in drawn if i in group]
        rounds = [own[i : i + len(group)] for i in range(0, len(own) - len(group), len(group))]
        assert all(set(turn) == group for turn in rounds)
        assert len({tuple(turn) for turn in rounds}) > 1  # in another order


@pytest.mark.parametrize("sampling", [RepeatFactorSampling, ClassBalancedSampling])
def test_processes_share_one_stream(sampling, monkeypatch):
    records = _records([[0], [0, 1], [0], [2], [0], []])
    whole = _first(sampling(seed=5)(records), 90)
    assert whole == _first(sampling(seed=5)(records), 90)
    assert whole != _first(sampling(seed=6)(records), 90)
    monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 3)
    for rank in range(3):
        monkeypatch.setattr("detectron2.utils.comm.get_rank", lambda rank=rank: rank)
        assert _first(sampling(seed=5)(records), 30) == whole[rank::3]


# ---- Loaders -----------------------------------------------------------------------------------


def _cfg(tmp_path, sampler: str, records: list[dict], **data):
    """A config whose training set is ``records``; a mapper of the tests takes them."""
    DatasetCatalog.register(NAME, lambda: records)
    MetadataCatalog.get(NAME).set(thing_classes=["often", "seldom", "never"])
    cfg = linear_cfg(tmp_path)
    cfg.DATASETS.TRAIN, cfg.MODEL.ROI_HEADS.NUM_CLASSES = (NAME,), 3
    cfg.MRCNN_EXT.DATA.SAMPLER = sampler
    cfg.MRCNN_EXT.DATA.SAMPLER_THRESHOLD = 0.5
    for key, value in data.items():
        cfg.MRCNN_EXT.DATA[key] = value
    return cfg


LABELS = [[0]] * 6 + [[1], [0, 1]] + [[]] * 4


@pytest.fixture
def build_cfg(tmp_path, monkeypatch):
    def name_only(self, record):
        return {**record, "image": torch.full((3, 4, 4), 10.0)}

    monkeypatch.setattr("mrcnn_ext.data.train_loader.TrainingMapper.__call__", name_only)

    def made(sampler: str, labels: list[list[int]] = LABELS, **data):
        return _cfg(tmp_path, sampler, _records(labels), **data)

    yield made
    DatasetCatalog.pop(NAME, None)
    MetadataCatalog.pop(NAME)


def _names(batches, number: int) -> list[str]:
    return [
        item["file_name"] for batch in itertools.islice(iter(batches), number) for item in batch
    ]


@pytest.mark.parametrize("negatives", [0.0, 0.2])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_loader_draws_as_the_key_says(build_cfg, sampler, negatives):
    cfg = build_cfg(sampler, NEGATIVES=negatives)
    assert "MRCNN_EXT.DATA.SAMPLER" in set_data_keys(cfg)
    check_data(cfg)
    seed_all_rng(3)
    names = _names(train_loader_from_config(cfg), 300)
    seed_all_rng(3)
    assert names == _names(train_loader_from_config(cfg), 300)
    counts = Counter(names)
    without = [name for name in counts if int(name[:-4]) >= 8]
    assert len(without) == (2 if negatives else 0)
    seldom = counts["6.jpg"] + counts["7.jpg"]
    # Of 8 images with objects, 2 hold the rare class.
    assert seldom / 600 > 1.2 * 2 / (8 + len(without))
    if sampler == "class_balanced":
        assert seldom / 600 >= 0.5 * (1 - len(without) / (8 + len(without))) - 0.05


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("sampler", [*SAMPLERS, "RepeatFactorTrainingSampler"])
def test_exact_resume_goes_on_with_the_same_images(build_cfg, sampler, workers):
    cfg = build_cfg(sampler if sampler in SAMPLERS else "", NEGATIVES=0.2)
    if sampler not in SAMPLERS:
        cfg.DATALOADER.SAMPLER_TRAIN, cfg.DATALOADER.REPEAT_THRESHOLD = sampler, 0.5
    cfg.MRCNN_EXT.RESUME.EXACT, cfg.DATALOADER.NUM_WORKERS = True, workers
    seed_all_rng(1)
    whole = _names(Trainer.build_train_loader(cfg), 20)
    seed_all_rng(2)  # states do not matter
    later = Trainer.build_train_loader(cfg)
    later.start = 13
    assert _names(later, 7) == whole[26:]


@pytest.mark.parametrize("sampler", ["", *SAMPLERS])
def test_detectron2s_sampler_and_ours_train_with_accumulation(build_cfg, sampler):
    cfg = build_cfg(sampler, NEGATIVES=0.2)
    if not sampler:
        cfg.DATALOADER.SAMPLER_TRAIN = "RepeatFactorTrainingSampler"
        cfg.DATALOADER.REPEAT_THRESHOLD = 0.5
    cfg.MRCNN_EXT.SOLVER.ACCUMULATE, cfg.SOLVER.MAX_ITER = 2, 2

    class Script(LossTrainer):
        pass

    trainer = Script(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    assert len(trainer.losses) == 2


def test_detectron2s_sampler_sees_the_images_that_stay(build_cfg):
    cfg = build_cfg("", NEGATIVES=0.2)
    cfg.DATALOADER.SAMPLER_TRAIN = "RepeatFactorTrainingSampler"
    cfg.DATALOADER.REPEAT_THRESHOLD = 0.8
    loader = train_loader_from_config(cfg)
    sampler = loader.dataset.dataset.sampler
    kept = _records([row for row in LABELS if row] + [[], []])
    expected = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(kept, 0.8)
    assert torch.equal(sampler._int_part + sampler._frac_part, expected)
    if "REPEAT_SQRT" in cfg.DATALOADER:  # Detectron2's main
        cfg.DATALOADER.REPEAT_SQRT = False
        sampler = train_loader_from_config(cfg).dataset.dataset.sampler
        assert torch.allclose(sampler._int_part + sampler._frac_part, expected.square())


def test_a_lazy_config_says_how_where_the_loader_is():
    records = _records(LABELS[:8])
    for sampling in (
        RepeatFactorSampling(threshold=0.9, seed=2),
        ClassBalancedSampling(seed=2),
    ):
        loader = build_train_loader(
            list(records), mapper=dict, sampler=sampling, total_batch_size=2
        )
        again = sampling(records)
        wide = [record["width"] > record["height"] for record in records]
        drawn = [int(name[:-4]) for name in _names(loader, 20)]
        assert all(wide[a] == wide[b] for a, b in zip(drawn[::2], drawn[1::2]))
        assert set(drawn) <= set(_first(again, 100))


# ---- Messages ----------------------------------------------------------------------------------


@pytest.fixture
def caplog_of_detectron2(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("detectron2"), "propagate", True)
    caplog.set_level(logging.INFO, logger="detectron2.mrcnn_ext.data.samplers")
    return caplog


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_factors_are_logged_once_and_a_class_without_images_is_named(
    build_cfg, sampler, caplog_of_detectron2
):
    train_loader_from_config(build_cfg(sampler, SAMPLER_FREQUENCY="images"))
    records = [r for r in caplog_of_detectron2.records if "samplers" in r.name]
    info, warning = (r.getMessage() for r in records)
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in info.splitlines()[1:]]
    factors = {"repeat_factor": ["1.41", "1"], "class_balanced": ["2", "0.571"]}[sampler]
    assert rows[0] == ["class", "images", "instances", "factor"]
    assert rows[2:] == [["seldom", "2", "2", factors[0]], ["often", "7", "7", factors[1]]]
    assert warning == "No training image holds 'never': no sampler can draw it."


def test_a_threshold_that_repeats_nothing_is_said(caplog_of_detectron2):
    RepeatFactorSampling(threshold=0.01)(_records(LABELS))
    (warning,) = [r.getMessage() for r in caplog_of_detectron2.records if r.levelname == "WARNING"]
    assert "All repeat factors are 1" in warning


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("SAMPLER", "repeat", "'' or 'repeat_factor' or 'class_balanced'"),
        ("SAMPLER", None, "'' or 'repeat_factor' or 'class_balanced'"),
        ("SAMPLER_THRESHOLD", 0.0, "more than 0 and at most 1"),
        ("SAMPLER_THRESHOLD", 1.5, "more than 0 and at most 1"),
        ("SAMPLER_THRESHOLD", float("nan"), "more than 0 and at most 1"),
        ("SAMPLER_THRESHOLD", None, "more than 0 and at most 1"),
        ("SAMPLER_FREQUENCY", "objects", "'images' or 'instances' or 'both'"),
    ],
)
def test_a_wrong_value_is_named(tmp_path, key, value, expected):
    cfg = linear_cfg(tmp_path)
    cfg.MRCNN_EXT.DATA[key] = value
    with pytest.raises(ConfigError) as error:
        check_data(cfg)
    assert f"MRCNN_EXT.DATA.{key} is {value!r}; expected " in str(error.value)
    assert expected in str(error.value)


def test_two_samplers_are_one_too_many(tmp_path):
    cfg = linear_cfg(tmp_path)
    cfg.MRCNN_EXT.DATA.SAMPLER = "class_balanced"
    cfg.DATALOADER.SAMPLER_TRAIN = "RepeatFactorTrainingSampler"
    expected = r"DATA\.SAMPLER is 'class_balanced', and DATALOADER\.SAMPLER_TRAIN is 'RepeatFactor"
    with pytest.raises(ConfigError, match=expected):
        check_data(cfg)
    cfg.MRCNN_EXT.DATA.SAMPLER = ""
    check_data(cfg)
    cfg.MRCNN_EXT.DATA.NEGATIVES, cfg.DATALOADER.SAMPLER_TRAIN = 0.1, "WeightedTrainingSampler"
    with pytest.raises(ConfigError, match=r"'WeightedTrainingSampler', which knows nothing .*NEGA"):
        check_data(cfg)


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([{"file_name": "a.jpg"}], r"image a\.jpg has no 'annotations'"),
        (_records([[0], [7]]), r"image 1\.jpg has an object of class 7; expected one of 0 … 2"),
        (_records([[-1]]), r"image 0\.jpg has an object of class -1; expected one of 0 … 2"),
        (_records([[0], ["1"]]), r"image 1\.jpg has an object of class '1'; expected"),
        (_records([[], []]), r"none of 2 training images of '.*' holds an object.*DATA\.SAMPLER"),
    ],
)
def test_records_that_cannot_be_counted(records, expected):
    MetadataCatalog.get(NAME).set(thing_classes=["often", "seldom", "never"])
    try:
        for sampling in (RepeatFactorSampling, ClassBalancedSampling):
            with pytest.raises(DataError, match=expected):
                sampling(dataset_names=NAME)(records)
    finally:
        MetadataCatalog.pop(NAME)


def test_arguments_and_data_sets_that_do_not_fit(tmp_path):
    with pytest.raises(ConfigError, match=r"threshold of repeat factors is 2; expected"):
        RepeatFactorSampling(threshold=2)
    with pytest.raises(ConfigError, match=r"frequency of repeat factors is 'all'; expected one of"):
        RepeatFactorSampling(frequency="all")
    cfg = linear_cfg(tmp_path)
    cfg.MRCNN_EXT.DATA.SAMPLER = "class_balanced"
    with pytest.raises(
        ConfigError, match=r"SAMPLER is 'class_balanced', but the training set is a"
    ):
        build.sampler_from_config(cfg, torch.utils.data.Dataset())


def test_every_name_has_its_sampler():
    assert set(build._MAKERS) == set(SAMPLERS)


# ---- In processes ------------------------------------------------------------------------------

SHAPES = REPO / "configs" / "Shapes"
TINY = """
    MODEL.WEIGHTS '' MODEL.ROI_BOX_HEAD.FC_DIM 32 MODEL.RPN.POST_NMS_TOPK_TEST 20
    MRCNN_EXT.SHAPES.NUM_TRAIN 6 MRCNN_EXT.SHAPES.NUM_VAL 2 MRCNN_EXT.SHAPES.IMAGE_SIZE 96
    SOLVER.IMS_PER_BATCH 2 SOLVER.MAX_ITER 3 SOLVER.STEPS () SOLVER.WARMUP_ITERS 1
    SOLVER.BASE_LR 0.0001 TEST.EVAL_PERIOD 0 SEED 4 DATALOADER.NUM_WORKERS 2
    MRCNN_EXT.LOG.PERIOD 1
""".split()


def _run(command: list, config, *opts, env=None) -> str:
    done = run_python(["-W", "ignore", *command, "--config-file", config, *opts], env=env)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def _metrics(output) -> list[dict]:
    lines = map(json.loads, (output / "metrics.json").read_text().splitlines())
    losses = [{k: v for k, v in line.items() if "loss" in k} for line in lines]
    return [line for line in losses if line]  # the last evaluation has a line of its own


@pytest.mark.slow
@pytest.mark.skipif(not tool("train_net.py").is_file(), reason="Detectron2's tools are not there")
@pytest.mark.parametrize(
    "opts",
    [
        (),
        ("MRCNN_EXT.RESUME.EXACT", "True", "MRCNN_EXT.DATA.SAMPLER", "class_balanced"),
        ("MRCNN_EXT.SOLVER.ACCUMULATE", "2", "MRCNN_EXT.DATA.SAMPLER", "class_balanced"),
    ],
)
def test_train_net_and_our_command_draw_and_weigh_the_same(tmp_path, opts):
    config, hook = SHAPES / "mask_rcnn_Lite0_FPN_rare_classes.yaml", "mrcnn_ext.d2_env"
    opts, outputs = [o.strip("'") for o in (*TINY, *opts)], [tmp_path / "a", tmp_path / "b"]
    text = _run([tool("train_net.py")], config, *opts, "OUTPUT_DIR", outputs[0],
                env={"DETECTRON2_ENV_MODULE": hook})  # fmt: skip
    assert len(re.findall(r"\| class +\| +images \| +instances \| +factor \|", text)) == 1
    assert "Weights of the mask loss: " in text
    assert "Weights of the classification loss: " in text
    _run(["-m", "mrcnn_ext.train"], config, *opts, "OUTPUT_DIR", outputs[1])
    first, second = map(_metrics, outputs)
    assert len(first) == 3
    assert first == second
    without = ["MRCNN_EXT.MASK_HEAD.CLASS_WEIGHTS", "[]", "OUTPUT_DIR", tmp_path / "c"]
    _run(["-m", "mrcnn_ext.train"], config, *opts, *without)
    assert _metrics(tmp_path / "c")[0]["loss_mask"] != first[0]["loss_mask"]


@pytest.mark.slow
@pytest.mark.skipif(not tool("train_net.py").is_file(), reason="Detectron2's tools are not there")
@pytest.mark.parametrize("which", ["ours", "lazyconfig_train_net.py"])
def test_a_lazy_config_draws_and_weighs(tmp_path, which):
    config = SHAPES / "mask_rcnn_Lite0_FPN_rare_classes.py"
    (tmp_path / "mine.py").write_text(
        "from detectron2.config import LazyConfig\n"
        "from mrcnn_ext.data.shapes import configure_builtin_shapes\n"
        "configure_builtin_shapes(num_train=6, num_val=2, image_size=96)\n"
        f"cfg = LazyConfig.load({str(config)!r})\n"
        "model, dataloader, train = cfg.model, cfg.dataloader, cfg.train\n"
        "optimizer, lr_multiplier = cfg.optimizer, cfg.lr_multiplier\n"
    )
    settings = [
        f"train.output_dir={tmp_path / 'out'}", "train.max_iter=2", "train.eval_period=0",
        "train.init_checkpoint=''", "optimizer.lr=0.0001", "train.checkpointer.period=100",
    ]  # fmt: skip
    command = [tool(which)]
    if which == "ours":
        command = ["-m", "mrcnn_ext.train"]
        settings.append("train.exact_resume=True")
    text = _run(command, tmp_path / "mine.py", *settings)
    assert (tmp_path / "out" / "model_final.pth").is_file()
    for part in (
        "| factor |",
        "Weights of the mask loss: ",
        "Weights of the classification loss: ",
    ):
        assert part in re.sub(" +", " ", text)


@pytest.mark.slow
@pytest.mark.skipif(not tool("train_net.py").is_file(), reason="Detectron2's tools are not there")
def test_a_name_that_is_no_class_ends_train_net_before_it_reads_data(tmp_path):
    config = SHAPES / "mask_rcnn_Lite0_FPN_rare_classes.yaml"
    opts = [o.strip("'") for o in TINY]
    wrong = ["MRCNN_EXT.BOX_HEAD.CLASS_WEIGHTS", "[['gears', 2.0]]", "OUTPUT_DIR", tmp_path]
    for command in ([tool("train_net.py")], ["-m", "mrcnn_ext.train"]):
        done = run_python(
            ["-W", "ignore", *command, "--config-file", config, *opts, *wrong],
            env={"DETECTRON2_ENV_MODULE": "mrcnn_ext.d2_env"},
        )
        assert done.returncode != 0
        assert "CLASS_WEIGHTS names 'gears', which is no class" in done.stderr
        assert "similar: gear" in done.stderr
