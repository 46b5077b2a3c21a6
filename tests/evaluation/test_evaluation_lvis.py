# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""LVIS's rules against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as mask_util

from tests.evaluation.evaluation_cases import evaluate, make_case


def _lvis_case(seed):
    dataset, records = make_case(seed, images=12, keypoints=False)
    rng = np.random.default_rng(seed)
    for category, frequency in zip(dataset["categories"], "rcff"):
        category["frequency"] = frequency
    for annotation in dataset["annotations"]:
        annotation["iscrowd"] = 0
    for image in dataset["images"]:
        ids = [category["id"] for category in dataset["categories"]]
        present = {a["category_id"] for a in dataset["annotations"] if a["image_id"] == image["id"]}
        image["neg_category_ids"] = [c for c in ids if c not in present and rng.random() < 0.5]
        image["not_exhaustive_category_ids"] = [c for c in present if rng.random() < 0.4]
        for _ in range(3):  # found where nothing is labelled
            records.append(
                {
                    "image_id": image["id"],
                    "category_id": int(rng.choice(ids)),
                    "score": float(rng.random()),
                    "bbox": [1.0, 2.0, 20.0, 15.0],
                }
            )
    return dataset, records


def _lvis_reference(dataset, records, limit, per_class=0):
    """AP of each category by LVIS's rules, in plain loops."""
    keep = set()
    key = "category_id" if per_class else "image_id"
    for value in {record[key] for record in records}:
        group = [i for i, record in enumerate(records) if record[key] == value]
        group.sort(key=lambda i: -records[i]["score"])
        keep.update(group[: per_class or limit])
    result = {}
    for category in (c["id"] for c in dataset["categories"]):
        total, rows = 0, []
        for image in sorted(dataset["images"], key=lambda image: image["id"]):
            truth = [
                a for a in dataset["annotations"]
                if a["image_id"] == image["id"] and a["category_id"] == category
            ]  # fmt: skip
            if not truth and category not in image["neg_category_ids"]:
                continue
            total += len(truth)
            found = [
                r for i, r in enumerate(records)
                if i in keep and r["image_id"] == image["id"] and r["category_id"] == category
            ]  # fmt: skip
            found.sort(key=lambda r: -r["score"])
            lenient = category in image["not_exhaustive_category_ids"]
            rows += _lvis_image(truth, found, lenient)
        rows.sort(key=lambda row: -row[0])
        result[category] = np.mean(_lvis_curve(rows, total)) * 100 if total else np.nan
    return result


def _lvis_image(truth, found, lenient):
    thresholds = np.linspace(0.5, 0.95, 10)
    rows = [(r["score"], [], []) for r in found]
    for threshold in thresholds:
        taken = set()
        for record, (_, hits, ignored) in zip(found, rows):
            best, best_iou = None, min(threshold, 1 - 1e-10)
            for j, annotation in enumerate(truth):
                iou = mask_util.iou(
                    np.array([record["bbox"]], float), np.array([annotation["bbox"]], float), [0]
                )[0, 0]
                if j not in taken and iou >= best_iou:
                    best, best_iou = j, iou
            if best is not None:
                taken.add(best)
            hits.append(best is not None)
            ignored.append(best is None and lenient)
    return rows


def _lvis_curve(rows, total):
    curves = []
    for t in range(10):
        true = false = 0
        points = []
        for _, hits, ignored in rows:
            true += hits[t]
            false += not hits[t] and not ignored[t]
            points.append((true / total, true / (true + false + np.spacing(1))))
        for recall in np.linspace(0, 1, 101):
            curves.append(max((p for r, p in points if r >= recall), default=0.0))
    return curves


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("limit", "per_class"), [(300, 0), (4, 0), (300, 9)])
def test_lvis_rules_against_plain_loops(seed, limit, per_class, backend):
    dataset, records = _lvis_case(seed)
    results = evaluate(
        dataset, records, ["bbox"], backend=backend, lvis_style=True, max_dets=limit,
        lvis_max_per_class=per_class,
    )["bbox"]  # fmt: skip
    expected = _lvis_reference(dataset, records, limit, per_class)
    for category in dataset["categories"]:
        value = results[f"AP-{category['name']}"]
        np.testing.assert_allclose(value, expected[category["id"]], rtol=0, atol=1e-9)
    values = list(expected.values())
    np.testing.assert_allclose(results["APr"], values[0], atol=1e-9)
    np.testing.assert_allclose(results["APc"], values[1], atol=1e-9)
    np.testing.assert_allclose(results["APf"], np.nanmean(values[2:]), atol=1e-9)
    assert "APs" in results


def test_a_frequency_that_no_category_has(backend):
    dataset, records = _lvis_case(0)
    for category in dataset["categories"]:
        category["frequency"] = "f"
    results = evaluate(dataset, records, ["bbox"], backend=backend, lvis_style=True)["bbox"]
    assert np.isnan(results["APr"])
    assert results["APf"] == results["AP"]
