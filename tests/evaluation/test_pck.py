# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""PCK and distances against plain loops."""

import numpy as np
import pytest

from mrcnn_ext.errors import ConfigError
from mrcnn_ext.evaluation import EvaluationSettings
from tests.evaluation.evaluation_cases import KEYPOINTS, evaluate, make_case

NAMES = ["a", "b", "c", "d", "e"]


def _iou(a, b) -> float:
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    common = max(width, 0) * max(height, 0)
    return common / (a[2] * a[3] + b[2] * b[3] - common)


def _distances(dataset, records, reference=None):
    """(class, keypoint, distance) of each labelled keypoint of a match; matches; objects."""
    rows, matches, objects = [], 0, 0
    for image in dataset["images"]:
        for category in dataset["categories"]:
            key = (image["id"], category["id"])
            own = [a for a in dataset["annotations"] if (a["image_id"], a["category_id"]) == key]
            units = []
            for entry in own:
                points = np.reshape(entry["keypoints"], (-1, 3))
                unit = np.sqrt(entry["bbox"][2] * entry["bbox"][3])
                if reference is not None:
                    first, second = points[reference[0]], points[reference[1]]
                    unit = np.hypot(*(first - second)[:2]) if first[2] and second[2] else 0
                counts = not entry["iscrowd"] and (points[:, 2] > 0).any()
                units.append(unit if counts else 0)
            objects += sum(u > 0 for u in units)
            taken = set()
            found = [r for r in records if (r["image_id"], r["category_id"]) == key]
            for record in sorted(found, key=lambda r: -r["score"]):
                free = [i for i, e in enumerate(own) if i not in taken and not e["iscrowd"]]
                best = max(free, key=lambda i: _iou(record["bbox"], own[i]["bbox"]), default=None)
                if best is None or _iou(record["bbox"], own[best]["bbox"]) < 0.5:
                    continue
                taken.add(best)
                if not units[best]:
                    continue
                matches += 1
                truth = np.reshape(own[best]["keypoints"], (-1, 3))
                points = np.reshape(record["keypoints"], (-1, 3))
                for slot in range(KEYPOINTS):
                    if truth[slot, 2]:
                        distance = np.hypot(*(truth[slot] - points[slot])[:2]) / units[best]
                        rows.append((category["name"], NAMES[slot], distance))
    return rows, matches, objects


@pytest.mark.parametrize("reference", [(), ("b", "d")])
@pytest.mark.parametrize("seed", range(3))
def test_equals_plain_loops(seed, reference):
    dataset, records = make_case(seed, images=8)
    for category in dataset["categories"]:
        category["keypoints"] = NAMES
    found = evaluate(dataset, records, ["pck"], pck_reference=reference)["pck"]
    slots = [NAMES.index(name) for name in reference] or None
    rows, matches, objects = _distances(dataset, records, slots)
    values = np.array([row[2] for row in rows])
    assert found["matches"] == matches > 0
    assert found["found"] == pytest.approx(100 * matches / objects)
    for threshold in (0.05, 0.1, 0.2):
        assert found[f"PCK@{threshold:g}"] == pytest.approx(100 * (values <= threshold).mean())
    assert found["error"] == pytest.approx(100 * values.mean())
    assert found["median_error"] == pytest.approx(100 * np.median(values))
    groups = {f"PCK@0.1-{c}/{k}": [] for c, k, _ in rows}
    classes = dict.fromkeys(c for c, _, _ in rows)
    if len(classes) > 1:
        groups.update({f"PCK@0.1-{c}": [] for c in classes})
    for name, keypoint, distance in rows:
        for key in (f"PCK@0.1-{name}/{keypoint}", f"PCK@0.1-{name}"):
            groups.get(key, []).append(distance <= 0.1)
    assert {key for key in found if "-" in key} == set(groups)
    for key, right in groups.items():
        assert found[key] == pytest.approx(100 * np.mean(right))


def test_nothing_found_and_wrong_arguments():
    dataset, records = make_case(0)
    for record in records:
        record["bbox"] = [0, 0, 0.1, 0.1]
    found = evaluate(dataset, records, ["pck"])["pck"]
    assert found["matches"] == 0
    assert np.isnan(found["PCK@0.1"])
    with pytest.raises(ConfigError, match="expected the names of two keypoints"):
        EvaluationSettings(pck_reference=("head",))
