# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Images without objects among those that a model trains on."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
from detectron2.data.build import (
    filter_images_with_few_keypoints,
    filter_images_with_only_crowd_annotations,
    get_detection_dataset_dicts,
)
from torch.utils.data import Dataset

from ..errors import DataError

__all__ = ["keep_negatives", "load_records"]

# Detectron2's tools print what is logged below its own name.
logger = logging.getLogger("detectron2." + __name__)

# Of all processes, and of every run: which images are left out must not change on a resume.
_SEED = 0


def load_records(
    names: str | Sequence[str],
    share: float,
    *,
    filter_empty: bool = True,
    min_keypoints: int = 0,
    **kwargs,
) -> list[dict] | Dataset:
    """``get_detection_dataset_dicts``, with a share of images without objects.

    Args:
        share: of :func:`keep_negatives`; 0: as ``filter_empty`` says.
        names, filter_empty, min_keypoints, kwargs: as for Detectron2's function.

    Raises:
        DataError: there is a share, and no image has objects.
    """
    if not share:
        return get_detection_dataset_dicts(
            names, filter_empty=filter_empty, min_keypoints=min_keypoints, **kwargs
        )
    records = get_detection_dataset_dicts(names, filter_empty=False, **kwargs)
    if isinstance(records, list) and "annotations" in records[0]:
        return keep_negatives(records, share, min_keypoints=min_keypoints)
    return records


def keep_negatives(records: Sequence[dict], share: float, *, min_keypoints: int = 0) -> list[dict]:
    """Drop what Detectron2 drops, but for some images without objects.

    An image that has only crowds is none without objects: it is dropped, as Detectron2 does.

    Args:
        records: of a data set, unfiltered, each with "annotations".
        share: of images without objects among those that stay, at most; 0 to less than 1.
        min_keypoints: images with objects, but fewer labelled keypoints, are dropped.

    Returns:
        images with objects, then those without, both in the order of the data set. Where there are
        more of these than wanted, the same ones are drawn every time.

    Raises:
        DataError: no image has objects.
    """
    without = [record for record in records if not record["annotations"]]
    kept = filter_images_with_only_crowd_annotations([r for r in records if r["annotations"]])
    if min_keypoints > 0:
        kept = filter_images_with_few_keypoints(kept, min_keypoints)
    if not kept:
        points = f" and {min_keypoints} keypoints" if min_keypoints else ""
        raise DataError(
            f"MRCNN_EXT.DATA.NEGATIVES: the training sets have no image with objects{points}, so there "
            "is nothing to learn."
        )
    most = int(share / (1 - share) * len(kept) + 1e-9)
    if most < len(without):
        chosen = np.random.default_rng(_SEED).choice(len(without), size=most, replace=False)
        drawn = [without[index] for index in sorted(chosen.tolist())]
    else:
        drawn = without
    logger.info(
        f"Trains on {len(kept)} images with objects, and on {len(drawn)} of {len(without)} without "
        "(MRCNN_EXT.DATA.NEGATIVES)."
    )
    return [*kept, *drawn]
