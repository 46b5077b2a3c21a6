#!/usr/bin/env python3
# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Kill a training with SIGKILL at random moments, resume it each time, and compare the end.

python tools/kill_training.py --kills 50 --out /tmp/kills

The same training runs once without interruption. Afterwards weights, the state of optimizer, schedule
and hooks, and all lines of metrics.json (but for times) must be equal, bit for bit. Some kills come in
a step or between two, some while a checkpoint is being written, some while the program starts.
Children are forked from a process that has imported everything, so that a start takes a second.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import runpy
import shutil
import signal
import sys
import time
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
CONFIG = HERE.parent / "configs" / "Shapes" / "mask_rcnn_Lite0_FPN.yaml"
OPTIONS = """
    SEED 3 DATALOADER.NUM_WORKERS 2
    MRCNN_EXT.SHAPES.NUM_TRAIN 40 MRCNN_EXT.SHAPES.NUM_VAL 4 MRCNN_EXT.SHAPES.IMAGE_SIZE 96
    INPUT.MIN_SIZE_TRAIN (64,80) INPUT.MAX_SIZE_TRAIN 96
    INPUT.MIN_SIZE_TEST 64 INPUT.MAX_SIZE_TEST 96
    MODEL.ROI_BOX_HEAD.FC_DIM 64 MODEL.WEIGHTS ""
    SOLVER.BASE_LR 0.002 SOLVER.WARMUP_ITERS 5 SOLVER.STEPS (150,) SOLVER.CHECKPOINT_PERIOD 3
    TEST.EVAL_PERIOD 10
    MRCNN_EXT.RESUME.EXACT True MRCNN_EXT.RESUME.KEEP 2 MRCNN_EXT.LOG.PERIOD 1
""".split()
OPTIONS[OPTIONS.index('""')] = ""
TIMES = ("time", "data_time", "eta_seconds", "rank_data_time")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--out", type=Path, required=True, help="a folder that is emptied")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument(
        "--tool", help="path of Detectron2's train_net.py; default: where it is installed"
    )
    parser.add_argument("opts", nargs="*", help="further keys and values of the config")
    args = parser.parse_args()
    options = [*OPTIONS, "SOLVER.MAX_ITER", str(args.steps), *args.opts]
    os.environ["DETECTRON2_ENV_MODULE"] = "mrcnn_ext.d2_env"
    torch.set_num_threads(1)
    import detectron2.engine  # noqa: F401  (the hook imports all of mrcnn_ext)

    from mrcnn_ext.demo import find_tool

    tool = args.tool or str(find_tool("train_net.py"))
    shutil.rmtree(args.out, ignore_errors=True)
    args.out.mkdir(parents=True)
    whole, killed = args.out / "whole", args.out / "killed"
    began = time.monotonic()
    if _wait(_start(tool, whole, options)) != 0:
        sys.exit(f"The training that is not killed failed: see {whole}.log.")
    duration = time.monotonic() - began
    kills = _kill_often(tool, killed, options, args, duration)
    differences = _differences(whole, killed)
    print(json.dumps({"kills": kills, "steps": args.steps, "differences": differences}, indent=1))
    sys.exit(1 if differences else 0)


def _kill_often(tool: str, folder: Path, options: list[str], args, duration: float) -> dict:
    """Kill until there were enough kills, then let it come to its end; count the kinds."""
    numbers = random.Random(args.seed)
    kinds = {"in a step": 0, "while a checkpoint was written": 0, "while it started": 0}
    # So that the last kill comes before the end, on average after each checkpoint or two.
    share = duration / (args.kills + 10)
    for count in range(args.kills):
        kind = numbers.choice(
            ["in a step"] * 5 + ["while a checkpoint was written"] * 4 + ["while it started"]
        )
        child = _start(tool, folder, options)
        if kind == "while it started":
            time.sleep(numbers.uniform(0, 1))
        elif kind == "in a step":
            _wait_until(lambda: _grown(folder), child)
            time.sleep(numbers.uniform(0, share))
        else:
            time.sleep(numbers.uniform(0, share))
            _wait_until(lambda: list(folder.glob(".model_*.part")), child)
            time.sleep(numbers.uniform(0, 0.02))
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        code = _wait(child)
        kinds[kind] += 1
        print(f"{count + 1}: {kind}; {_progress(folder)} steps are written", flush=True)
        if code == 0:
            sys.exit(f"The training came to its end after {count} kills: give it more --steps.")
        if code != -signal.SIGKILL:
            sys.exit(f"The training failed by itself: see {folder}.log.")
    if _wait(_start(tool, folder, options)) != 0:
        sys.exit(f"The training failed after the last kill: see {folder}.log.")
    return kinds


def _start(tool: str, folder: Path, options: list[str]) -> int:
    """Fork a training in a process group of its own; its output is appended to FOLDER.log."""
    _seen[folder] = _progress(folder)
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.setpgid(0, 0)
        log = os.open(f"{folder}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.argv = [
            tool,
            "--resume",
            "--config-file",
            str(CONFIG),
            "OUTPUT_DIR",
            str(folder),
            *options,
        ]
        runpy.run_path(tool, run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


_seen: dict[Path, int] = {}


def _wait(child: int) -> int:
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def _wait_until(condition, child: int, most: float = 300.0) -> None:
    end = time.monotonic() + most
    while not condition() and time.monotonic() < end:
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return
        time.sleep(0.002)


def _progress(folder: Path) -> int:
    try:
        return len((folder / "metrics.json").read_bytes().splitlines())
    except OSError:
        return 0


def _grown(folder: Path) -> bool:
    """Whether a step has been written since the start; the resumed one may have cut some off."""
    now = _progress(folder)
    grown = now > _seen[folder]
    _seen[folder] = min(_seen[folder], now)
    return grown


def _differences(whole: Path, killed: Path) -> list[str]:
    first, second = (torch.load(f / "model_final.pth", weights_only=True) for f in (whole, killed))
    lines = _lines(whole / "metrics.json"), _lines(killed / "metrics.json")
    found = [f"metrics.json: {text}" for text in _compare(lines[0], lines[1], "")]
    found += [f"model_final.pth: {text}" for text in _compare(first, second, "")]
    return found[:20]


def _lines(file: Path) -> list[dict]:
    found = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return [{k: v for k, v in line.items() if k not in TIMES} for line in found]


def _compare(first, second, place: str) -> list[str]:
    """What differs, by its place."""
    if type(first) is not type(second):
        return [f"{place}: {type(first).__name__} and {type(second).__name__}"]
    if isinstance(first, dict):
        keys = {*first} ^ {*second}
        found = [f"{place}.{key} is in one only" for key in sorted(map(str, keys))]
        shared = [key for key in first if key in second and key not in ("recent", *TIMES)]
        return found + [
            t for key in shared for t in _compare(first[key], second[key], f"{place}.{key}")
        ]
    if isinstance(first, (list, tuple)):
        if len(first) != len(second):
            return [f"{place} has {len(first)} and {len(second)} entries"]
        pairs = enumerate(zip(first, second))
        return [t for i, (a, b) in pairs for t in _compare(a, b, f"{place}[{i}]")]
    if isinstance(first, torch.Tensor):
        same = first.shape == second.shape and first.numpy().tobytes() == second.numpy().tobytes()
    else:
        same = first == second or (first != first and second != second)
    return [] if same else [f"{place}: {str(first)[:60]} and {str(second)[:60]}"]


if __name__ == "__main__":
    main()
