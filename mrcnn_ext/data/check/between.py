# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Compare data sets that are used together: for training and for testing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from ...coco.read import class_names, differing_classes
from ...messages import describe
from .patterns import count_text
from .problem import Problem

__all__ = ["DatasetSummary", "compare_datasets"]


@dataclass(frozen=True)
class DatasetSummary:
    """What of a data set is compared.

    Attributes:
        name: of the data set.
        classes: names, in the order of the category ids.
        files: real path of each image -> its id.
    """

    name: str
    classes: tuple[str, ...]
    files: dict

    @classmethod
    def of(cls, name: str, data: dict, image_root: str) -> DatasetSummary:
        """Of what :func:`~mrcnn_ext.coco.read.read_coco` returned."""
        root = os.path.realpath(image_root)
        files = {
            os.path.normpath(os.path.join(root, image["file_name"])): image.get("id")
            for image in data["images"]
            if isinstance(image, dict) and isinstance(image.get("file_name"), str)
        }
        return cls(name, tuple(map(str, class_names(data["categories"]))), files)


def compare_datasets(
    first: DatasetSummary, second: DatasetSummary, *, together: bool
) -> Iterator[Problem]:
    """Problems of the second data set beside the first.

    Args:
        first: of training.
        second: of testing, or of training, too.
        together: a config uses both. Else differing classes are a warning.
    """
    difference = differing_classes(first.classes, second.classes)
    if difference:
        text = f"'{second.name}' and '{first.name}' have different classes: {difference}"
        severity = "error" if together else "warning"
        yield Problem(severity, "classes-differ", None, None, text)
    shared = [path for path in second.files if path in first.files]
    if shared:
        path = shared[0]
        text = (
            f"{count_text(len(shared), len(second.files), 'images')} are also in '{first.name}'; the "
            f"first: {describe(path, 200)}, there image {describe(first.files[path])}"
        )
        yield Problem("warning", "image-shared", second.files[path], None, text)
