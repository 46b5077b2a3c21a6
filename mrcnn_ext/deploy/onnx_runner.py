#!/usr/bin/env python3
# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Run a Mask R-CNN that ``python -m mrcnn_ext.export`` wrote, without PyTorch and Detectron2.

    python onnx_runner.py model.onnx IMAGE… --output results.json

This file needs NumPy, OpenCV and onnxruntime, and nothing else of its package: copy it next to the
model. IMAGE: images and folders; npy files (height, width, bands)
for a model of chosen bands. results.json is COCO's results format; image_id is the index of the
image in the list that --list prints.

As a module:

    model = OnnxModel("model.onnx")
    found = model(cv2.imread("photo.jpg"))
    found.boxes, found.scores, found.classes, found.keypoints, found.masks(), found.rles()

Exit code 0: all images done; 1: some were left out; 2: wrong usage, nothing done.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

__all__ = ["Detections", "OnnxModel", "RunnerError", "encode_mask", "paste_mask", "resize_image"]

# Of the file's metadata; a newer one is refused. 2 has images of chosen bands; files for pictures are
# written as 1, which older runners know.
FORMAT_VERSION = 2
_KEYS = ("num_classes", "classes", "category_ids", "pixel_format", "resize", "mask_threshold",
         "keypoints", "skeletons")  # fmt: skip
_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


class RunnerError(ValueError):
    """A model or an image cannot be used; the message says which, and what was expected."""


@dataclass
class Detections:
    """What a model found in one image, in the order of the boxes' scores.

    Attributes:
        image_size: (height, width) in pixels.
        boxes: (N, 4) float32; x0, y0, x1, y1 in pixels of the image.
        scores: (N,) float32.
        classes: (N,) int64, from 0.
        small_masks: (N, M, M) float32 probabilities, stretched over the boxes; None without masks.
        mask_scores: (N,) float32, where the model scores masks.
        keypoints: (N, K, 3) float32 x, y, score; the centre of the first pixel is at 0.5.
        mask_threshold: a pixel with this probability or more belongs to the mask.
    """

    image_size: tuple[int, int]
    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    small_masks: np.ndarray | None = None
    mask_scores: np.ndarray | None = None
    keypoints: np.ndarray | None = None
    mask_threshold: float = 0.5

    def __len__(self) -> int:
        return len(self.scores)

    def select(self, rows: np.ndarray) -> Detections:
        """Those of some rows: a mask or indices."""

        def chosen(values: np.ndarray | None) -> Any:
            return None if values is None else values[rows]

        return Detections(
            self.image_size,
            self.boxes[rows],
            self.scores[rows],
            self.classes[rows],
            chosen(self.small_masks),
            chosen(self.mask_scores),
            chosen(self.keypoints),
            self.mask_threshold,
        )

    def masks(self) -> np.ndarray | None:
        """(N, height, width) bool; None without masks."""
        if self.small_masks is None:
            return None
        result = np.zeros((len(self), *self.image_size), dtype=bool)
        for image, small, box in zip(result, self.small_masks, self.boxes):
            y, x, part = paste_mask(small, box, self.image_size, self.mask_threshold)
            image[y : y + part.shape[0], x : x + part.shape[1]] = part
        return result

    def rles(self) -> list[dict] | None:
        """COCO's compressed run lengths, {"size": [height, width], "counts": text} each."""
        if self.small_masks is None:
            return None
        height, width = self.image_size
        return [
            {
                "size": [height, width],
                "counts": encode_mask(
                    *paste_mask(small, box, self.image_size, self.mask_threshold), height, width
                ),
            }
            for small, box in zip(self.small_masks, self.boxes)
        ]


class OnnxModel:
    """An exported model.

    Attributes:
        info: the file's metadata, as docs/deployment.md describes it.
        classes: their names; None where they were not known at the export.
    """

    def __init__(
        self, path: str | os.PathLike, *, threads: int = 0, providers: Sequence[str] | None = None
    ) -> None:
        """
        Args:
            path: file that ``python -m mrcnn_ext.export`` wrote.
            threads: of the processor, for one image; 0: onnxruntime's choice.
            providers: of onnxruntime; None: the processor.

        Raises:
            RunnerError: onnxruntime or a provider is not there; the file cannot be read, is no model of
                this package, or of a newer format.
        """
        try:
            import onnxruntime
        except ImportError as error:
            raise RunnerError("onnxruntime is not installed: pip install onnxruntime.") from error
        if not os.path.isfile(path):
            raise RunnerError(f"{path}: there is no such file.")
        wanted = list(providers or ["CPUExecutionProvider"])
        missing = [name for name in wanted if name not in onnxruntime.get_available_providers()]
        if missing:
            raise RunnerError(
                f"this onnxruntime has no {missing[0]}, but "
                f"{', '.join(onnxruntime.get_available_providers())}."
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(os.fspath(path), options, wanted)
        except Exception as error:  # onnxruntime has many kinds
            text = " ".join(str(error).split())
            raise RunnerError(
                f"{path}: is no ONNX file, or damaged, or too new for this onnxruntime: {text}"
            ) from error
        self.info = _read_info(path, self._session.get_modelmeta().custom_metadata_map)
        self.classes: list[str] | None = self.info["classes"]
        self._outputs = [output.name for output in self._session.get_outputs()]

    def __call__(self, image: np.ndarray) -> Detections:
        """
        Args:
            image: (H, W, 3) uint8, BGR, as ``cv2.imread`` returns it. For a model of bands
                (``info["bands"]``): (H, W, C), the chosen ones in their order, with values as stored.

        Raises:
            RunnerError: it has another shape or type.
        """
        resized = self.resized(image)
        if not self.info["resize"]["in_graph"]:
            return self.run_resized(resized, image.shape[:2])
        found = self._run(resized)
        return self._detections(found, found.pop("resized"), image.shape[:2])

    def run_resized(self, image: np.ndarray, image_size: tuple[int, int]) -> Detections:
        """Run a model that does not resize in its graph.

        Args:
            image: (3, h, w) float32, 0 to 255, in ``info["pixel_format"]``, resized; (C, h, w) for a
                model of bands.
            image_size: (height, width) of the original, in whose pixels the results are.

        Raises:
            RunnerError: it has another shape or type.
        """
        channels = self._channels
        if (
            image.ndim != 3
            or image.shape[0] != channels
            or image.dtype != np.float32
            or 0 in image.shape
        ):
            raise RunnerError(
                f"the model's input is {image.dtype} {image.shape}; expected float32 ({channels}, h, "
                "w)."
            )
        return self._detections(self._run(image), image.shape[1:], image_size)

    def resized(self, image: np.ndarray) -> np.ndarray:
        """The model's input: (3, h, w) float32, or the image itself if the graph resizes it."""
        if self._bands is not None:
            return self._resized_bands(image, self._bands)
        if not isinstance(image, np.ndarray) or image.ndim != 3 or image.shape[2] != 3:
            if image is None:
                raise RunnerError(
                    "there is no image (cv2.imread gives None for what it cannot read)."
                )
            shape = getattr(image, "shape", type(image).__name__)
            raise RunnerError(f"an image has the shape {shape}; expected (height, width, 3), BGR.")
        if image.dtype != np.uint8 or 0 in image.shape:
            raise RunnerError(
                f"an image is {image.dtype} {image.shape}; expected uint8 with pixels in it."
            )
        if self.info["resize"]["in_graph"]:
            return np.ascontiguousarray(image)
        if self.info["pixel_format"] == "RGB":
            image = image[:, :, ::-1]
        small = resize_image(image, *self.resized_shape(*image.shape[:2]))
        return np.ascontiguousarray(small.transpose(2, 0, 1), dtype=np.float32)

    def _resized_bands(self, image: np.ndarray, bands: dict) -> np.ndarray:
        channels, kind = len(bands["bands"]), bands["pixel_type"]
        shape = getattr(image, "shape", type(image).__name__)
        if not isinstance(image, np.ndarray) or image.ndim != 3 or image.shape[2] != channels:
            raise RunnerError(
                f"an image has the shape {shape}; expected (height, width, {channels}), the bands "
                f"{bands['bands']}."
            )
        # As float32, they may have been converted by whoever read them.
        if 0 in image.shape or str(image.dtype) not in (
            kind,
            "uint8" if kind == "uint8" else "float32",
        ):
            raise RunnerError(
                f"an image is {image.dtype} {shape}; expected {kind} with pixels in it."
            )
        values = image if kind == "uint8" else image.astype(np.float32)
        small = resize_image(values, *self.resized_shape(*image.shape[:2]))
        return np.ascontiguousarray(small.transpose(2, 0, 1), dtype=np.float32)

    @property
    def _bands(self) -> dict | None:
        return self.info.get("bands")

    @property
    def _channels(self) -> int:
        return 3 if self._bands is None else len(self._bands["bands"])

    def resized_shape(self, height: int, width: int) -> tuple[int, int]:
        """Height and width that the model sees, as Detectron2's ResizeShortestEdge computes them."""
        rule = self.info["resize"]
        if not rule["min_size"]:
            return height, width
        scale = rule["min_size"] / min(height, width)
        sides = [height * scale, width * scale]
        sides[height >= width] = rule["min_size"] * 1.0
        if max(sides) > rule["max_size"]:
            scale = rule["max_size"] / max(sides)
            sides = [side * scale for side in sides]
        return int(sides[0] + 0.5), int(sides[1] + 0.5)

    def _run(self, image: np.ndarray) -> dict[str, np.ndarray]:
        try:
            values = self._session.run(self._outputs, {"image": image})
        except Exception as error:  # onnxruntime has many kinds
            raise RunnerError(
                f"onnxruntime fails on an image: {' '.join(str(error).split())}"
            ) from error
        return dict(zip(self._outputs, values))

    def _detections(
        self, found: dict[str, np.ndarray], size: Any, image_size: tuple[int, int]
    ) -> Detections:
        height, width = (int(side) for side in image_size)
        boxes, scores, classes = found["boxes"], found["scores"], found["classes"]
        keypoints = found.get("keypoints")
        if "keypoint_maps" in found:
            keypoints, scores = self._decode(found["keypoint_maps"], boxes, scores, classes)
        scale = np.array([width / size[1], height / size[0]], dtype=np.float32)
        limits = np.array([width, height, width, height], dtype=np.float32)
        boxes = np.clip(boxes * np.tile(scale, 2), 0, limits)
        if keypoints is not None:
            keypoints = keypoints * np.append(scale, np.float32(1))
        masks = found.get("masks")
        everything = Detections(
            (height, width),
            boxes,
            scores,
            classes,
            None if masks is None else masks[:, 0],
            found.get("mask_scores"),
            keypoints,
            self.info["mask_threshold"],
        )
        return everything.select((boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1]))

    def _decode(
        self, maps: np.ndarray, boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Keypoints (N, K, 3) of maps, and scores that take them into account if the model says so."""
        rule = self.info["keypoints"]
        shape = (len(boxes), maps.shape[1], 3)
        keypoints = np.zeros(shape, dtype=np.float32)
        for row, box in enumerate(boxes):
            keypoints[row] = decode_heatmaps(maps[row], box)
            if rule["score"] == "oks":
                keypoints[row, :, 2] = _expected_oks(maps[row], keypoints[row], box, rule["sigmas"])
        counted = np.ones(shape[:2], dtype=bool)
        if rule["class_keypoints"] is not None:
            counted = np.array(rule["class_keypoints"], dtype=bool)[classes]
            middle = np.zeros((len(boxes), 1, 3), dtype=np.float32)
            middle[:, 0, :2] = (boxes[:, :2] + boxes[:, 2:]) / 2
            keypoints = np.where(counted[..., None], keypoints, middle)
        if rule["fold_score"]:
            number = counted.sum(axis=1)
            mean = (keypoints[..., 2] * counted).sum(axis=1) / np.maximum(number, 1)
            scores = scores * np.where(number > 0, mean, 1).astype(np.float32)
        return keypoints, scores


def _read_info(path, metadata: dict[str, str]) -> dict[str, Any]:
    version = metadata.get("mrcnn_ext_format")
    if version is None or "mrcnn_ext" not in metadata:
        raise RunnerError(f"{path}: is no model that python -m mrcnn_ext.export wrote.")
    if not version.isdigit() or int(version) > FORMAT_VERSION:
        raise RunnerError(
            f"{path}: its format is {version}, but this runner knows {FORMAT_VERSION}: take the "
            "onnx_runner.py of the mrcnn_ext that wrote the model."
        )
    try:
        info = json.loads(metadata["mrcnn_ext"])
        lacking = [name for name in _KEYS if name not in info]
    except (ValueError, TypeError, RecursionError):
        raise RunnerError(f"{path}: its metadata 'mrcnn_ext' is no json of a model.") from None
    if lacking:
        raise RunnerError(f"{path}: its metadata 'mrcnn_ext' lacks {', '.join(lacking)}.")
    return info


# ---- Pictures ----------------------------------------------------------------------------------------

_BITS = 22  # of Pillow's fixed-point weights
_BLOCK = 1 << 18  # values that go through at once, so that they stay in the processor's cache


def resize_image(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Pillow's ``resize(…, BILINEAR)``, which Detectron2 uses: antialiased where it shrinks.

    OpenCV's INTER_LINEAR reads four pixels however much it shrinks, which moves boxes; INTER_AREA is
    another filter. The arithmetic here is that of Pillow's ``Resample.c``, columns before rows. Newer
    versions of Pillow begin with the rows of some sizes, which moves values by one grey level at most.

    Args:
        image: (H, W, C) uint8, or float32, each band as a picture of Pillow's mode "F".

    Returns:
        (height, width, C) of the same type.
    """
    if image.shape[1] != width:
        image = _resample_rows(image.transpose(1, 0, 2), width).transpose(1, 0, 2)
    if image.shape[0] != height:
        image = _resample_rows(image, height)
    return np.ascontiguousarray(image)


def _resample_rows(image: np.ndarray, size: int) -> np.ndarray:
    """(size, W, C) of (H, W, C) uint8 or float32, along the first axis."""
    first, exact = _resampling_weights(image.shape[0], size)
    image = np.ascontiguousarray(image)
    if image.dtype != np.uint8:
        sums = np.zeros((size, *image.shape[1:]))
        for tap in range(exact.shape[1]):
            rows = np.minimum(first + tap, image.shape[0] - 1)
            sums += image[rows] * exact[:, tap, None, None]
        return sums.astype(np.float32)
    weights = (exact * (1 << _BITS) + 0.5).astype(np.int32)
    result = np.empty((size, *image.shape[1:]), dtype=np.uint8)
    step = max(1, _BLOCK // max(1, image[0].size))
    for begin in range(0, size, step):
        part = slice(begin, min(begin + step, size))
        total = np.full((part.stop - begin, *image.shape[1:]), 1 << (_BITS - 1), dtype=np.int32)
        for tap in range(weights.shape[1]):
            rows = np.minimum(first[part] + tap, image.shape[0] - 1)
            total += image[rows] * weights[part, tap, None, None]
        result[part] = np.clip(total >> _BITS, 0, 255)
    return result


def _resampling_weights(before: int, after: int) -> tuple[np.ndarray, np.ndarray]:
    """(after,) first pixel, and (after, taps) weights of it and those that follow."""
    scale = before / after
    stretch = max(scale, 1.0)
    centre = (np.arange(after) + 0.5) * scale
    first = np.maximum((centre - stretch + 0.5).astype(np.int64), 0)
    last = np.minimum((centre + stretch + 0.5).astype(np.int64), before)
    taps = np.arange(math.ceil(stretch) * 2 + 1)
    positions = taps + first[:, None] - centre[:, None] + 0.5
    weights = np.maximum(1 - np.abs(positions * (1 / stretch)), 0)
    weights[taps >= (last - first)[:, None]] = 0
    weights /= np.cumsum(weights, axis=1)[:, -1:]  # summed in Pillow's order
    return first, weights


# ---- Masks -------------------------------------------------------------------------------------------


def paste_mask(
    mask: np.ndarray, box: np.ndarray, image_size: tuple[int, int], threshold: float
) -> tuple[int, int, np.ndarray]:
    """Stretch a mask over its box, as Detectron2's ``paste_masks_in_image`` does.

    Args:
        mask: (M, M) float32.
        box: (4,) x0, y0, x1, y1 in pixels of the image.

    Returns:
        first row, first column, and (h, w) bool of the part of the image that the box touches.
    """
    y, rows = _axis_weights(box[1], box[3], mask.shape[0], image_size[0])
    x, columns = _axis_weights(box[0], box[2], mask.shape[1], image_size[1])
    return y, x, rows @ mask @ columns.T >= threshold


def _axis_weights(low: float, high: float, cells: int, side: int) -> tuple[int, np.ndarray]:
    """First pixel, and (pixels, cells) bilinear weights; 0 beyond the mask's outermost cells."""
    if not high > low:
        return 0, np.zeros((0, cells), dtype=np.float32)
    begin = min(max(math.floor(low) - 1, 0), side)
    end = min(max(math.ceil(high) + 1, begin), side)
    centres = np.arange(begin, end, dtype=np.float32) + np.float32(0.5)
    relative = (centres - np.float32(low)) / np.float32(high - low) * 2 - 1
    positions = ((relative + 1) * cells - 1) / 2
    floor = np.floor(positions).astype(np.int64)
    share = (positions - floor).astype(np.float32)
    weights = np.zeros((end - begin, cells + 2), dtype=np.float32)  # a cell of 0 at each end
    index = np.arange(end - begin)
    weights[index, np.clip(floor + 1, 0, cells + 1)] += 1 - share
    weights[index, np.clip(floor + 2, 0, cells + 1)] += share
    return begin, weights[:, 1:-1]


def encode_mask(y: int, x: int, part: np.ndarray, height: int, width: int) -> str:
    """COCO's compressed run lengths, as pycocotools writes them, of a mask that is 0 elsewhere.

    Args:
        y, x: the pixel of the image where ``part`` (h, w) begins.
    """
    columns = np.zeros((part.shape[1], part.shape[0] + 2), dtype=np.int8)
    columns[:, 1:-1] = part.T
    steps = np.diff(columns, axis=1)
    begins, ends = (
        (column + x) * height + row + y
        for column, row in (np.nonzero(steps == 1), np.nonzero(steps == -1))
    )
    if len(begins):  # a run that reaches the bottom goes on at the next column's top
        apart = begins[1:] != ends[:-1]
        begins, ends = begins[np.append(True, apart)], ends[np.append(apart, True)]
    edges = np.stack([begins, ends], axis=1).ravel()
    counts = np.diff(edges, prepend=0)
    total = height * width
    last = edges[-1] if len(edges) else 0
    if last < total or not len(edges):
        counts = np.append(counts, total - last)
    return _compress(counts.astype(np.int64))


def _compress(counts: np.ndarray) -> str:
    """Differences of each count from the last but one, in groups of five bits, lowest first."""
    values = counts.copy()
    values[3:] -= counts[1:-2]
    characters = np.zeros((len(values), 8), dtype=np.uint8)
    open_ = np.ones(len(values), dtype=bool)
    for place in range(characters.shape[1]):
        group = values & 0x1F
        values = values >> 5
        more = np.where(group & 0x10, values != -1, values != 0)
        characters[:, place] = np.where(open_, group + 0x20 * more + 48, 0)
        open_ &= more
    return characters[characters > 0].tobytes().decode("ascii")


# ---- Keypoints ---------------------------------------------------------------------------------------


def decode_heatmaps(maps: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Detectron2's ``heatmaps_to_keypoints`` of one box: the highest pixel of the enlarged maps.

    Args:
        maps: (K, S, S) float32 logits.
        box: (4,) x0, y0, x1, y1.

    Returns:
        (K, 3) x, y, score.
    """
    sides = np.maximum(box[2:] - box[:2], 1).astype(np.float32)
    pixels = np.ceil(sides).astype(int)
    columns, rows = _bicubic(maps.shape[2], pixels[0]), _bicubic(maps.shape[1], pixels[1])
    result = np.zeros((len(maps), 3), dtype=np.float32)
    for point, cells in zip(result, maps):
        large = rows @ cells @ columns.T
        y, x = divmod(int(large.argmax()), large.shape[1])
        point[:2] = (np.array([x, y], dtype=np.float32) + 0.5) * (sides / pixels) + box[:2]
        point[2] = 1 / np.exp(cells - large[y, x]).sum()
    return result


def _bicubic(before: int, after: int) -> np.ndarray:
    """(after, before) weights of torch's bicubic interpolation; pixels beyond the border repeat it."""
    positions = (np.arange(after) + 0.5) * (before / after) - 0.5
    floor = np.floor(positions).astype(int)
    weights = np.zeros((after, before), dtype=np.float32)
    for tap in range(-1, 3):
        distance = np.abs(positions - floor - tap)
        near = (1.25 * distance - 2.25) * distance * distance + 1
        far = ((-0.75 * distance + 3.75) * distance - 6) * distance + 3
        index = np.clip(floor + tap, 0, before - 1)
        np.add.at(weights, (np.arange(after), index), np.where(distance <= 1, near, far))
    return weights


def _expected_oks(maps: np.ndarray, points: np.ndarray, box: np.ndarray, sigmas) -> np.ndarray:
    """(K,) OKS to expect if a map is the distribution of the point's true position."""
    sides = np.maximum(box[2:] - box[:2], 1e-3)
    falloff = 1 / (2 * sides.prod() * (2 * np.asarray(sigmas)) ** 2)
    shares = np.exp(maps - maps.max(axis=(1, 2), keepdims=True))
    shares /= shares.sum(axis=(1, 2), keepdims=True)
    for axis, number in ((0, maps.shape[2]), (1, maps.shape[1])):
        cell = sides[axis] / number
        centres = (np.arange(number) + 0.5) * cell + box[axis]
        near = np.exp(-falloff[:, None] * (centres - points[:, axis, None]) ** 2)
        shares = shares * (near[:, None, :] if axis == 0 else near[:, :, None])
    return shares.sum(axis=(1, 2))


# ---- Command -----------------------------------------------------------------------------------------


def coco_records(found: Detections, image_id: int, info: dict[str, Any]) -> list[dict]:
    """COCO's results; as in its files, whole numbers of keypoints are centres of pixels."""
    ids, slots = info["category_ids"], (info["keypoints"] or {}).get("slots")
    rles = found.rles()
    records = []
    for row, (box, label) in enumerate(zip(found.boxes.tolist(), found.classes.tolist())):
        record = {
            "image_id": image_id,
            "category_id": label if ids is None else ids[label],
            "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
            "score": float(found.scores[row]),
        }
        if rles is not None:
            record["segmentation"] = rles[row]
        if found.mask_scores is not None:
            record["mask_score"] = float(found.mask_scores[row])
        if found.keypoints is not None:
            points = found.keypoints[row] - np.array([0.5, 0.5, 0], dtype=np.float32)
            if slots is not None:
                points = points[np.array(slots[label], dtype=bool)]
            if len(points):
                record["keypoints"] = points.ravel().tolist()
        records.append(record)
    return records


def find_images(names: Sequence[str], suffixes: Sequence[str] = _SUFFIXES) -> list[Path]:
    """Images among ``names``, and in the folders among them.

    Raises:
        RunnerError: there is no such file, or no image at all.
    """
    paths: list[Path] = []
    for name in map(Path, names):
        if name.is_dir():
            paths += sorted(p for p in name.rglob("*") if p.suffix.lower() in suffixes)
        elif name.is_file():
            paths.append(name)
        else:
            raise RunnerError(f"{name}: there is no such file or folder.")
    if not paths:
        raise RunnerError(f"there is no image in {', '.join(map(str, names))}.")
    return paths


def _read_file(path: Path, bands: dict | None) -> np.ndarray:
    if bands is not None:
        try:
            stored = np.load(path, mmap_mode="r", allow_pickle=False)
            stored = stored if stored.ndim == 3 else stored[..., None]
            return np.ascontiguousarray(stored[..., bands["bands"]])
        except (OSError, ValueError, IndexError, AttributeError) as error:
            raise RunnerError(
                f"cannot be read; the model takes the bands {bands['bands']} of npy files (height, "
                f"width, bands): {error}"
            ) from error
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)  # turned as its EXIF data say
    if image is None:
        raise RunnerError("cannot be read as an image.")
    return image


def _write(path: Path, records: list[dict]) -> None:
    """Whole, or not at all."""
    handle, temporary = tempfile.mkstemp(".part", f".{path.name[:40]}.", path.parent or ".")
    try:
        with os.fdopen(handle, "w") as file:
            json.dump(records, file)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("model", help="file that python -m mrcnn_ext.export wrote")
    add("images", nargs="+", metavar="IMAGE", help="image or folder")
    add("--output", type=Path, required=True, metavar="JSON")
    add("--score-threshold", type=float, default=0.5, help="leave out what scores less "
        "(default: %(default)s)")  # fmt: skip
    add("--threads", type=int, default=0, help="of the processor (default: onnxruntime's choice)")
    add("--list", action="store_true", help="print the image_id of each image")
    args = parser.parse_args(argv)
    try:
        if not args.output.resolve().parent.is_dir():
            raise RunnerError(f"--output {args.output}: there is no such folder.")
        model = OnnxModel(args.model, threads=args.threads)
        paths = find_images(args.images, [".npy"] if model.info.get("bands") else _SUFFIXES)
    except RunnerError as error:
        print(f"onnx_runner: {error}", file=sys.stderr)
        return 2
    records, left_out = [], 0
    for image_id, path in enumerate(paths):
        if args.list:
            print(image_id, path)
        try:
            found = model(_read_file(path, model.info.get("bands")))
        except RunnerError as error:
            print(f"left out: {path}: {error}", file=sys.stderr)
            left_out += 1
            continue
        chosen = found.select(found.scores >= args.score_threshold)
        records += coco_records(chosen, image_id, model.info)
    _write(args.output, records)
    print(f"{len(paths) - left_out} images, {len(records)} instances, written to {args.output}")
    return 1 if left_out else 0


if __name__ == "__main__":
    sys.exit(main())
