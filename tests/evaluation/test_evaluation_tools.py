# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Evaluation by config keys in Detectron2's own, unmodified tools."""

from __future__ import annotations

import json
import sys
import types

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.engine import DefaultTrainer
from detectron2.engine import hooks as d2_hooks
from detectron2.evaluation import COCOEvaluator

from mrcnn_ext.compat import installed_detectron2
from mrcnn_ext.errors import ConfigError
from mrcnn_ext.evaluation import MrcnnExtCOCOEvaluator, build_coco_evaluator
from mrcnn_ext.tool_hooks import extend_running_tool
from tests.helpers import run_python, small_cfg, tool
from tests.test_tools import HOOK, LAZY, LAZY_TINY, TINY, YAML, _copypasted, _free_port, _ok

ON = ["MRCNN_EXT.EVALUATION.ENABLED", "True"]


def _train_net(output, *arguments, opts=()):
    command = ["-W", "ignore", tool("train_net.py"), "--config-file", YAML, *arguments]
    return run_python([*command, *TINY, "OUTPUT_DIR", output, *opts], env=HOOK)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    output = tmp_path_factory.mktemp("evaluation")
    opts = """SOLVER.MAX_ITER 2 TEST.EVAL_PERIOD 1 TEST.DETECTIONS_PER_IMAGE 120
        MRCNN_EXT.EVALUATION.VALIDATION_LOSS True
        MRCNN_EXT.EVALUATION.BEST_METRIC bbox/AP50""".split()
    return output, _ok(_train_net(output, opts=[*ON, *opts]))


@pytest.mark.slow
def test_train_net_writes_all_metrics_and_the_best_weights(trained):
    output, text = trained
    for task in ("bbox", "segm", "boundary", "mask_quality"):
        assert f"copypaste: Task: {task}" in text
    assert "up to 120 detections" in text
    assert "Evaluation results for boundary" in text
    lines = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
    last = lines[-1]
    for key in ("boundary/AP", "mask_quality/IoU", "bbox/AR@120", "validation/loss_mask"):
        assert key in last
    assert last["validation/total_loss"] > 0
    assert (output / "model_best.pth").is_file()
    best = json.loads((output / "model_best.json").read_text())
    assert best["metric"] == "bbox/AP50"
    assert best["value"] == max(line.get("bbox/AP50", 0) for line in lines)


def _eval_only(trained, output, *arguments, opts=ON):
    weights = ["MODEL.WEIGHTS", trained[0] / "model_final.pth", "OUTPUT_DIR", output]
    return _ok(_train_net(output, "--eval-only", *arguments, opts=[*weights, *opts]))


@pytest.mark.slow
def test_eval_only_and_test_time_augmentation(trained, tmp_path):
    aug = ["TEST.AUG.ENABLED", "True", "TEST.AUG.MIN_SIZES", "(64,)"]
    text = _eval_only(trained, tmp_path, opts=[*ON, *aug])
    assert text.count("Evaluation results for boundary") == 2
    assert (tmp_path / "inference_TTA" / "coco_instances_results.json").is_file()


@pytest.mark.slow
def test_without_the_key_the_tool_is_as_it_was(trained, tmp_path):
    text = _eval_only(trained, tmp_path, opts=())
    assert "boundary" not in "".join(_copypasted(text))
    ours = _eval_only(trained, tmp_path)
    # Detectron2's numbers are the first of ours.
    theirs = [line for line in _copypasted(text) if "," in line and "AP" not in line]
    same = [line for line in _copypasted(ours) if "," in line and "AP" not in line]
    assert [line.split(",")[:6] for line in same[:2]] == [line.split(",") for line in theirs]


@pytest.mark.skipif(torch.cuda.is_available(), reason="CPU processes are for machines without GPU")
@pytest.mark.skipif(not installed_detectron2().is_main, reason="0.6 spawns for CUDA only")
def test_two_processes(trained, tmp_path):
    one = _eval_only(trained, tmp_path)
    address = f"tcp://127.0.0.1:{_free_port()}"
    two = _eval_only(trained, tmp_path, "--num-gpus", "2", "--dist-url", address)
    assert _copypasted(two) == _copypasted(one)
    assert "boundary" in "".join(_copypasted(two))


@pytest.mark.slow
def test_several_skeletons_train_and_evaluate_without_any_key(tmp_path):
    config = YAML.parent / "pose_Lite0_FPN.yaml"
    command = ["-W", "ignore", tool("train_net.py"), "--config-file", config, *TINY]
    opts = ["SOLVER.MAX_ITER", "1", "OUTPUT_DIR", tmp_path]
    text = _ok(run_python([*command, *opts], env=HOOK))
    assert "copypaste: Task: keypoints" in text
    assert "copypaste: Task: pck" in text


@pytest.mark.slow
def test_lazyconfig_takes_the_evaluator(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from detectron2.config import LazyCall as L, LazyConfig\n"
        "from mrcnn_ext.data.shapes import configure_builtin_shapes\n"
        "from mrcnn_ext.evaluation import MrcnnExtCOCOEvaluator\n"
        "configure_builtin_shapes(num_train=6, num_val=3, image_size=96)\n"
        f"cfg = LazyConfig.load({str(LAZY)!r})\n"
        "model, dataloader, train = cfg.model, cfg.dataloader, cfg.train\n"
        "optimizer, lr_multiplier = cfg.optimizer, cfg.lr_multiplier\n"
        "dataloader.evaluator = L(MrcnnExtCOCOEvaluator)(\n"
        "    dataset_name='${..test.dataset.names}', output_dir=train.output_dir)\n"
    )
    command = ["-W", "ignore", tool("lazyconfig_train_net.py"), "--eval-only"]
    command += ["--config-file", tmp_path / "mine.py", *LAZY_TINY]
    text = _ok(run_python([*command, f"train.output_dir={tmp_path / 'out'}"]))
    assert "copypaste: Task: boundary" in text


# ---- in this process -----------------------------------------------------------------------------


@pytest.fixture
def main_module(monkeypatch):
    """A script of a user's, as far as modules are concerned."""
    module = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", module)

    def trainer(base=DefaultTrainer, name="Trainer", **members):
        made = type(name, (base,), {"__module__": "__main__", **members})
        setattr(module, name, made)
        return made

    return trainer


def test_no_trainer_class_is_a_warning_that_says_what_to_do(main_module, caplog):
    before = dict(vars(DefaultTrainer))
    cfg = small_cfg()
    cfg.DATASETS.TEST = ("mrcnn_ext_shapes_val",)
    assert extend_running_tool(cfg) == []
    assert not caplog.text
    cfg.MRCNN_EXT.EVALUATION.ENABLED = True
    assert extend_running_tool(cfg) == []
    assert "TrainerMixin" in caplog.text
    assert "dataloader.evaluator" in caplog.text
    assert dict(vars(DefaultTrainer)) == before


def test_only_the_scripts_own_class_gets_it_and_only_once(main_module):
    calls = []

    def own(cls, cfg, dataset_name, output_folder=None):
        calls.append(dataset_name)
        return "theirs"

    trainer = main_module(build_evaluator=classmethod(own))
    child = main_module(trainer, "Child")
    before = dict(vars(DefaultTrainer))
    on = small_cfg()
    on.MRCNN_EXT.EVALUATION.ENABLED = True
    for _ in range(3):
        assert extend_running_tool(on) == [trainer, child]
    assert dict(vars(DefaultTrainer)) == before
    assert "build_evaluator" not in vars(child)

    cfg = small_cfg()
    MetadataCatalog.get("evaluation_tools_other").evaluator_type = "sem_seg"
    try:
        assert trainer.build_evaluator(cfg, "mrcnn_ext_shapes_val") == "theirs"
        cfg.MRCNN_EXT.EVALUATION.ENABLED = True
        assert trainer.build_evaluator(cfg, "evaluation_tools_other") == "theirs"
        ours = child.build_evaluator(cfg, "mrcnn_ext_shapes_val")
        assert isinstance(ours, MrcnnExtCOCOEvaluator)
    finally:
        MetadataCatalog.remove("evaluation_tools_other")
    assert calls == ["mrcnn_ext_shapes_val", "evaluation_tools_other"]


@pytest.mark.parametrize(
    ("name", "sigmas", "given", "keypoints", "expected"),
    [
        ("mrcnn_ext_shapes_pose_val", [], [], True, MrcnnExtCOCOEvaluator),  # two skeletons
        ("mrcnn_ext_shapes_pose_val", [0.05] * 17, [], True, MrcnnExtCOCOEvaluator),
        ("mrcnn_ext_shapes_val", [], [], True, MrcnnExtCOCOEvaluator),  # 11 keypoints, no sigmas
        # train_net.py gives its evaluator none of TEST.KEYPOINT_OKS_SIGMAS
        ("mrcnn_ext_shapes_val", [0.05] * 11, [], True, MrcnnExtCOCOEvaluator),
        ("mrcnn_ext_shapes_val", [0.05] * 11, [0.05] * 11, True, COCOEvaluator),
        ("mrcnn_ext_shapes_val", [], [0.05] * 11, True, COCOEvaluator),
        ("mrcnn_ext_shapes_val", [], [], False, COCOEvaluator),
        ("mrcnn_ext_shapes_val", [0.05] * 11, [], False, COCOEvaluator),
    ],
)
def test_keypoints_that_the_stock_evaluator_cannot_do_are_ours(
    main_module, tmp_path, name, sigmas, given, keypoints, expected
):
    def own(cls, cfg, dataset_name, output_folder=None):
        return COCOEvaluator(dataset_name, output_dir=str(tmp_path), kpt_oks_sigmas=given)

    trainer = main_module(build_evaluator=classmethod(own))
    cfg = small_cfg()
    cfg.DATASETS.TEST = (name,)
    cfg.TEST.KEYPOINT_OKS_SIGMAS = sigmas
    cfg.MODEL.KEYPOINT_ON = keypoints
    extend_running_tool(cfg)
    assert type(trainer.build_evaluator(cfg, name)) is expected


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, None),
        ({"id": "b3f1-0001"}, "the annotation's id 'b3f1-0001'"),
        ({"id": 1.5}, "the annotation's id 1.5"),
        ({"id": 2**70}, "the annotation's id 1180591620717411303424"),
        ({"iscrowd": None}, "iscrowd None of annotation 1"),
        ({"area": ...}, "area None of annotation 1"),
        ({"segmentation": [{"size": [8, 8], "counts": [64]}]}, "the list of RLE of annotation 1"),
    ],
)
def test_annotations_that_the_stock_evaluator_cannot_take_are_ours(
    main_module, tmp_path, caplog, change, words
):
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 4, 4], "area": 16}
    annotation.update({"iscrowd": 0, **change})
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "height": 8, "width": 8}],
        "annotations": [{k: v for k, v in annotation.items() if v is not ...}],
        "categories": [{"id": 1, "name": "ring"}],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    name = "evaluation_tools_truth"
    register_coco_instances(name, {}, str(tmp_path / "a.json"), str(tmp_path))

    def own(cls, cfg, dataset_name, output_folder=None):
        return COCOEvaluator(dataset_name, output_dir=str(tmp_path))

    try:
        trainer = main_module(build_evaluator=classmethod(own))
        cfg = small_cfg()
        cfg.DATASETS.TEST, cfg.MODEL.MASK_ON = (name,), False
        extend_running_tool(cfg)
        evaluator = trainer.build_evaluator(cfg, name)
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    assert type(evaluator) is (COCOEvaluator if words is None else MrcnnExtCOCOEvaluator)
    assert words is None or words in caplog.text


def test_an_evaluator_of_the_scripts_own_stays(main_module):
    trainer = main_module(build_evaluator=classmethod(lambda cls, cfg, name: "theirs"))
    cfg = small_cfg()
    cfg.DATASETS.TEST = ("mrcnn_ext_shapes_pose_val",)
    cfg.MODEL.KEYPOINT_ON = True
    assert extend_running_tool(cfg) == [trainer]
    assert trainer.build_evaluator(cfg, "mrcnn_ext_shapes_pose_val") == "theirs"


def test_hooks_come_before_the_writers(main_module, caplog):
    writer = d2_hooks.PeriodicWriter([])
    theirs = [d2_hooks.IterationTimer(), writer]
    trainer = main_module(build_hooks=lambda self: list(theirs))
    cfg = small_cfg()
    keys = cfg.MRCNN_EXT.EVALUATION
    keys.ENABLED = True
    extend_running_tool(cfg)
    keys.ENABLED = False
    keys.VALIDATION_LOSS, keys.BEST_METRIC = True, "segm/AP"
    instance = trainer.__new__(trainer)
    instance.__dict__.update(cfg=cfg, _trainer=types.SimpleNamespace(model=None))
    instance.checkpointer = None
    assert instance.build_hooks() == theirs
    assert "BEST_METRIC is 'segm/AP', which does nothing while" in caplog.text
    assert "VALIDATION_LOSS is True, which does nothing while" in caplog.text
    caplog.clear()
    keys.ENABLED = True
    names = [type(hook).__name__ for hook in instance.build_hooks()]
    assert names == ["IterationTimer", "ValidationLossHook", "BestCheckpointer", "PeriodicWriter"]
    assert not caplog.text
    cfg.DATASETS.TEST = ()
    names = [type(hook).__name__ for hook in instance.build_hooks()]
    assert names == ["IterationTimer", "BestCheckpointer", "PeriodicWriter"]
    assert caplog.text.count("VALIDATION_LOSS is True, but DATASETS.TEST is empty") == 1
    assert caplog.text.count("BEST_METRIC is 'segm/AP', but DATASETS.TEST is empty") == 1
    keys.BEST_MODE = "most"
    with pytest.raises(ConfigError, match="BEST_MODE is 'most'; expected 'max' or 'min'"):
        instance.build_hooks()


def test_limits_and_sigmas_come_from_the_config():
    cfg = small_cfg()
    name = "mrcnn_ext_shapes_val"
    assert build_coco_evaluator(cfg, name)._settings.max_dets == 100
    cfg.TEST.DETECTIONS_PER_IMAGE = 250
    cfg.TEST.KEYPOINT_OKS_SIGMAS = [0.05] * 11
    settings = build_coco_evaluator(cfg, name)._settings
    assert settings.max_dets == 250
    assert settings.sigmas == {8: (0.05,) * 11}  # of the one class with keypoints, by its id
    cfg.MRCNN_EXT.EVALUATION.LVIS_STYLE = True
    assert build_coco_evaluator(cfg, name)._settings.max_dets == 300
    cfg.MRCNN_EXT.EVALUATION.MAX_DETECTIONS = 40
    assert build_coco_evaluator(cfg, name)._settings.max_dets == 40
    cfg.MRCNN_EXT.EVALUATION.TASKS = ["boxes"]
    with pytest.raises(ConfigError, match=r"MRCNN_EXT\.EVALUATION: task 'boxes' is unknown"):
        build_coco_evaluator(cfg, name)
