# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""One picture of the synthetic set, with exact masks and keypoints."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from . import texture
from .kinds import SHAPES_KIND, SceneKind
from .outlines import DISTRACTORS, SHAPES, random_outline
from .raster import Outline, coverage

__all__ = ["MIN_VISIBLE_FRACTION", "MIN_VISIBLE_PIXELS", "SHAPES_CLASSES", "Scene", "render_scene"]

SHAPES_CLASSES: tuple[str, ...] = tuple(SHAPES)

# An object that shows less could not be recognised. Nothing is placed that would hide one so far, so
# that every object of a class in a picture is annotated.
MIN_VISIBLE_PIXELS = 12
MIN_VISIBLE_FRACTION = 0.15
_ATTEMPTS = 16


@dataclass
class _Placed:
    category: int  # index into the kind's classes; -1 for things without a label
    outline: Outline
    area: int  # pixels of the whole object, also outside the image
    visible: int  # pixels that can be seen
    center: np.ndarray
    size: float


@dataclass
class Scene:
    """A picture and its truth.

    Attributes:
        image: uint8 (H, W, 3), RGB.
        categories: per object the index into the kind's classes.
        masks: bool (N, H, W): the visible part of each object; no two overlap.
        keypoints: per object None, or float64 (K, 3): x, y in continuous coordinates (the centre of
            the first pixel is 0.5, 0.5) and COCO's visibility 0, 1 or 2.
    """

    image: np.ndarray
    categories: list[int]
    masks: np.ndarray
    keypoints: list[np.ndarray | None]


@dataclass
class _Canvas:
    kind: SceneKind
    image: np.ndarray
    owner: np.ndarray  # int16 (H, W): which object is on top; -1 is the background
    placed: list[_Placed] = field(default_factory=list)


def render_scene(
    rng: np.random.Generator, height: int, width: int, kind: SceneKind = SHAPES_KIND
) -> Scene:
    """Compose a picture: background, clutter, objects over one another, thin bars on top.

    The longer side of an object is log-uniform from the kind's smallest to half of the image's longer
    side.
    """
    image = texture.background(rng, height, width)
    canvas = _Canvas(kind, image, np.full((height, width), -1, dtype=np.int16))
    for _ in range(rng.integers(2, 8)):
        _add(canvas, rng, -1)
    for _ in range(rng.integers(*kind.number)):
        _add(canvas, rng, int(rng.integers(len(kind.classes))))
    for _ in range(rng.integers(0, 3)):
        _add(canvas, rng, -1)
    kept = [(i, p) for i, p in enumerate(canvas.placed) if p.category >= 0]
    masks = [canvas.owner == index for index, _ in kept]
    return Scene(
        image=texture.degrade(rng, canvas.image),
        categories=[p.category for _, p in kept],
        masks=np.stack(masks) if masks else np.zeros((0, height, width), dtype=bool),
        keypoints=[_keypoints(p.outline, mask) for (_, p), mask in zip(kept, masks)],
    )


def _add(canvas: _Canvas, rng: np.random.Generator, category: int) -> None:
    """Put an object on top, at a place where it and those below it stay recognisable."""
    height, width = canvas.owner.shape
    if category < 0:
        make = DISTRACTORS[int(rng.integers(len(DISTRACTORS)))]
    else:
        make = canvas.kind.classes[canvas.kind.class_names[category]]
    for _ in range(_ATTEMPTS):
        smallest, largest = canvas.kind.smallest, max(height, width) / 2
        size = float(np.exp(rng.uniform(np.log(min(smallest, largest)), np.log(largest))))
        center = _center(canvas, rng)
        outline = random_outline(make, rng).transformed(np.eye(2) * size, center)
        x0, y0, x1, y1 = outline.bounds()
        window = (int(np.floor(x0)), int(np.floor(y0)), int(np.ceil(x1)), int(np.ceil(y1)))
        # At least 16 samples a pixel where a pixel matters; a large object needs fewer.
        alpha = coverage(outline, window, samples=8 if size < 48 else 4 if size < 400 else 2)
        if _place(canvas, rng, _Placed(category, outline, 0, 0, center, size), window, alpha):
            return


def _center(canvas: _Canvas, rng: np.random.Generator) -> np.ndarray:
    """Choose a centre, half of the time close to an earlier object, so that occlusion is common."""
    height, width = canvas.owner.shape
    if canvas.placed and rng.random() < 0.5:
        other = canvas.placed[int(rng.integers(len(canvas.placed)))]
        near = other.center + rng.uniform(-0.6, 0.6, 2) * other.size
        return near.clip(0, (width, height))
    return rng.uniform(0, (width, height))


def _place(
    canvas: _Canvas,
    rng: np.random.Generator,
    new: _Placed,
    window: tuple[int, int, int, int],
    alpha: np.ndarray,
) -> bool:
    height, width = canvas.owner.shape
    x0, y0 = max(window[0], 0), max(window[1], 0)
    x1, y1 = min(window[2], width), min(window[3], height)
    new.area = int((alpha >= 0.5).sum())
    alpha = alpha[y0 - window[1] : y1 - window[1], x0 - window[0] : x1 - window[0]]
    mask = alpha >= 0.5
    new.visible = int(mask.sum())
    if not _recognisable(new):
        return False
    owner = canvas.owner[y0:y1, x0:x1]
    hidden = np.bincount(owner[mask] + 1, minlength=len(canvas.placed) + 1)[1:]
    for below, loss in zip(canvas.placed, hidden):
        if loss and not _recognisable(below, int(loss)):
            return False
    for below, loss in zip(canvas.placed, hidden):
        below.visible -= int(loss)
    owner[mask] = len(canvas.placed)
    behind = canvas.image[y0:y1, x0:x1]
    behind += alpha[..., None] * (texture.fill(rng, behind) - behind)
    canvas.placed.append(new)
    return True


def _recognisable(thing: _Placed, loss: int = 0) -> bool:
    visible = thing.visible - loss
    if thing.category < 0:
        return True
    return visible >= MIN_VISIBLE_PIXELS and visible >= MIN_VISIBLE_FRACTION * thing.area


def _keypoints(outline: Outline, mask: np.ndarray) -> np.ndarray | None:
    if outline.keypoints is None:
        return None
    height, width = mask.shape
    out = np.zeros((len(outline.keypoints), 3))
    for row, (x, y) in zip(out, outline.keypoints):
        if 0 <= x < width and 0 <= y < height:
            row[:] = x, y, 2 if mask[int(y), int(x)] else 1
    return out
