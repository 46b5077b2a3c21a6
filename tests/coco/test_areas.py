# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Sizes of objects: closed ranges for AP, half-open ones for counts."""

from __future__ import annotations

import numpy as np
import pytest
from pycocotools.cocoeval import Params

from mrcnn_ext.coco.areas import AP_AREAS, AREA_NAMES, COUNT_AREAS, in_area
from mrcnn_ext.coco.rle import encode_mask, text_rle
from tests.evaluation.evaluation_cases import BACKENDS, evaluate


def test_ranges_of_ap_are_those_of_cocoeval():
    parameters = Params("bbox")
    assert parameters.areaRngLbl == list(AP_AREAS) == list(AREA_NAMES) == list(COUNT_AREAS)
    assert parameters.areaRng == [list(range_) for range_ in AP_AREAS.values()]


def _case(side: int) -> tuple[dict, list[dict]]:
    """One square, found exactly."""
    mask = np.zeros((200, 200), dtype=np.uint8)
    mask[10 : 10 + side, 20 : 20 + side] = 1
    one = {
        "image_id": 1,
        "category_id": 1,
        "bbox": [20, 10, side, side],
        "segmentation": text_rle(encode_mask(mask)),
    }
    dataset = {
        "images": [{"id": 1, "height": 200, "width": 200}],
        "categories": [{"id": 1, "name": "square"}],
        "annotations": [{**one, "id": 1, "area": side**2, "iscrowd": 0}],
    }
    return dataset, [{**one, "score": 0.9}]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("side", "for_ap", "for_counts"),
    [(31, "s", "s"), (32, "sm", "m"), (33, "m", "m"), (96, "ml", "l"), (97, "l", "l")],
)
def test_an_area_on_the_edge_counts_twice_for_ap_and_once_in_tables(
    side, for_ap, for_counts, backend
):
    results = evaluate(*_case(side), ["bbox", "segm", "mask_quality"], backend=backend)
    for letter in "sml":
        value = 100 if letter in for_ap else np.nan
        for task in ("bbox", "segm"):
            assert results[task][f"AP{letter}"] == pytest.approx(value, nan_ok=True)
        value = 100 if letter in for_counts else np.nan
        assert results["mask_quality"][f"IoU{letter}"] == pytest.approx(value, nan_ok=True)


def test_each_area_is_in_exactly_one_of_the_three():
    areas = np.array([0, 0.5, 1023.9, 1024, 1024.5, 9215, 9216, 1e7, 1e12])
    inside = np.stack([in_area(areas, name) for name in AREA_NAMES])
    assert inside[0].all()
    assert (inside[1:].sum(axis=0) == 1).all()
    assert inside[1:].argmax(axis=0).tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
