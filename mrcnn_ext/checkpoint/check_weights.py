# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Decide whether a checkpoint fits a model: what it brought, what is still random, what is NaN."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ..errors import WeightsError
from ..messages import shorten

__all__ = ["CheckedWeights", "check_complete", "check_usable", "compare_weights"]
__all__ += ["describe_loaded", "describe_new"]

logger = logging.getLogger("detectron2." + __name__)  # which its tools print

# Left at what the config or the layer itself says if a (usually older) file lacks them.
_OPTIONAL = ("pixel_mean", "pixel_std", ".num_batches_tracked")


@dataclass(frozen=True)
class CheckedWeights:
    """What a checkpoint brought for a model; all names are those of the model's state_dict.

    Attributes:
        loaded: names that have the file's values.
        missing: names that the file lacks or has in another shape.
        other_shape: name, shape in the file, shape in the model.
        not_finite: loaded names whose values are NaN or infinite in part.
        unused: names in the file that the model does not have.
    """

    loaded: list[str]
    missing: list[str]
    other_shape: list[tuple[str, tuple[int, ...], tuple[int, ...]]]
    not_finite: list[str]
    unused: list[str]


def compare_weights(
    model: nn.Module,
    missing: Iterable[str],
    other_shape: Sequence[tuple] = (),
    unused: Iterable[str] = (),
) -> CheckedWeights:
    """Say what loading brought.

    Args:
        model: after ``load_state_dict(…, strict=False)``.
        missing: the missing_keys that it returned.
        other_shape: name, shape in the file and in the model of what was left out for its shape.
        unused: the unexpected_keys that it returned.
    """
    lacking = {*missing, *(key for key, *_ in other_shape)}
    state = model.state_dict(keep_vars=True)
    loaded = [key for key in state if key not in lacking]
    # A tensor with two names (shared layers) is there under either.
    there = {id(state[key]) for key in loaded}
    names = [
        key
        for key, value in state.items()
        if key in lacking and id(value) not in there and not key.endswith(_OPTIONAL)
    ]
    bad = [
        key
        for key in loaded
        if state[key].is_floating_point() and not bool(torch.isfinite(state[key]).all())
    ]
    return CheckedWeights(loaded, names, list(other_shape), bad, list(unused))


def check_complete(checked: CheckedWeights, source: str) -> None:
    """Refuse weights that leave a part of the model random, or are NaN.

    Args:
        checked: what :func:`compare_weights` returned.
        source: name of the file.

    Raises:
        WeightsError: names the file, the parts of the model and what differs.
    """
    if checked.not_finite:
        number = f"{len(checked.not_finite)} of {len(checked.loaded)} weights"
        raise WeightsError(
            f"{source}: {number} are NaN or infinite, '{checked.not_finite[0]}' for one: its training "
            "diverged, or the file is damaged."
        )
    if not checked.missing:
        return
    total = len(checked.loaded) + len(checked.missing)
    if not checked.loaded:
        has = f"it has {shorten(checked.unused, 3)}" if checked.unused else "it is empty"
        raise WeightsError(f"{source}: has none of the model's {total} weights; {has}.")
    if checked.other_shape:
        raise WeightsError(f"{source}: is of another model: {_shapes(checked)}.")
    raise WeightsError(
        f"{source}: lacks {len(checked.missing)} of the model's {total} weights, which would be "
        f"random: {_parts(checked.missing)}. Is it of this config, and not of a backbone only?"
    )


def check_usable(
    checked: CheckedWeights | None, source: str, key: str, *, training: bool = False
) -> None:
    """Refuse weights that no model can use, whatever else it lets be missing.

    Args:
        checked: what :func:`compare_weights` returned; None: nothing was loaded.
        source: name of the file.
        key: that names it.
        training: it begins with them, so that there may be none.

    Raises:
        WeightsError: some are NaN, or an evaluation has none of the model's.
    """
    if checked is None:
        if not training:
            logger.warning(f"{key} is {source!r}: a model with random weights is evaluated.")
    elif checked.not_finite or not (training or checked.loaded):
        check_complete(checked, f"{source} ({key})")
    elif not checked.loaded:
        logger.warning(f"{key}: {source} has none of the model's weights: all begin random.")


def describe_new(checked: CheckedWeights, start: int) -> str:
    """One sentence before training about what the weights did not bring; "" if that is nothing.

    Args:
        start: the first iteration; more than 0 for a training that is resumed.
    """
    if not checked.missing or not checked.loaded:
        return ""
    new = f"missing or of another shape, so starting random: {_parts(checked.missing)}"
    if not start:
        return f"MODEL.WEIGHTS: loaded {_parts(checked.loaded)}; {new}"
    return (
        f"the training goes on from iteration {start}, but of its checkpoint {new}. Has the number "
        "of classes (MODEL.ROI_HEADS.NUM_CLASSES) or the head changed? Then begin a new training: "
        "another OUTPUT_DIR, and the old checkpoint as MODEL.WEIGHTS."
    )


def describe_loaded(checked: CheckedWeights) -> str:
    """One sentence for fine-tuning: what is loaded, what is new and starts random."""
    parts = [f"loaded {_parts(checked.loaded) or 'nothing'}"]
    if checked.missing:
        parts.append(f"new, starting random: {_parts(checked.missing)}")
    if checked.other_shape:
        parts.append(_shapes(checked))
    if checked.unused:
        parts.append(f"not used: {_parts(checked.unused)}")
    if checked.not_finite:
        parts.append(f"NaN or infinite: {_parts(checked.not_finite)}")
    return "; ".join(parts)


def _parts(names: Iterable[str]) -> str:
    """Names by their part of the model: "roi_heads.mask_head (10), proposal_generator (6)"."""
    counts: Counter[str] = Counter()
    for name in names:
        words = name.split(".")
        depth = 2 if words[0] == "roi_heads" else 1
        counts[".".join(words[:depth])] += 1
    return shorten([f"{part} ({number})" for part, number in counts.items()], 8)


def _shapes(checked: CheckedWeights) -> str:
    name, in_file, in_model = checked.other_shape[0]
    text = f"'{name}' is {list(in_file)} in the file, but {list(in_model)} in the model"
    if len(checked.other_shape) > 1:
        text += f" (and {len(checked.other_shape) - 1} more)"
    for name, in_file, in_model in checked.other_shape:
        if name.endswith("cls_score.bias"):  # one for each class and the background
            classes = f"{in_file[0] - 1} classes, the config {in_model[0] - 1}"
            return f"{text}; the file has {classes} (MODEL.ROI_HEADS.NUM_CLASSES)"
    return text
