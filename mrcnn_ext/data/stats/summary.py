# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""What a measured data set comes to, as json holds it and as lines of text."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict

import numpy as np

from ...coco.areas import AREA_NAMES, in_area
from .anchors import suggest_anchors
from .measure import Measured, resized
from .pixels import config_lines

__all__ = ["lines", "summarize"]

_QUANTILES = (0, 5, 25, 50, 75, 95, 100)


def summarize(found: Measured, shortest: int, longest: int) -> dict:
    """
    Args:
        found: the data set.
        shortest, longest: of a training image, INPUT.MIN_SIZE_TRAIN and MAX_SIZE_TRAIN.

    Returns:
        numbers and lists; sizes are square roots of areas in pixels.
    """
    scale = resized(found.image_sizes, shortest, longest)[found.image_of]
    sides = found.boxes[:, 2:]
    box_area = sides.prod(axis=1)
    masked = found.kind_of != ""
    good = (sides > 0).all(axis=1)
    per_image = found.per_image()
    sizes = Counter(map(tuple, found.image_sizes[:, ::-1].tolist()))
    return {
        "images": len(found.image_sizes),
        "images_without_objects": int((per_image == 0).sum()),
        "objects": len(found.boxes),
        "crowds": found.crowds,
        "polygons": int((found.kind_of == "polygons").sum()),
        "rle": int((found.kind_of == "RLE").sum()),
        "boxes_only": int((~masked).sum()),
        "with_keypoints": int((found.keypoints > 0).sum()),
        "objects_per_image": _quantiles(per_image),
        "image_width": _quantiles(found.image_sizes[:, 1]),
        "image_height": _quantiles(found.image_sizes[:, 0]),
        "image_sizes": [[w, h, count] for (w, h), count in sizes.most_common(5)],
        "training_size": [shortest, longest],
        "object_size": _quantiles(np.sqrt(found.areas)),
        "object_size_in_training": _quantiles(np.sqrt(found.areas) * scale),
        "areas": {name: int(in_area(found.areas, name).sum()) for name in AREA_NAMES[1:]},
        "aspect_ratio": _quantiles(sides[good, 1] / sides[good, 0]),
        "mask_share_of_box": _quantiles(found.areas[masked & good] / box_area[masked & good]),
        "overlap": {
            "any_0.5": _share(found.overlap >= 0.5),
            "same_class_0.5": _share(found.overlap_same >= 0.5),
            "same_class_0.7": _share(found.overlap_same >= 0.7),
        },
        "classes": _classes(found),
        "skeletons": found.skeletons,
        "anchors": [asdict(anchors) for anchors in suggest_anchors(sides * scale[:, None])],
    }


def _quantiles(values: np.ndarray) -> dict[str, float]:
    if not len(values):
        return {}
    found = np.percentile(values, _QUANTILES)
    return {f"{q}%": round(float(v), 3) for q, v in zip(_QUANTILES, found)}


def _share(flags: np.ndarray) -> float:
    return round(float(flags.mean()), 4) if len(flags) else 0.0


def _classes(found: Measured) -> list[dict]:
    classes = []
    for index, name in enumerate(found.names):
        own = found.label_of == index
        entry = {
            "name": name,
            "objects": int(own.sum()),
            "images": len(np.unique(found.image_of[own])),
            "share": _share(own),
            "median_size": round(float(np.median(np.sqrt(found.areas[own]))), 1)
            if own.any()
            else None,
        }
        classes.append(entry)
    return classes


# ------------------------------------------------------------------------------------------- text


def lines(summary: dict) -> list[str]:
    """The summary for people, without its table of classes."""
    s = summary
    masks = ", ".join(
        f"{s[key]} {what}"
        for key, what in (
            ("polygons", "with polygons"),
            ("rle", "with RLE"),
            ("boxes_only", "with a box only"),
            ("with_keypoints", "with keypoints"),
        )
        if s[key]
    )
    short, long = s["training_size"]
    text = [
        f"{s['images']} images ({s['images_without_objects']} without objects), {s['objects']} objects"
        f" ({masks or 'none'}), {s['crowds']} crowds",
        f"objects in an image: {_range(s['objects_per_image'])}",
        f"image width: {_range(s['image_width'])}; height: {_range(s['image_height'])}; most often "
        + ", ".join(f"{w} x {h} ({count})" for w, h, count in s["image_sizes"][:3]),
    ]
    if not s["objects"]:
        return text
    areas = ", ".join(f"{count} {name}" for name, count in s["areas"].items())
    overlap = s["overlap"]
    text += [
        f"object size, sqrt(area) in pixels: {_range(s['object_size'])}; {areas}",
        f"the same in training at {short} / {long} pixels: {_range(s['object_size_in_training'])}",
        f"height / width of boxes: {_range(s['aspect_ratio'])}",
    ]
    if s["mask_share_of_box"]:
        text.append(f"mask / box: {_range(s['mask_share_of_box'])}")
    text.append(
        f"boxes that overlap another one by IoU 0.5 and more: {overlap['any_0.5']:.1%}, one of the "
        f"same class: {overlap['same_class_0.5']:.1%} (NMS at 0.5 finds one of such a pair)"
    )
    text.append("anchors, with the mean IoU of the best one for each box, and how many have 0.5:")
    for index, anchors in enumerate(s["anchors"]):
        sizes = ", ".join(f"[{size:g}]" for size in anchors["sizes"])
        ratios = ", ".join(f"{ratio:g}" for ratio in anchors["ratios"])
        text.append(
            f"  {'suggested: ' if index == 0 else ''}{anchors['what']}: SIZES [{sizes}], ASPECT_RATIOS "
            f"[[{ratios}]]: {anchors['mean_iou']:.3f}, {anchors['recall']:.1%}"
        )
    pixels = s.get("pixels")
    if pixels:
        text.append(
            f"pixels of {pixels['images']} images, {pixels['bands']} bands of {pixels['dtype']} "
            f"({pixels['format']}): PIXEL_MEAN {pixels['mean']}, PIXEL_STD {pixels['std']}"
        )
        if "chosen" in pixels:
            text += ["in a config:", *(f"  {line}" for line in config_lines(pixels))]
    return text


def _range(quantiles: dict[str, float]) -> str:
    q = quantiles
    if not q:
        return "none"
    return f"{q['0%']:.4g} … {q['5%']:.4g} [{q['50%']:.4g}] {q['95%']:.4g} … {q['100%']:.4g}"
