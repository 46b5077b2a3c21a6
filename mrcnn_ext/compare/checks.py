# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Check a comparison before anything is trained."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from detectron2.modeling import build_model
from detectron2.utils.file_io import PathManager
from torch import nn

from ..coco.read import read_json
from ..config.load import default_config
from ..errors import ConfigError, DataError
from ..evaluation.check_keys import check_whole_config
from ..files import LOCK, write_json
from .kind import HeadKind
from .plan import Plan, Variant, flat

__all__ = ["check_plan", "open_folder", "run_settings"]

# Keys in which end-to-end trainings may not differ: what a step sees, and how many steps there are.
# Frozen heads may differ only in the keys of their kind: others would change boxes, images or schedule.
_DATA_KEYS = (
    *("DATASETS.", "DATALOADER.", "INPUT.", "TEST."),
    *("MRCNN_EXT.SHAPES.", "MRCNN_EXT.DATA.", "MRCNN_EXT.POSE.", "MRCNN_EXT.EVALUATION."),
)
_SCHEDULE_KEYS = ("SOLVER.IMS_PER_BATCH", "SOLVER.MAX_ITER")
_OWN_KEYS = ("SEED", "OUTPUT_DIR")


def check_plan(plan: Plan) -> None:
    """Build every config and every model once.

    Raises:
        ConfigError: names the head and the key, or the argument.
    """
    for option, number in (("--seeds", plan.seeds), ("--jobs", plan.jobs)):
        if number < 1:
            raise ConfigError(f"{option} is {number}, expected 1 or more.")
    for option, count in (
        ("--iterations", plan.iterations),
        ("--detector-iterations", plan.detector_iterations),
    ):
        if count is not None and count < 1:
            raise ConfigError(f"{option} is {count}, expected 1 or more.")
    if plan.detector and plan.mode != "frozen":
        raise ConfigError("--detector gives a detector to freeze; it goes with --mode frozen.")
    if plan.detector and not PathManager.isfile(plan.detector):
        raise ConfigError(f"--detector: there is no file '{plan.detector}'.")
    if plan.held_out and not plan.kind.can_hold_out:
        raise ConfigError("--held-out leaves masks out; it goes with --part mask.")
    _check_names(plan)
    base = plan.base_config(plan.iterations)
    check_whole_config(base, training=True)
    if len(base.DATASETS.TEST) != 1:
        raise ConfigError(
            f"DATASETS.TEST is {base.DATASETS.TEST}; a comparison evaluates on exactly one data set."
        )
    shapes = None
    if plan.mode == "frozen":
        detector = _built(plan.detector_config(), "the detector", plan.kind)
        shapes = _shared_shapes(detector, plan.kind)
    for variant in plan.variants:
        cfg = plan.config(variant, seed=1)
        _check_keys(plan, variant, flat(base), flat(cfg))
        model = _built(cfg, f"--heads '{variant.name}'", plan.kind)
        if shapes is not None and _shared_shapes(model, plan.kind) != shapes:
            raise ConfigError(
                f"--heads '{variant.name}': outside of its {plan.kind.name} head, its model has other "
                "weights than the detector; --mode frozen compares heads of one detector."
            )


def open_folder(plan: Plan) -> None:
    """Make the output folder, or refuse one that belongs to another comparison.

    Raises:
        ConfigError: names what differs.
    """
    file = plan.output / "comparison.json"
    settings = plan.settings()
    # A key that is newer than the folder acted as its default then.
    defaults = flat(default_config())
    if file.is_file():
        _compare(_settings(file), settings, str(file), defaults)
    elif plan.output.is_dir() and any(f.name != LOCK for f in plan.output.iterdir()):
        raise ConfigError(f"--output {plan.output} is not empty, and no comparison made it.")
    for variant, seed in plan.runs():
        file_of_run = plan.folder(variant, seed) / "settings.json"
        if file_of_run.is_file():
            stored = _settings(file_of_run)
            settings_of_run = run_settings(plan, variant, seed)
            _compare(stored, settings_of_run, f"{variant.name}: {file_of_run}", defaults)
    try:
        write_json(file, settings)
    except OSError as error:
        raise ConfigError(f"--output {plan.output}: {error.strerror or error}.") from error


def _settings(file: Path) -> dict:
    stored = read_json(file)
    if not isinstance(stored, dict):
        raise DataError(f"{file}: holds no settings; delete it if you know that they are the same.")
    return stored


def run_settings(plan: Plan, variant: Variant, seed: int) -> dict:
    """Settings that the result of one run depends on, besides those of the comparison."""
    return {
        "config": {k: v for k, v in flat(plan.config(variant, seed)).items() if k not in _OWN_KEYS}
    }


def _compare(old: dict, new: dict, file: str, defaults: dict) -> None:
    before, after = ({**defaults, **x, **x["config"]} for x in (old, json.loads(json.dumps(new))))
    ignored = {"config", *_OWN_KEYS}
    keys = [k for k in sorted({*before, *after} - ignored) if before.get(k) != after.get(k)]
    if keys:
        changes = "; ".join(f"{k}: {before.get(k)!r} → {after.get(k)!r}" for k in keys[:6])
        more = f" and {len(keys) - 6} more" if len(keys) > 6 else ""
        raise ConfigError(
            f"{file} is of other settings ({changes}{more}). Take another --output, another name for "
            "the head, or delete what is there."
        )


def _check_names(plan: Plan) -> None:
    if not plan.variants:
        raise ConfigError("--heads: no head is given.")
    slugs: dict[str, str] = {}
    for variant in plan.variants:
        if not variant.slug:
            raise ConfigError(f"--heads: '{variant.name}' cannot name a folder.")
        if variant.slug in slugs:
            raise ConfigError(
                f"--heads: '{variant.name}' and '{slugs[variant.slug]}' have the same name; give one "
                'of them another: NAME=HEAD:"KEY VALUE".'
            )
        slugs[variant.slug] = variant.name


def _check_keys(plan: Plan, variant: Variant, base: dict, own: dict) -> None:
    changed = [key for key in own if own[key] != base.get(key) and key not in _OWN_KEYS]
    kind = plan.kind
    head = own[f"MODEL.{kind.node}.NAME"]
    unread = [key for key in changed if key.startswith(kind.own_keys)]
    if unread and not plan.held_out and not kind.is_of_this_package(head):
        raise ConfigError(
            f"--heads '{variant.name}' sets {unread[0]}, which {head} does not read. Name a head of "
            f'mrcnn_ext: {variant.slug}={kind.plain_head}:"KEY VALUE".'
        )
    wrong = [k for k in changed if k.startswith(_DATA_KEYS) or k in _SCHEDULE_KEYS]
    why = "all heads of a comparison see the same data for as long"
    if plan.mode == "frozen" and not wrong:
        wrong = [k for k in changed if not k.startswith(kind.keys) or k.startswith(kind.fixed)]
        why = f"with --mode frozen, heads differ in the {kind.name} head alone"
    if wrong:
        details = "; ".join(f"{k}: {base.get(k)!r} → {own[k]!r}" for k in wrong[:6])
        raise ConfigError(f"--heads '{variant.name}' changes {details}; but {why}.")


def _built(cfg, what: str, kind: HeadKind) -> nn.Module:
    cfg = cfg.clone()
    cfg.MODEL.DEVICE = "cpu"
    if not cfg.MODEL[kind.switch]:
        raise ConfigError(
            f"{what}: MODEL.{kind.switch} is False; there is no {kind.name} head to compare."
        )
    try:
        check_whole_config(cfg, training=True)
        with torch.random.fork_rng():
            return build_model(cfg)
    except Exception as error:  # a head of anyone's may raise anything
        raise ConfigError(f"{what} cannot be built: {type(error).__name__}: {error}") from error


def _shared_shapes(model: nn.Module, kind: HeadKind) -> dict[str, tuple]:
    return {
        key: tuple(value.shape) for key, value in model.state_dict().items() if not kind.owns(key)
    }
