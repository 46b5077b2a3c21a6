# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""What the programs say that the forms are for; each test is skipped where its library is missing."""

from __future__ import annotations

import builtins
import json
from collections import Counter

import numpy as np
import pytest
import torch
from detectron2.data import Metadata
from detectron2.structures import Boxes, Instances
from pycocotools import mask as mask_util

from mrcnn_ext.coco.rle import rle_box
from mrcnn_ext.results import to_fiftyone, to_supervision, write_forms
from mrcnn_ext.skeletons import Skeleton, SkeletonSet
from mrcnn_ext.structures import DeferredMaskInstances, DeferredMasks
from tests.results.results_cases import made_up


def _metadata() -> Metadata:
    skeletons = SkeletonSet(
        (Skeleton("dog", ("nose", "tail")), Skeleton("car", ("front", "back", "roof"))),
        (0, None, 1),
        ("dog", "bone", "car"),
    )
    metadata = Metadata(thing_classes=["dog", "bone", "car"])
    skeletons.set_metadata(metadata)
    return metadata


def _instances(lazy: bool) -> tuple[Instances, np.ndarray]:
    """Three objects with keypoints in an image of 50 x 40, and their masks."""
    torch.manual_seed(0)
    boxes = Boxes(torch.tensor([[3.2, 4.7, 20.1, 30.9], [10.0, 10, 40, 30], [30.5, 2, 49, 12.5]]))
    deferred = DeferredMasks(torch.rand(3, 28, 28), boxes.tensor, (40, 50), 0.5)
    masks = deferred.dense()
    found = DeferredMaskInstances((40, 50)) if lazy else Instances((40, 50))
    found.pred_boxes = boxes
    found.scores = torch.tensor([0.9, 0.8, 0.7])
    found.pred_classes = torch.tensor([2, 0, 1])
    found.set("pred_masks", deferred if lazy else masks)
    found.pred_keypoints = torch.rand(3, 5, 3) * 40
    found.mask_scores = torch.tensor([0.5, 0.6, 0.7])
    return found, masks.numpy()


@pytest.mark.parametrize("lazy", [True, False])
def test_supervision_has_compact_masks_and_keypoints(lazy):
    sv = pytest.importorskip("supervision")
    instances, masks = _instances(lazy)
    detections, points = to_supervision(instances, _metadata())
    assert isinstance(detections.mask, sv.CompactMask)
    assert np.array_equal(detections.mask.to_dense(), masks)
    assert np.array_equal(detections[1:].mask.to_dense(), masks[1:])
    assert np.allclose(detections.xyxy, instances.pred_boxes.tensor)
    assert detections.class_id.tolist() == [2, 0, 1]
    assert detections.data["class_name"].tolist() == ["car", "dog", "bone"]
    assert detections.confidence.tolist() == instances.scores.tolist()
    assert points.visible.tolist() == [
        [False] * 2 + [True] * 3,
        [True] * 2 + [False] * 3,
        [False] * 5,
    ]
    assert np.allclose(points.xy, instances.pred_keypoints[:, :, :2])
    if lazy:
        assert instances.deferred_masks is not None  # still
    scene = np.zeros((40, 50, 3), dtype=np.uint8)
    assert sv.MaskAnnotator().annotate(scene.copy(), detections).any()
    # Without anything found, and without masks and keypoints.
    detections, points = to_supervision(instances[instances.scores > 1])
    assert len(detections) == len(points) == len(detections.mask) == 0
    detections, points = to_supervision(
        Instances((40, 50), pred_boxes=instances.pred_boxes, scores=instances.scores,
                  pred_classes=instances.pred_classes)
    )  # fmt: skip
    assert detections.mask is None
    assert points is None
    assert "class_name" not in detections.data


@pytest.mark.parametrize("lazy", [True, False])
def test_fiftyone_has_masks_in_their_place_and_keypoints(lazy):
    fo = pytest.importorskip("fiftyone")
    instances, masks = _instances(lazy)
    detections, points = to_fiftyone(instances, _metadata())
    sample = fo.Sample(filepath="a.jpg", predictions=detections, poses=points)
    for index, found in enumerate(sample.predictions.detections):
        rle = mask_util.encode(np.asfortranarray(masks[index].astype(np.uint8)))
        box = np.array(rle_box(rle))
        assert np.allclose(np.array(found.bounding_box) * (50, 40, 50, 40), box)
        x, y, w, h = box.astype(int)
        assert np.array_equal(found.mask, masks[index][y : y + h, x : x + w])
        back = found.to_segmentation(frame_size=(50, 40)).mask != 0
        assert np.array_equal(back, masks[index])
        assert found.confidence == pytest.approx(float(instances.scores[index]))
        assert found.mask_score == pytest.approx(float(instances.mask_scores[index]))
    assert [found.label for found in detections.detections] == ["car", "dog", "bone"]
    assert [(p.label, len(p.points), p.index) for p in points.keypoints] == [
        ("car", 3, 1),
        ("dog", 2, 2),
    ]
    expected = instances.pred_keypoints[0, 2:, :2] / torch.tensor([50.0, 40.0])
    assert np.allclose(points.keypoints[0].points, expected)
    detections, points = to_fiftyone(instances[instances.scores > 1])
    assert len(detections.detections) == len(points.keypoints) == 0


@pytest.mark.parametrize(
    ("convert", "name"), [(to_supervision, "supervision"), (to_fiftyone, "fiftyone")]
)
def test_a_missing_library_is_named_with_its_extra(convert, name, monkeypatch):
    original = builtins.__import__

    def without(module, *args, **kwargs):
        if module == name:
            raise ImportError(name)
        return original(module, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=rf"pip install mrcnn_ext\[{name}\]"):
        convert(_instances(True)[0])


@pytest.mark.parametrize("kind", ["brush", "polygons"])
def test_label_studio_accepts_tasks_and_decodes_brushes(tmp_path, kind):
    pytest.importorskip("label_studio_sdk")
    from label_studio_sdk.converter.brush import decode_rle
    from label_studio_sdk.label_interface import LabelInterface
    from label_studio_sdk.label_interface.objects import TaskValue

    _, _, predictions = made_up()
    write_forms(["label-studio", "label-studio-polygons"], predictions, tmp_path)
    interface = LabelInterface((tmp_path / "label_studio" / "interface.xml").read_text())
    interface.validate()
    tasks = json.loads((tmp_path / "label_studio" / f"{kind}.json").read_text())
    for task, line in zip(tasks, predictions.lines):
        TaskValue(**task)
        (prediction,) = task["predictions"]
        assert interface.validate_prediction(prediction, return_errors=True) == []
        for region in prediction["result"]:
            if region["type"] == "brushlabels":
                record = line["results"][int(region["id"][1:]) - 1]
                alpha = decode_rle(region["value"]["rle"]).reshape(line["height"], -1, 4)[:, :, 3]
                assert np.array_equal(alpha > 0, mask_util.decode(record["segmentation"]) != 0)


def test_datumaro_reads_what_is_for_cvat(tmp_path):
    datumaro = pytest.importorskip("datumaro")
    _, records, predictions = made_up()
    write_forms(["cvat"], predictions, tmp_path)
    for kind, file in (
        ("coco_instances", "instances_default.json"),
        ("coco_person_keypoints", "person_keypoints_default.json"),
    ):
        folder = tmp_path / kind / "annotations"
        folder.mkdir(parents=True)
        (tmp_path / kind / "images").mkdir()  # which Datumaro looks for
        content = (tmp_path / "cvat" / "annotations" / file).read_text()
        (folder / file).write_text(content)
        data = datumaro.Dataset.import_from(str(folder.parent), kind)
        assert len(data) == len(list(predictions.lines))
        found = [a for item in data for a in item.annotations]
        kinds = Counter(type(annotation).__name__ for annotation in found)
        if kind == "coco_instances":
            assert set(kinds) == {"Bbox", "Polygon", "RleMask"}
            assert kinds["Bbox"] == len(records)
            assert all("score" in annotation.attributes for annotation in found)
            numbers = {a.id: a for a in found if type(a).__name__ == "RleMask"}
            entries = [a for a in json.loads(content)["annotations"] if a["id"] in numbers]
            assert entries
            for entry in entries:
                expected = mask_util.decode(entry["segmentation"])
                assert np.array_equal(numbers[entry["id"]].image, expected)
            assert len({(i.id, a.group) for i in data for a in i.annotations}) == len(records)
        else:
            assert kinds["Points"] == len(records)
            points = [a for a in found if type(a).__name__ == "Points"]
            assert {len(a.points) for a in points} == {10}
