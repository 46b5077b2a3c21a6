# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Detectron2's own, unmodified tools, run as a user runs them."""

from __future__ import annotations

import json
import shutil
import socket

import pytest
import torch

from mrcnn_ext.compat import installed_detectron2
from mrcnn_ext.data.shapes import ShapesSpec, generate_shapes
from tests.helpers import REPO, run_python, tool

YAML = REPO / "configs" / "Shapes" / "mask_rcnn_Lite0_FPN.yaml"
LAZY = REPO / "configs" / "Shapes" / "mask_rcnn_Lite0_FPN.py"
HOOK = {"DETECTRON2_ENV_MODULE": "mrcnn_ext.d2_env"}
TINY = """
    MODEL.ROI_BOX_HEAD.FC_DIM 32
    MODEL.RPN.POST_NMS_TOPK_TEST 20
    MODEL.ROI_HEADS.SCORE_THRESH_TEST 0.0
    MRCNN_EXT.SHAPES.NUM_TRAIN 6
    MRCNN_EXT.SHAPES.NUM_VAL 3
    MRCNN_EXT.SHAPES.IMAGE_SIZE 96
    INPUT.MIN_SIZE_TRAIN (64,)
    INPUT.MAX_SIZE_TRAIN 96
    INPUT.MIN_SIZE_TEST 64
    SOLVER.IMS_PER_BATCH 2
    SOLVER.STEPS ()
    SOLVER.WARMUP_ITERS 1
    SOLVER.CHECKPOINT_PERIOD 1
    DATALOADER.NUM_WORKERS 0
"""
TINY = ["MODEL.WEIGHTS", "", *TINY.split()]

for name in ("train_net.py", "lazyconfig_train_net.py"):
    if not tool(name).is_file():
        pytest.skip(
            f"{tool(name)} is not there: Detectron2 was not installed from "
            "tools/build_detectron2.py's wheel",
            allow_module_level=True,
        )


def _ok(result):
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result.stdout + result.stderr


def _train_net(output, *arguments, opts=(), env=HOOK):
    command = ["-W", "ignore", tool("train_net.py"), "--config-file", YAML, *arguments]
    return run_python([*command, *TINY, "OUTPUT_DIR", output, *opts], env=env)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two steps by train_net.py, and the evaluation it ends with."""
    output = tmp_path_factory.mktemp("yaml")
    text = _ok(_train_net(output, opts=["SOLVER.MAX_ITER", "2"]))
    return output, text


def test_train_net_trains_evaluates_and_saves(trained):
    output, text = trained
    assert "copypaste: Task: segm" in text
    assert (output / "model_final.pth").is_file()
    results = json.loads((output / "inference" / "coco_instances_results.json").read_text())
    assert isinstance(results, list)
    state = torch.load(output / "model_final.pth", map_location="cpu", weights_only=False)
    assert any(key.startswith("backbone.bottom_up.body.blocks") for key in state["model"])
    assert "MRCNN_EXT" in (output / "config.yaml").read_text()


@pytest.mark.slow
def test_train_net_evaluates_only(trained):
    output, text = trained
    again = _ok(
        _train_net(output, "--eval-only", opts=["MODEL.WEIGHTS", str(output / "model_final.pth")])
    )
    assert len(_copypasted(again)) == 6
    assert _copypasted(again) == _copypasted(text)


@pytest.mark.slow
@pytest.mark.parametrize("keys", [("CHANNELS_LAST",), ("CHANNELS_LAST", "CHECKPOINT_BACKBONE")])
def test_train_net_computes_as_the_keys_say(keys, trained, tmp_path):
    """The same losses in the first step and up to rounding in the second; the checkpoint fits both."""
    output, _ = trained
    opts = [part for key in keys for part in (f"MRCNN_EXT.COMPUTE.{key}", "True")]
    opts += ["SEED", "1", "SOLVER.MAX_ITER", "2"]
    text = _ok(_train_net(tmp_path / "keys", opts=opts))
    assert "copypaste: Task: segm" in text
    _ok(_train_net(tmp_path / "plain", opts=["SEED", "1", "SOLVER.MAX_ITER", "2"]))
    losses = []
    for name in ("keys", "plain"):
        lines = (tmp_path / name / "metrics.json").read_text().splitlines()
        losses.append([json.loads(line)["total_loss"] for line in lines if "total_loss" in line])
    assert losses[0]
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)
    states = [
        torch.load(folder / "model_final.pth", map_location="cpu", weights_only=False)["model"]
        for folder in (tmp_path / "keys", output)
    ]
    assert states[0].keys() == states[1].keys()
    weights = ["MODEL.WEIGHTS", str(tmp_path / "keys" / "model_final.pth")]
    _ok(_train_net(tmp_path / "plain", "--eval-only", opts=weights))


@pytest.mark.slow
def test_train_net_resumes(trained, tmp_path):
    # In a copy: the other tests evaluate the model of two steps.
    output = shutil.copytree(trained[0], tmp_path / "copy")
    text = _ok(_train_net(output, "--resume", opts=["SOLVER.MAX_ITER", "3"]))
    assert "Starting training from iteration 2" in text
    assert (output / "model_0000002.pth").is_file()


@pytest.mark.slow
def test_data_sets_named_in_the_config(trained, tmp_path):
    """A plain COCO json trains and evaluates by keys alone, with the numbers of a registered set."""
    entries = []
    for split, number in (("train", 6), ("val", 3)):
        file = generate_shapes(ShapesSpec(split, number, 96), tmp_path)
        entries.append([f"mine_{split}", str(file), str(file.parent / "images")])
    own = ["MRCNN_EXT.DATA.DATASETS", str(entries), "DATASETS.TRAIN", "('mine_train',)"]
    own += ["DATASETS.TEST", "('mine_val',)"]
    output, text = trained
    again = _ok(
        _train_net(tmp_path / "out", opts=["SOLVER.MAX_ITER", "1", "SOLVER.STEPS", "()", *own])
    )
    assert "copypaste: Task: segm" in again
    weights = ["MODEL.WEIGHTS", str(output / "model_final.pth")]
    again = _ok(_train_net(tmp_path / "out", "--eval-only", opts=[*own, *weights]))
    assert _copypasted(again) == _copypasted(text)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _copypasted(text: str) -> list[str]:
    return [line.split("copypaste")[1] for line in text.splitlines() if "copypaste" in line]


@pytest.mark.skipif(torch.cuda.is_available(), reason="CPU processes are for machines without GPU")
@pytest.mark.skipif(not installed_detectron2().is_main, reason="0.6 spawns for CUDA only")
def test_num_gpus_2_evaluates_in_two_cpu_processes(trained):
    output, text = trained
    weights = ["MODEL.WEIGHTS", str(output / "model_final.pth")]
    address = f"tcp://127.0.0.1:{_free_port()}"
    arguments = ["--eval-only", "--num-gpus", "2", "--dist-url", address]
    two = _ok(_train_net(output, *arguments, opts=weights))
    assert "World size: 2" in two
    assert _copypasted(two) == _copypasted(text)


SPAWNED = """
import sys
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

def worker(rank, address, config_file, opts):
    # A new interpreter: what it knows of the plugin comes from DETECTRON2_ENV_MODULE alone.
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.config import get_cfg
    from detectron2.engine import DefaultTrainer
    from detectron2.evaluation import COCOEvaluator
    from detectron2.utils import comm
    from detectron2.utils.events import EventStorage
    from detectron2.utils.logger import setup_logger

    dist.init_process_group("gloo", init_method=address, world_size=2, rank=rank)
    comm._LOCAL_PROCESS_GROUP = dist.new_group([0, 1])
    setup_logger(distributed_rank=rank)
    cfg = get_cfg()
    cfg.merge_from_file(config_file)
    cfg.merge_from_list(opts)
    model = DefaultTrainer.build_model(cfg)
    DetectionCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    DefaultTrainer.test(cfg, model, COCOEvaluator(cfg.DATASETS.TEST[0], output_dir=cfg.OUTPUT_DIR))
    parallel = torch.nn.parallel.DistributedDataParallel(model.train())
    with EventStorage():
        sum(parallel(next(iter(DefaultTrainer.build_train_loader(cfg)))).values()).backward()
    gradient = model.roi_heads.mask_head.predictor.weight.grad
    both = [torch.empty_like(gradient) for _ in range(2)]
    dist.all_gather(both, gradient)
    assert torch.equal(*both) and gradient.abs().sum() > 0
    dist.destroy_process_group()

if __name__ == "__main__":
    mp.spawn(worker, nprocs=2, args=(sys.argv[1], sys.argv[2], sys.argv[3:]))
"""


@pytest.mark.slow
def test_spawned_processes_know_the_plugin(trained, tmp_path):
    """What --num-gpus 2 does, over gloo: both Detectron2 lines evaluate and train that way."""
    output, text = trained
    (tmp_path / "spawned.py").write_text(SPAWNED)
    address = f"tcp://127.0.0.1:{_free_port()}"
    opts = [*TINY, "MODEL.WEIGHTS", output / "model_final.pth", "OUTPUT_DIR", tmp_path]
    two = _ok(run_python(["-W", "ignore", tmp_path / "spawned.py", address, YAML, *opts], env=HOOK))
    assert _copypasted(two) == _copypasted(text)


def test_without_the_hook_the_key_is_named(tmp_path):
    result = _train_net(tmp_path, env={"DETECTRON2_ENV_MODULE": None})
    assert result.returncode != 0
    assert "Non-existent config key: MRCNN_EXT" in result.stderr


def test_missing_json_is_one_clear_error(tmp_path):
    result = _train_net(
        tmp_path,
        opts=["DATASETS.TRAIN", "('coco_2017_train',)", "MODEL.ROI_HEADS.NUM_CLASSES", "80"]
        + ["DATASETS.TEST", "('coco_2017_val',)"],
        env={**HOOK, "DETECTRON2_DATASETS": str(tmp_path)},
    )
    assert result.returncode != 0
    assert "FileNotFoundError" in result.stderr
    assert "instances_train2017.json" in result.stderr.splitlines()[-1]


LAZY_TINY = [
    "train.max_iter=2",
    "train.init_checkpoint=",
    "train.eval_period=100",
    "train.log_period=1",
    "optimizer.lr=0.0001",
    "dataloader.train.total_batch_size=2",
    "dataloader.train.num_workers=0",
    "dataloader.test.num_workers=0",
    "model.roi_heads.box_predictor.test_score_thresh=0.0",
]


@pytest.mark.slow
def test_lazyconfig_train_net_trains_and_evaluates(tmp_path):
    # A user's own config on top of ours: a smaller data set, by the function that the docs name.
    (tmp_path / "mine.py").write_text(
        "from detectron2.config import LazyConfig\n"
        "from mrcnn_ext.data.shapes import configure_builtin_shapes\n"
        "configure_builtin_shapes(num_train=6, num_val=3, image_size=96)\n"
        f"cfg = LazyConfig.load({str(LAZY)!r})\n"
        "model, dataloader, train = cfg.model, cfg.dataloader, cfg.train\n"
        "optimizer, lr_multiplier = cfg.optimizer, cfg.lr_multiplier\n"
    )
    command = ["-W", "ignore", tool("lazyconfig_train_net.py")]
    command += ["--config-file", tmp_path / "mine.py"]
    output = f"train.output_dir={tmp_path / 'out'}"
    text = _ok(run_python([*command, *LAZY_TINY, output]))
    assert "total_loss" in text
    weights = tmp_path / "out" / "model_final.pth"
    assert weights.is_file()
    text = _ok(
        run_python(
            [*command, "--eval-only", *LAZY_TINY, output, f"train.init_checkpoint={weights}"]
        )
    )
    assert "copypaste: Task: segm" in text


OWN_SCRIPT = """
import sys
from detectron2.config import get_cfg
from detectron2.engine import DefaultTrainer
from mrcnn_ext import add_mrcnn_ext_config

cfg = get_cfg()
add_mrcnn_ext_config(cfg)
cfg.merge_from_file(sys.argv[1])
cfg.merge_from_list(sys.argv[2:])
DefaultTrainer.build_evaluator = classmethod(lambda *args: None)
trainer = DefaultTrainer(cfg)
trainer.resume_or_load()
trainer.train()
"""


def test_own_script_with_add_config(tmp_path):
    (tmp_path / "train.py").write_text(OWN_SCRIPT)
    opts = [*TINY, "SOLVER.MAX_ITER", "1", "OUTPUT_DIR", tmp_path, "DATASETS.TEST", "()"]
    _ok(run_python(["-W", "ignore", tmp_path / "train.py", YAML, *opts], env={**HOOK}))
    assert (tmp_path / "model_final.pth").is_file()


@pytest.mark.slow
def test_model_analysis_and_data_visualisation_tools_run(tmp_path):
    """The other tools take the same configs."""
    command = ["-W", "ignore", tool("analyze_model.py"), "--tasks", "parameter"]
    _ok(run_python([*command, "--config-file", YAML, *TINY], env=HOOK))
    command = ["-W", "ignore", tool("visualize_data.py"), "--source", "annotation"]
    command += ["--config-file", YAML, "--output-dir", tmp_path]
    _ok(run_python([*command, "DATASETS.TRAIN", "('mrcnn_ext_shapes_val',)"], env=HOOK))
    assert len(list(tmp_path.glob("*.jpg"))) == 100
