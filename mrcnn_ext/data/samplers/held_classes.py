# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Which classes each image of a data set holds, and how many objects of each."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.utils import comm
from tabulate import tabulate

from ...errors import DataError
from ...messages import describe, shorten

__all__ = ["HeldClasses"]

# Detectron2's tools print what is logged below its own name.
logger = logging.getLogger("detectron2." + __name__)

_ROWS = 40  # of the table of classes in a log


@dataclass(frozen=True)
class HeldClasses:
    """Pairs of an image and a class that it holds, by image, then class; each pair once.

    Crowds, which training leaves out, do not count.

    Attributes:
        num_images: N, images without objects included.
        names: of the K classes; their numbers, where nobody knows names.
        image: (P,) int64, 0 … N - 1.
        label: (P,) int64, 0 … K - 1.
        objects: (P,) int64, how many of the class are in the image.
    """

    num_images: int
    names: list[str]
    image: np.ndarray
    label: np.ndarray
    objects: np.ndarray

    @classmethod
    def of_records(
        cls, records: Sequence[dict], dataset_names: str | Sequence[str] = ()
    ) -> HeldClasses:
        """
        Args:
            records: in Detectron2's form, with contiguous "category_id".
            dataset_names: registered data sets, whose metadata have the names of the classes.

        Raises:
            DataError: records without annotations, an object of no class, or no object at all; names
                the image.
        """
        images: list[int] = []
        labels: list[int] = []
        for index, record in enumerate(records):
            if "annotations" not in record:
                raise DataError(
                    f"image {record.get('file_name')} has no 'annotations', from which sampling by "
                    "class takes the classes of an image."
                )
            for annotation in record["annotations"]:
                if not annotation.get("iscrowd", 0):
                    images.append(index)
                    labels.append(annotation["category_id"])
        names = _class_names(dataset_names)
        label = _checked(labels, images, records, len(names))
        if not len(label):
            raise DataError(
                f"none of {len(records)} training images{_of(dataset_names)} holds an object, by whose "
                "class images are drawn; expected objects, or no sampler by class "
                "(MRCNN_EXT.DATA.SAMPLER '')."
            )
        names = names or [str(k) for k in range(int(label.max()) + 1)]
        pairs, objects = np.unique(
            np.asarray(images, dtype=np.int64) * len(names) + label, return_counts=True
        )
        image, label = np.divmod(pairs, len(names))
        return cls(len(records), names, image, label, objects.astype(np.int64))

    @property
    def images_of_class(self) -> np.ndarray:
        """(K,) int64: how many images hold each class."""
        return np.bincount(self.label, minlength=len(self.names))

    @property
    def objects_of_class(self) -> np.ndarray:
        """(K,) int64: how many objects of each class there are."""
        counts = np.zeros(len(self.names), dtype=np.int64)
        np.add.at(counts, self.label, self.objects)
        return counts

    def log(self, title: str, factors: np.ndarray) -> None:
        """Log, in the main process, a table of the classes; warn of those that no image holds.

        Args:
            title: a sentence above the table.
            factors: (K,) how much more often each class is drawn; the largest come first.
        """
        if not comm.is_main_process():
            return
        images, objects = self.images_of_class, self.objects_of_class
        order = [int(k) for k in np.argsort(-factors, kind="stable") if images[k]]
        rows = [(self.names[k], images[k], objects[k], f"{factors[k]:.3g}") for k in order]
        table = tabulate(
            rows[:_ROWS], headers=["class", "images", "instances", "factor"], tablefmt="pipe"
        )
        more = f"\n… and {len(rows) - _ROWS} classes with smaller factors" * (len(rows) > _ROWS)
        logger.info(f"{title}\n{table}{more}")
        missing = [f"'{name}'" for name, count in zip(self.names, images) if not count]
        if missing:
            logger.warning(
                f"No training image holds {shorten(missing, 20)}: no sampler can draw "
                + ("it." if len(missing) == 1 else "them.")
            )


def _of(dataset_names: str | Sequence[str]) -> str:
    listed = [dataset_names] if isinstance(dataset_names, str) else list(dataset_names)
    return f" of {', '.join(map(repr, listed))}" if listed else ""


def _class_names(dataset_names: str | Sequence[str]) -> list[str]:
    listed = [dataset_names] if isinstance(dataset_names, str) else list(dataset_names)
    return list(MetadataCatalog.get(listed[0]).get("thing_classes") or ()) if listed else []


def _checked(
    labels: list[int], images: list[int], records: Sequence[dict], num_classes: int
) -> np.ndarray:
    array = np.asarray(labels)
    if not len(array):
        return array.astype(np.int64)
    wrong = None
    if array.dtype.kind not in "iu":
        wrong = next((i for i, k in enumerate(labels) if type(k) is not int), 0)
    elif array.min() < 0 or (num_classes and array.max() >= num_classes):
        outside = (array < 0) | (array >= (num_classes or np.inf))
        wrong = int(np.flatnonzero(outside)[0])
    if wrong is not None:
        expected = f"0 … {num_classes - 1}" if num_classes else "0, 1, 2, …"
        raise DataError(
            f"image {records[images[wrong]].get('file_name')} has an object of class "
            f"{describe(labels[wrong])}; expected one of {expected}."
        )
    return array.astype(np.int64)
