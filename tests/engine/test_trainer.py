# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""What ``MRCNN_EXT`` adds to a trainer: nothing without its keys, all of it by either way."""

from __future__ import annotations

import sys
import types

import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.engine import DefaultTrainer, TrainerBase
from detectron2.evaluation import COCOEvaluator, DatasetEvaluators
from detectron2.modeling import build_model

from mrcnn_ext.checkpoint.training_checkpointer import TrainingCheckpointer
from mrcnn_ext.engine import ExactLoader, ExactResume, Trainer, TrainerMixin
from mrcnn_ext.engine.running import trainer_being_built
from mrcnn_ext.errors import ConfigError
from mrcnn_ext.evaluation.default_evaluators import default_evaluator
from tests.engine.training_cases import LossTrainer, linear_cfg
from tests.helpers import small_cfg


def _losses(trainer_class, cfg):
    torch.manual_seed(0)
    trainer = trainer_class(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    return trainer.losses


class Mixed(TrainerMixin, LossTrainer):
    pass


def _script_trainer(monkeypatch, base=LossTrainer):
    """A class of a script that runs, which knows nothing of this package."""
    module = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", module)
    made = type("Trainer", (base,), {"__module__": "__main__"})
    module.Trainer = made
    return made


@pytest.fixture
def seeded():
    """Detectron2's samplers draw their seed from NumPy's generator."""
    import numpy as np

    return lambda: np.random.seed(9)


def test_without_keys_all_is_detectron2s_bit_for_bit(tmp_path, monkeypatch, seeded):
    cfg = linear_cfg(tmp_path)
    seeded()
    stock = _losses(LossTrainer, cfg)
    seeded()
    assert _losses(Mixed, cfg) == stock
    script = _script_trainer(monkeypatch)
    before = dict(vars(script))
    seeded()
    assert _losses(script, cfg) == stock
    assert dict(vars(script)) == before


@pytest.mark.parametrize("way", ["mixin", "script"])
def test_keys_reach_all_parts(tmp_path, monkeypatch, way):
    cfg = linear_cfg(
        tmp_path, RESUME__EXACT=True, SOLVER__OPTIMIZER="AdamW", SOLVER__SCHEDULE="cosine",
        SOLVER__ACCUMULATE=2, LOG__PERIOD=3, EMA__ENABLED=True, EARLY_STOPPING__METRIC="segm/AP",
    )  # fmt: skip
    cfg.TEST.EVAL_PERIOD = 3
    cfg.DATASETS.TEST = ("mrcnn_ext_shapes_val",)
    trainer = (Mixed if way == "mixin" else _script_trainer(monkeypatch))(cfg)
    assert isinstance(trainer.data_loader, ExactLoader)
    assert isinstance(trainer.optimizer, torch.optim.AdamW)
    assert type(trainer._trainer).__name__ == "AccumulatingTrainer"
    assert isinstance(trainer.checkpointer, TrainingCheckpointer)
    names = [type(hook).__name__ for hook in trainer._hooks]
    assert names == [
        "IterationTimer", "LRScheduler", "EMAHook", "PeriodicCheckpointer", "StopOnSignal", "EvalHook",
        "EarlyStopping", "ExactResume", "PeriodicWriter",
    ]  # fmt: skip
    assert trainer._hooks[-1]._period == 3
    assert trainer._hooks[3].checkpointer is trainer.checkpointer
    trainer.test = lambda *_: {"segm": {"AP": 1.0}}
    trainer.train()
    assert (tmp_path / "model_ema_final.pth").is_file()
    assert trainer.optimizer.param_groups[0]["lr"] < 0.1 / 5  # the cosine has come down


def test_both_ways_give_the_same_losses(tmp_path, monkeypatch):
    cfg = linear_cfg(tmp_path, RESUME__EXACT=True, SOLVER__OPTIMIZER="AdamW")
    assert _losses(Mixed, cfg) == _losses(_script_trainer(monkeypatch), cfg)


def test_a_script_is_extended_once_and_its_own_methods_stay(tmp_path, monkeypatch):
    calls = []

    class Own(LossTrainer):
        @classmethod
        def build_train_loader(cls, cfg):
            calls.append(cls.__name__)
            return super().build_train_loader(cfg)

    script = _script_trainer(monkeypatch, Own)
    for _ in range(2):
        trainer = script(linear_cfg(tmp_path, RESUME__EXACT=True))
        assert sum(isinstance(hook, ExactResume) for hook in trainer._hooks) == 1
    assert calls == ["Trainer", "Trainer"]


def test_detectron2s_own_trainer_is_refused_and_stays_as_it_is(tmp_path):
    before = dict(vars(DefaultTrainer))
    with pytest.raises(ConfigError) as error:
        DefaultTrainer(linear_cfg(tmp_path, EMA__ENABLED=True))
    assert "MRCNN_EXT.EMA.ENABLED is set, but detectron2.engine.defaults.DefaultTrainer" in str(
        error.value
    )
    assert "mrcnn_ext.train" in str(error.value)
    assert dict(vars(DefaultTrainer)) == before


def _stock_architecture(tmp_path):
    cfg = small_cfg()
    cfg.MODEL.META_ARCHITECTURE = "GeneralizedRCNN"
    cfg.MODEL.ROI_MASK_HEAD.NAME = "MrcnnExtFCNMaskHead"
    cfg.OUTPUT_DIR = str(tmp_path)
    cfg.MRCNN_EXT.SOLVER.OPTIMIZER = "AdamW"
    return cfg


def test_any_component_says_that_a_key_is_in_vain(tmp_path):
    cfg = _stock_architecture(tmp_path)
    build_model(cfg)  # for predicting
    with pytest.raises(ConfigError, match=r"SOLVER\.OPTIMIZER is set, but .*LossTrainer does not"):
        LossTrainer(cfg)


def test_the_mixin_follows_keys_with_detectron2s_architecture(tmp_path):
    cfg = _stock_architecture(tmp_path)
    trainer = Mixed.__new__(Mixed)
    assert isinstance(Mixed.build_optimizer(cfg, torch.nn.Linear(2, 1)), torch.optim.AdamW)
    assert isinstance(trainer, Trainer.__mro__[2])


def test_the_trainer_that_is_being_built_is_found():
    assert trainer_being_built() is None
    found = []

    class Own(TrainerBase):
        def __init__(self):
            super().__init__()
            found.append(trainer_being_built())

    made = Own()
    assert found == [made]


@pytest.mark.parametrize(
    ("kind", "expected"), [("coco", COCOEvaluator), ("coco_panoptic_seg", DatasetEvaluators)]
)
def test_evaluators_by_kind_of_data_set(tmp_path, kind, expected, monkeypatch):
    from mrcnn_ext.evaluation import default_evaluators

    kinds = {k: [lambda *_: "a"] * len(v) for k, v in default_evaluators._BUILDERS.items()}
    cfg = linear_cfg(tmp_path)
    MetadataCatalog.get("trainer_tests").evaluator_type = kind
    try:
        monkeypatch.setattr(default_evaluators, "_BUILDERS", kinds)
        found = default_evaluator(cfg, "trainer_tests")
        assert (found == "a") is (expected is COCOEvaluator)
        del MetadataCatalog.get("trainer_tests").evaluator_type
        MetadataCatalog.get("trainer_tests").evaluator_type = "audio"
        with pytest.raises(ConfigError, match="evaluator_type is 'audio'; expected one of coco"):
            default_evaluator(cfg, "trainer_tests")
    finally:
        MetadataCatalog.remove("trainer_tests")
