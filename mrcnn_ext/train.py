# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Train or evaluate a model; command line and results are those of Detectron2's train_net.py.

    python -m mrcnn_ext.train --config-file CONFIG [--resume | --eval-only] [KEY VALUE …]
    python -m mrcnn_ext.train --config-file CONFIG.py [--resume | --eval-only] [key=value …]

CONFIG: a yaml or LazyConfig file, or a name of mrcnn_ext.model_zoo. What is beyond train_net.py: keys
of MRCNN_EXT (optimizers, moving average, loggers, exact resume: docs/training.md) need no environment
variable, mistakes end in one message, weights and yaml files are read without running code from them,
and with MODEL.DEVICE cpu (train.device=cpu in a LazyConfig), --num-gpus is a number of CPU processes.

Exit code 0: done (also by early stopping); 1: it failed, the message says where and what to do, or
TEST.EXPECTED_RESULTS were not met; 2: wrong usage; 130, 143, 129: ended by SIGINT, SIGTERM, SIGHUP.
With MRCNN_EXT.RESUME.EXACT, SIGTERM writes a checkpoint first. --resume goes on from the last one.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import weakref
from collections import OrderedDict
from collections.abc import Sequence

import torch
from detectron2.engine import default_argument_parser, default_setup, hooks
from detectron2.evaluation import verify_results
from detectron2.utils import comm

from .checkpoint import SafeCheckpointer
from .checkpoint.check_weights import check_usable
from .command_line import (
    TRUST_PICKLE,
    add_import_option,
    import_all,
    open_standard_files,
    run_until_stopped,
)
from .config.check import check_model_and_datasets
from .config.check_data import check_data
from .config.check_solver import check_given, check_sampler_name, check_schedule_name
from .config.check_training import check_training
from .config.load import find_config, load_config
from .data import register_datasets
from .engine.check_lazy import check_lazy
from .engine.cpu_processes import check_cpu_training
from .engine.expected_errors import EXPECTED_ERRORS, expected_error
from .engine.launch import launch, threads_per_process
from .engine.lazy_training import evaluate_lazy, train_lazy
from .engine.processes import ProcessError
from .engine.same_start import check_same_start, check_weights
from .engine.trainer import Trainer
from .errors import ConfigError, DataError
from .files import check_writable
from .modeling.tta import KeypointRCNNWithTTA
from .stop_signals import StopSignals

__all__ = ["main"]

_EXAMPLES = """\
Examples:

  python -m mrcnn_ext.train --config-file Shapes/mask_rcnn_Lite0_FPN.yaml MODEL.DEVICE cpu
  python -m mrcnn_ext.train --config-file cfg.yaml --num-gpus 8 OUTPUT_DIR output/mine
  python -m mrcnn_ext.train --config-file cfg.yaml --eval-only MODEL.WEIGHTS output/mine/model_final.pth

Two machines, the same command on both but for --machine-rank:

  python -m mrcnn_ext.train --config-file cfg.yaml --num-gpus 8 --num-machines 2 --machine-rank 0 \\
      --dist-url tcp://HOST_OF_MACHINE_0:29500
"""


def _parser() -> argparse.ArgumentParser:
    parser = default_argument_parser(epilog=_EXAMPLES)
    parser.prog = "python -m mrcnn_ext.train"
    parser.description = __doc__
    (number,) = (action for action in parser._actions if action.dest == "num_gpus")
    number.help = "number of GPUs, or of CPU processes with MODEL.DEVICE cpu, *per machine*"
    (resume,) = (action for action in parser._actions if action.dest == "resume")
    resume.help = (
        "go on from the last checkpoint in OUTPUT_DIR; without one, start at the beginning"
    )
    (evaluate,) = (action for action in parser._actions if action.dest == "eval_only")
    evaluate.help = "evaluate MODEL.WEIGHTS (LazyConfig: train.init_checkpoint) on the test sets"
    add_import_option(parser, "heads or data sets")
    parser.add_argument("--trust-pickle", action="store_true", help=TRUST_PICKLE)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    open_standard_files()
    args = _parser().parse_args(argv)

    def run(_signals: StopSignals) -> int:
        try:
            _start(args)
        except Exception as error:
            expected = expected_error(error)
            if expected is None or expected is error:
                raise
            raise expected from error
        return 0

    def ended(stop: KeyboardInterrupt) -> str:
        return f"\nEnded by {stop or 'SIGINT'}; --resume goes on from the last checkpoint."

    return run_until_stopped("train", run, errors=(*EXPECTED_ERRORS, ProcessError), ended=ended)


def _start(args: argparse.Namespace) -> None:
    """Check what can be checked before the processes start, then start them."""
    if not args.config_file:
        raise ConfigError("--config-file is missing.")
    args.config_file = find_config(args.config_file)
    import_all(args.imports)
    cfg = load_config(args.config_file, args.opts)
    is_lazy = args.config_file.endswith(".py")
    if is_lazy:
        check_lazy(cfg, training=not args.eval_only)
    else:
        check_given(cfg)
        check_training(cfg, training=not args.eval_only)
        check_data(cfg)
        if not args.eval_only:
            check_sampler_name(cfg)
            check_schedule_name(cfg)
    device = _device(cfg, is_lazy)
    processes = args.num_gpus * args.num_machines
    if device == "cpu" and not is_lazy and not args.eval_only:
        check_cpu_training(cfg, processes)
    _check_output(cfg, is_lazy, args.eval_only)
    if not args.resume:
        check_weights(cfg.train.init_checkpoint if is_lazy else cfg.MODEL.WEIGHTS)
    if device not in ("cpu", "cuda") and processes > 1:
        raise ConfigError(f"--num-gpus: several processes need CPUs or CUDA, not '{device}'.")
    print("Command Line Args:", args)
    if device == "cpu" and processes > 1:
        print(
            f"{args.num_gpus} CPU processes on this machine, {threads_per_process(args.num_gpus)} "
            "threads each (OMP_NUM_THREADS says how many, if it is set)",
            flush=True,
        )
    launch(
        _train_lazy if is_lazy else _train_yaml,
        args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        args=(args,),
        device="cuda" if device == "cuda" else "cpu",
    )


def _check_output(cfg, is_lazy: bool, eval_only: bool) -> None:
    """Before the data are read, and before hours have passed."""
    key, folder = (
        ("train.output_dir", cfg.train.output_dir) if is_lazy else ("OUTPUT_DIR", cfg.OUTPUT_DIR)
    )
    if folder is None and eval_only:
        return
    if not isinstance(folder, str) or not folder:
        raise ConfigError(f"{key} is {folder!r}; expected a folder for checkpoints and logs.")
    try:
        check_writable(folder)
    except DataError as error:
        raise ConfigError(f"{key} is '{folder}', but {error}") from error


def _device(cfg, is_lazy: bool) -> str:
    key, name = (
        ("train.device", cfg.train.device) if is_lazy else ("MODEL.DEVICE", cfg.MODEL.DEVICE)
    )
    setting = "train.device=cpu" if is_lazy else "MODEL.DEVICE cpu"
    try:
        device = torch.device(name).type
    except RuntimeError as error:
        raise ConfigError(f"{key} is {name!r}; expected 'cuda' or 'cpu'.") from error
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            f"{key} is '{name}', but PyTorch finds no GPU here; add {setting} to the command to train "
            "on the CPU."
        )
    return device


# ---------------------------------------------------------------------------------------------- yaml


class _CommandTrainer(Trainer):
    """Reads weights without running code from them."""

    trust_pickle = False

    def build_hooks(self):
        # Before the hooks are built: some keep a reference to the checkpointer.
        self.checkpointer = SafeCheckpointer(
            self.model,
            self.cfg.OUTPUT_DIR,
            trainer=weakref.proxy(self),
        )
        built = super().build_hooks()
        self.checkpointer.trust_pickle = self.trust_pickle
        return built


def _train_yaml(args: argparse.Namespace):
    """What every process does for a yaml config."""
    import_all(args.imports)
    _log_own_errors_briefly()
    cfg = load_config(args.config_file, args.opts)
    # For any META_ARCHITECTURE; those of this package also check the whole config.
    register_datasets(cfg)
    check_model_and_datasets(cfg, training=not args.eval_only)
    cfg.freeze()
    default_setup(cfg, args)
    if args.eval_only:
        model = Trainer.build_model(cfg)
        checkpointer = SafeCheckpointer(model, cfg.OUTPUT_DIR, trust_pickle=args.trust_pickle)
        check_same_start(checkpointer, cfg.MODEL.WEIGHTS, args.resume)
        checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
        check_usable(checkpointer.checked, cfg.MODEL.WEIGHTS, "MODEL.WEIGHTS")
        results = Trainer.test(cfg, model)
        if cfg.TEST.AUG.ENABLED:
            results.update(_test_with_tta(cfg, model))
        if comm.is_main_process():
            verify_results(cfg, results)
        return
    _CommandTrainer.trust_pickle = args.trust_pickle
    trainer = _CommandTrainer(cfg)
    check_same_start(trainer.checkpointer, cfg.MODEL.WEIGHTS, args.resume)
    trainer.resume_or_load(resume=args.resume)
    if not trainer.start_iter:
        checked = getattr(trainer.checkpointer, "checked", None)
        check_usable(checked, cfg.MODEL.WEIGHTS, "MODEL.WEIGHTS", training=True)
    if cfg.TEST.AUG.ENABLED:
        trainer.register_hooks([hooks.EvalHook(0, lambda: _test_with_tta(cfg, trainer.model))])
    trainer.train()


def _test_with_tta(cfg, model) -> dict:
    logging.getLogger("detectron2.trainer").info(
        "Running inference with test-time augmentation ..."
    )
    folder = os.path.join(cfg.OUTPUT_DIR, "inference_TTA")
    names = cfg.DATASETS.TEST
    evaluators = [Trainer.build_evaluator(cfg, name, output_folder=folder) for name in names]
    results = Trainer.test(cfg, KeypointRCNNWithTTA(cfg, model), evaluators)
    return OrderedDict({f"{name}_TTA": value for name, value in results.items()})


# ---------------------------------------------------------------------------------------- LazyConfig


def _train_lazy(args: argparse.Namespace) -> None:
    """What every process does for a LazyConfig."""
    import_all(args.imports)
    _log_own_errors_briefly()
    cfg = load_config(args.config_file, args.opts)
    default_setup(cfg, args)
    run = evaluate_lazy if args.eval_only else train_lazy
    run(cfg, resume=args.resume, trust_pickle=args.trust_pickle)


# ------------------------------------------------------------------------------------------- logging


def _log_own_errors_briefly() -> None:
    """Keep Detectron2's trainer from printing the traceback of an error whose message says all."""
    logging.raiseExceptions = False  # a log on a full disk is lost; no traceback for each line
    logger = logging.getLogger("detectron2.engine.train_loop")
    if not any(isinstance(f, _Brief) for f in logger.filters):
        logger.addFilter(_Brief())


class _Brief(logging.Filter):
    """Writes such an error to the log file only: the command prints its message when it ends."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        error = expected_error(error) if error is not None else None
        if error is None:
            return True
        record.exc_info, record.msg, record.args = None, f"{type(error).__name__}: {error}", ()
        for handler in logging.getLogger("detectron2").handlers:
            if getattr(handler, "stream", sys.stdout) not in (sys.stdout, sys.stderr):
                handler.handle(record)
        return False


if __name__ == "__main__":
    sys.exit(main())
