# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Choose the keys of a config for a data set; each choice has its reason.

What was measured in this project is cited; the rest are Detectron2's rules, scaled.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import DataError
from ...messages import shorten
from ..stats import DEFAULT_RATIOS, DEFAULT_SIZES, Measured, resized, suggest_anchors

__all__ = ["Choice", "Machine", "choose"]

_SMALL_BASE = "Base-MaskRCNN-Lite0-FPN-small.yaml"
_LARGE_BASE = "Base-MaskRCNN-R50-FPN.yaml"
_STEP = 32  # pixels: sizes are multiples of the coarsest stride of the backbone
_CPU_SIDES, _GPU_SIDES = (192, 384), (320, 1024)  # of the shorter side
_WANTED_SIZE = 24  # pixels that the median object should have
_LONG = 5 / 3  # longer side at most, by the shorter one: Detectron2's 1333 / 800
_GIB_AN_IMAGE = 1.4  # of 800 x 1333 pixels: Detectron2's model zoo says 3.4 GB for two
_PIXELS = 800 * 1333
_SPARE = 1.5  # times what is estimated
_CPU_RATE, _GPU_RATE = 0.02 / 2, 0.02 / 16  # learning rate for an image of the batch
_CPU_IMAGES, _GPU_IMAGES = 3000, 48_000  # that a training sees at least
_CPU_MOST = 40_000  # … and at most
_EPOCHS = 12  # Detectron2's 1x
_MANY_EMPTY = 0.5  # share of the images
_OVERLAP = 0.02  # share of the objects
_RARE = 0.02  # share of the images


@dataclass(frozen=True)
class Machine:
    """
    Attributes:
        device: "cpu" or "cuda".
        memory: GiB of the GPU, or of the machine.
        workers: processes for loading.
        source: where this is known from.
    """

    device: str
    memory: float
    workers: int
    source: str


@dataclass(frozen=True)
class Choice:
    """A key, its value, and why; several values of one reason follow one another, the later without."""

    key: str
    value: Any
    why: str = ""


def choose(found: Measured, machine: Machine, *, keypoints: int = 0):
    """Choose a base and keys.

    Args:
        found: the training set.
        machine: where it will be trained.
        keypoints: slots of all skeletons together; 0: train none.

    Returns:
        name of the base config, choices, and notes.

    Raises:
        DataError: there is nothing to train on.
    """
    if not len(found.boxes):
        raise DataError("the data set has no object to train on.")
    small = machine.device == "cpu"
    short, sizes, size_why = _sizes(found, small)
    longest = _multiple(short * min(_LONG, _aspect(found)))
    masks = _masks(found)
    batch, accumulate, batch_why = _batch(machine, short, longest, bool(keypoints))
    choices = [
        Choice(
            "MODEL.ROI_HEADS.NUM_CLASSES", len(found.names), f"Classes: {shorten(found.names, 8)}."
        ),
        *_anchors(found, short, longest),
        *masks,
        *(_mask_head(found, small) if masks[0].value else []),
        *(_keypoint_head(found, small, keypoints) if keypoints else []),
        *_crowded(found, small),
        Choice("INPUT.MIN_SIZE_TRAIN", sizes, size_why),
        Choice("INPUT.MAX_SIZE_TRAIN", longest),
        Choice("INPUT.MIN_SIZE_TEST", short, "Tested at the largest size of training."),
        Choice("INPUT.MAX_SIZE_TEST", longest),
        *_schedule(found, small, batch, accumulate, batch_why),
        *_loading(found, machine),
    ]
    return (_SMALL_BASE if small else _LARGE_BASE), choices, _notes(found)


# ------------------------------------------------------------------------------------ input sizes


def _multiple(value: float) -> int:
    return max(_STEP, round(value / _STEP) * _STEP)


def _aspect(found: Measured) -> float:
    """Longer side by the shorter one, of nearly all images."""
    sides = np.sort(found.image_sizes, axis=1)
    return max(1.0, float(np.percentile(sides[:, 1] / sides[:, 0], 95)))


def _sizes(found: Measured, small: bool) -> tuple[int, tuple[int, ...], str]:
    native = float(np.median(found.image_sizes.min(axis=1)))
    median = float(np.median(np.sqrt(found.areas[found.areas > 0]))) if found.areas.any() else 1.0
    enlarge = min(max(_WANTED_SIZE / median, 1.0), 1.5)
    low, high = _CPU_SIDES if small else _GPU_SIDES
    short = _multiple(min(max(native * enlarge, low), high))
    sizes = tuple(dict.fromkeys(_multiple(short * share) for share in (0.8, 0.9, 1.0)))
    why = f"Images have {native:.0f} pixels on the shorter side (median), objects {median:.0f}"
    if enlarge > 1.05 and short > native * 1.05:
        why += ": enlarged, since small objects are found better"
    elif short < native * 0.95:
        reason = (
            "what a CPU trains on in a bearable time"
            if small
            else "Detectron2's usual size or less"
        )
        why += f": reduced to {reason}"
    return short, sizes, why + ". Three sizes make the model bear others."


def _anchors(found: Measured, short: int, longest: int) -> list[Choice]:
    scale = resized(found.image_sizes, short, longest)[found.image_of]
    best, *others = suggest_anchors(found.boxes[:, 2:] * scale[:, None])
    default = next((a for a in (best, *others) if a.what == "default"), best)
    if best is default:
        why = (
            f"Detectron2's anchors fit: the best one has an IoU of {best.mean_iou:.2f} on average."
        )
    else:
        why = (
            f"The best anchor has an IoU of {best.mean_iou:.2f} with a box on average at this size of "
            f"the images; of Detectron2's [32] … [512] it would be {default.mean_iou:.2f}."
        )
    sizes = [[int(size)] for size in best.sizes]
    choices = [Choice("MODEL.ANCHOR_GENERATOR.SIZES", sizes, why)]
    if best.ratios != DEFAULT_RATIOS or best.sizes != DEFAULT_SIZES:
        choices.append(Choice("MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", [list(best.ratios)]))
    return choices


# ------------------------------------------------------------------------------------------ heads


def _masks(found: Measured) -> list[Choice]:
    with_mask = found.kind_of != ""
    if not with_mask.any():
        return [Choice("MODEL.MASK_ON", False, "No object has a mask.")]
    rle = bool((found.kind_of == "RLE").any())
    choices = [
        Choice(
            "MODEL.MASK_ON", True, f"{with_mask.sum()} of {len(with_mask)} objects have a mask."
        ),
        Choice(
            "INPUT.MASK_FORMAT",
            "bitmask" if rle else "polygon",
            "There are masks in RLE, which polygons cannot hold: they may have holes."
            if rle
            else "All masks are polygons.",
        ),
    ]
    if not with_mask.all():
        choices.append(
            Choice(
                "MRCNN_EXT.DATA.BOXES_ONLY",
                True,
                f"{(~with_mask).sum()} objects have boxes only: they train boxes, not masks.",
            )
        )
    return choices


def _mask_head(found: Measured, small: bool) -> list[Choice]:
    if not small:
        why = (
            "RefineMask: in this project's comparison ahead of Mask R-CNN's head by 4.1 mask AP on "
            "the synthetic set and 1.5 on persons, for more time (docs/mask_heads/comparison.md)."
        )
        return [
            Choice("MODEL.ROI_MASK_HEAD.NAME", "MrcnnExtRefineMaskHead", why),
            Choice("MODEL.ROI_MASK_HEAD.NUM_CONV", 2),
        ]
    why = (
        "Mask R-CNN's head: RefineMask's masks are better, but a training step takes three times as "
        "long"
    )
    several = len(found.names) > 1
    if several:
        why += (
            ". One mask for all classes learns from all objects: 1.2 mask AP more than one for each "
            "class in a short training"
        )
    why += " (docs/mask_heads/comparison.md)."
    choices = [Choice("MODEL.ROI_MASK_HEAD.NAME", "MrcnnExtFCNMaskHead", why)]
    if several:
        choices.append(Choice("MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK", True))
    return choices


def _keypoint_head(found: Measured, small: bool, number: int) -> list[Choice]:
    labelled = int((found.keypoints > 0).sum())
    why = f"{labelled} of {len(found.boxes)} objects have keypoints, of {shorten(found.skeletons)}."
    choices = [
        Choice("MODEL.KEYPOINT_ON", True, why),
        Choice("MODEL.ROI_KEYPOINT_HEAD.NAME", "MrcnnExtHeatmapKeypointHead"),
        Choice("MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS", number, "Those of all skeletons together."),
        Choice("MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE", 0,
               "Images without keypoints train boxes and masks."),
        Choice("MRCNN_EXT.KEYPOINT_HEAD.CODEC", "gaussian",
               "Heatmaps with a peak of several pixels are easier to learn (docs/pose/heads.md)."),
    ]  # fmt: skip
    if small:
        choices += [
            Choice("MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS", [64] * 4,
                   "The paper's 8 x 512 would be most of a CPU's time."),
            Choice("MRCNN_EXT.KEYPOINT_HEAD.NORM", "GN"),
        ]  # fmt: skip
    return choices


def _crowded(found: Measured, small: bool) -> list[Choice]:
    """Detections, proposals and NMS for images with many objects."""
    most = int(np.percentile(found.per_image(), 99))
    choices = []
    detections = max(100, math.ceil(most * 1.2 / 50) * 50)
    if detections > 100:
        choices.append(
            Choice("TEST.DETECTIONS_PER_IMAGE", detections,
                   f"One image in a hundred has more than {most} objects; Detectron2 keeps 100.")
        )  # fmt: skip
    usual = 150 if small else 1000
    if 2 * detections > usual:
        why = "Proposals: at least twice as many as there may be objects."
        wanted = 2 * detections
        for stage, before in (("TRAIN", 500), ("TEST", 300)) if small else ():
            choices.append(Choice(f"MODEL.RPN.PRE_NMS_TOPK_{stage}", max(before, wanted), why))
            choices.append(Choice(f"MODEL.RPN.POST_NMS_TOPK_{stage}", max(300, wanted)))
            why = ""
    share = float((found.overlap_same >= 0.5).mean())
    if share > _OVERLAP:
        choices.append(
            Choice("MODEL.ROI_HEADS.NMS_THRESH_TEST", 0.6,
                   f"{share:.0%} of the objects overlap one of their class by an IoU of 0.5 and more: "
                   "at Detectron2's 0.5, one of two would be dropped.")
        )  # fmt: skip
    return choices


# --------------------------------------------------------------------------------------- schedule


def _batch(machine: Machine, short: int, longest: int, keypoints: bool) -> tuple[int, int, str]:
    """Images at a time, micro-batches, and why."""
    if machine.device == "cpu":
        why = "Two images a step: a CPU gains nothing from more at a time"
        if machine.memory < 3:
            raise DataError(f"{machine.memory:.1f} GiB of memory are too few: training takes 3.")
        return 2, 1, why
    # RefineMask takes a fifth more, keypoints a third.
    an_image = _GIB_AN_IMAGE * short * longest / _PIXELS * 1.2 * (1.33 if keypoints else 1)
    fit = int((0.9 * machine.memory - 1) / (_SPARE * an_image))
    if fit < 1:
        raise DataError(
            f"{machine.memory:.1f} GiB of GPU memory are too few: an image of {short} x {longest} "
            f"pixels takes about {an_image:.1f} GiB, and the model 1."
        )
    at_a_time = max(size for size in (1, 2, 4, 8, 16) if size <= fit)
    why = (
        f"About {an_image:.1f} GiB an image (an estimate from Detectron2's model zoo) and half of that "
        f"to spare: {at_a_time} at a time fit into {machine.memory:.0f} GiB"
    )
    batch = max(at_a_time, 8)
    if batch > at_a_time:
        why += f", {batch // at_a_time} times for a step of {batch}, which is less noisy"
    return batch, batch // at_a_time, why


def _schedule(
    found: Measured, small: bool, batch: int, accumulate: int, batch_why: str
) -> list[Choice]:
    images = int((found.per_image() > 0).sum())
    least, rate = (_CPU_IMAGES, _CPU_RATE) if small else (_GPU_IMAGES, _GPU_RATE)
    seen = max(_EPOCHS * images, least)
    seen = min(seen, max(_CPU_MOST, images)) if small else seen
    steps = math.ceil(seen / batch / 100) * 100
    epochs = steps * batch / max(images, 1)
    why = f"{epochs:.1f} epochs of the {images} images with objects"
    if seen > _EPOCHS * images:
        why += ": a small set needs more than Detectron2's 12 to learn at all"
    elif seen < _EPOCHS * images:
        why += ": as many as a CPU trains in a bearable time; 12 or more would be better"
    warm_up = max(100, min(1000, steps // 10))
    period = max(100, steps // 5)
    choices = [Choice("SOLVER.IMS_PER_BATCH", batch, f"{batch_why}.")]
    if accumulate > 1:
        choices.append(Choice("MRCNN_EXT.SOLVER.ACCUMULATE", accumulate))
    rule = (
        "0.02 for 2 images, which norms in all heads and clipped gradients of the small base bear"
        if small
        else "Detectron2's 0.02 for 16 images"
    )
    return [
        *choices,
        Choice("SOLVER.BASE_LR", round(rate * batch, 6), f"{rule}, scaled with the batch."),
        Choice("SOLVER.WARMUP_ITERS", warm_up, "A tenth of the training, 1000 at most."),
        Choice("SOLVER.MAX_ITER", steps, f"{why}."),
        Choice("SOLVER.STEPS", (steps * 4 // 5, steps * 14 // 15),
               "The learning rate falls to a tenth after 80 % and 93 %."),
        Choice("SOLVER.CHECKPOINT_PERIOD", period, "Five checkpoints, and an evaluation at each."),
        Choice("TEST.EVAL_PERIOD", period),
    ]  # fmt: skip


def _loading(found: Measured, machine: Machine) -> list[Choice]:
    choices = []
    empty = float((found.per_image() == 0).mean())
    if empty:
        many = empty > _MANY_EMPTY
        why = f"{empty:.0%} of the images have no object" + (
            ": too many to train on all of them; they are left out."
            if many
            else ": they teach what is none, so they are kept (Detectron2 leaves them out)."
        )
        choices.append(Choice("DATALOADER.FILTER_EMPTY_ANNOTATIONS", many, why))
    return [
        *choices,
        Choice(
            "DATALOADER.NUM_WORKERS", machine.workers, f"Processes that load ({machine.source})."
        ),
    ]


def _notes(found: Measured) -> list[str]:
    notes = []
    counts = np.bincount(found.label_of, minlength=len(found.names))
    images = np.array(
        [len(np.unique(found.image_of[found.label_of == k])) for k in range(len(counts))]
    )
    missing = [name for name, count in zip(found.names, counts) if not count]
    if missing:
        notes.append(f"no object to learn {shorten(missing)} from")
    rare = [
        name
        for name, count in zip(found.names, images)
        if 0 < count < _RARE * len(found.image_sizes) and len(counts) > 1
    ]
    if rare:
        notes.append(
            f"rare classes, in fewer than {_RARE:.0%} of the images: {shorten(rare)}. "
            f"MRCNN_EXT.DATA.SAMPLER 'repeat_factor' with SAMPLER_THRESHOLD {_RARE} shows them more "
            "often; try it against this config"
        )
    if len(found.boxes) < 200:
        notes.append(f"{len(found.boxes)} objects are few: expect little, and label more")
    return notes
