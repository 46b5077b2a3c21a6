# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Predictions in COCO's result format, checked before anything trusts them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping

from detectron2.utils.file_io import PathManager

from ..errors import DataError
from ..messages import describe
from .read import read_json, refuse_special
from .rle import rle_box, to_rle
from .values import is_box, is_finite, is_id

__all__ = ["read_records", "result_lines"]


def read_records(
    results: str | os.PathLike | list[dict],
    sizes: Mapping[int | str, tuple[int, int]],
    source: str = "",
) -> list[dict]:
    """Read predictions.

    Args:
        results: a json as Detectron2's and this package's evaluators write it, or its content; or the
            .jsonl of ``python -m mrcnn_ext.predict``, see :func:`result_lines`; or a COCO data set
            whose annotations have scores.
        sizes: image id -> (height, width), of the ground truth.
        source: name of the content, for messages; the file's by default.

    Returns:
        New dicts with the same entries: "image_id", "category_id", "score"; "bbox" (XYWH),
        "segmentation" or "keypoints"; perhaps "mask_score". Any form of segmentation has become
        compressed RLE, and a missing bbox the mask's.

    Raises:
        DataError: names the file, where the damage is, and what was expected.
    """
    in_memory = isinstance(results, list)
    source = source or ("the predictions" if in_memory else str(results))
    content = results if in_memory else _read(results)  # type: ignore[arg-type]
    if isinstance(content, dict) and "annotations" in content:
        content = content["annotations"]  # a data set, whose annotations have scores
    if not isinstance(content, list):
        raise DataError(
            f"{source}: expected a list of predictions, found a {type(content).__name__}."
        )
    records = []
    for index, entry in enumerate(content):
        try:
            records.append(_record(entry, sizes))
        except _Problem as problem:
            image = entry.get("image_id") if isinstance(entry, dict) else None
            raise DataError(
                f"{source}: prediction {index} (image id {describe(image)}) {problem}."
            ) from problem
    return records


def result_lines(path: str | os.PathLike) -> Iterator[tuple[int, dict]]:
    """Read a file of one json object a line: {"image_id": …, "results": [prediction, …], …}.

    A last line that is damaged is what a killed process left of it; it is passed over.

    Yields:
        where the line ends, in bytes from the beginning of the file, and its content.

    Raises:
        DataError: the file cannot be read, or another line is damaged; names the line.
    """
    end = 0
    refuse_special(path)
    try:
        with PathManager.open(os.fspath(path), "rb") as file:
            for number, line in enumerate(file, 1):
                end += len(line)
                try:
                    content = json.loads(line) if line.strip() else None
                except (ValueError, RecursionError) as error:
                    if not file.readline():
                        return
                    raise DataError(f"{path}: line {number} is not valid json: {error}.") from error
                if content is not None:
                    if not isinstance(content, dict):
                        raise DataError(
                            f"{path}: line {number} is a {type(content).__name__}, expected an object."
                        )
                    yield end, content
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}.") from error
    except MemoryError as error:
        raise DataError(f"{path}: a line is longer than the memory that is left.") from error


def _read(path: str | os.PathLike):
    if not os.fspath(path).endswith(".jsonl"):
        return read_json(path)
    records: list = []
    seen: set = set()
    for _, line in result_lines(path):
        # Other tools write one prediction a line.
        found = line.get("results", [line])
        if not isinstance(found, list):
            raise DataError(
                f"{path}: image {describe(line.get('image_id'))}: 'results' is "
                f"{describe(found)}, expected a list of predictions."
            )
        image_id = line.get("image_id")
        if "results" in line and is_id(image_id):
            if image_id in seen:
                raise DataError(f"{path}: image {describe(image_id)} has two lines, expected one.")
            seen.add(image_id)
            others = [
                r for r in found if isinstance(r, dict) and r.get("image_id", image_id) != image_id
            ]
            if others:
                raise DataError(
                    f"{path}: image {describe(image_id)}: 'results' has a prediction for image "
                    f"{describe(others[0]['image_id'])}."
                )
        records += found
    return records


class _Problem(ValueError):
    """What is wrong with one record; completes a sentence that begins with its place."""


def _record(entry, sizes: Mapping) -> dict:
    """A checked copy. Whether the ids are those of the ground truth is checked elsewhere."""
    if not isinstance(entry, dict):
        raise _Problem(f"is a {type(entry).__name__}, expected an object")
    for key in ("image_id", "category_id", "score"):
        if key not in entry:
            raise _Problem(f"has no '{key}'")
        if key != "score" and not is_id(entry[key]):
            raise _Problem(f"has the '{key}' {describe(entry[key])}, expected a number or a string")
    record = {k: v for k, v in entry.items() if k == "score" or not _is_nothing(k, v)}
    for key in ("score", "mask_score"):
        if key in record and not is_finite(record[key]):
            raise _Problem(f"has the '{key}' {describe(record[key])}, expected a finite number")
    if "bbox" in record and not is_box(record["bbox"]):
        raise _Problem(
            f"has the 'bbox' {describe(record['bbox'])}, expected four finite numbers: x, y, width "
            "and height, which are not negative"
        )
    if not _are_points(record.get("keypoints", [])):
        raise _Problem("has 'keypoints' that are not three finite numbers each")
    if "segmentation" in record:
        _set_mask(record, sizes.get(record["image_id"]))
    if not any(record.get(key) for key in ("bbox", "segmentation", "keypoints")):
        raise _Problem("has neither bbox nor segmentation nor keypoints")
    return record


def _is_nothing(key: str, value) -> bool:
    return value is None or (key == "segmentation" and value == [])


def _are_points(values) -> bool:
    return isinstance(values, list) and len(values) % 3 == 0 and all(map(is_finite, values))


def _set_mask(record: dict, size: tuple[int, int] | None) -> None:
    if size is None:  # of an image that the ground truth does not know
        return
    try:
        record["segmentation"] = to_rle(record["segmentation"], *size)
    except ValueError as error:
        raise _Problem(f"has a damaged mask: {error}") from error
    if "bbox" not in record:
        record["bbox"] = rle_box(record["segmentation"])
