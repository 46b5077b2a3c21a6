# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Write predictions as json."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from detectron2.data import Metadata
from detectron2.structures import BoxMode, Instances

from ..coco.rle import text_rle
from ..evaluation.class_keypoints import cut_to_class
from ..files import write_json
from ..skeletons import SkeletonSet
from ..structures import instance_rles

__all__ = ["PredictionWriter"]


class PredictionWriter:
    """Collects predictions and writes ``predictions.json`` and ``coco_results.json``.

    Masks are kept as RLE, so that thousands of images fit into memory.

    Attributes:
        metadata: what to draw with; has the classes' names as far as they are known.
        num_images: added so far.
    """

    def __init__(self, folder: Path, metadata: Metadata, classes: list[str] | None = None) -> None:
        """
        Args:
            folder: where the files go.
            metadata: of the data set the model was trained on.
            classes: names, in place of the metadata's.
        """
        self._folder = Path(folder)
        self.metadata = metadata
        if classes:
            self.metadata = Metadata(**{**metadata.as_dict(), "thing_classes": classes})
        self._names: list[str] | None = self.metadata.get("thing_classes")
        ids = metadata.get("thing_dataset_id_to_contiguous_id") or {}
        self._dataset_ids = {contiguous: original for original, contiguous in ids.items()}
        self._images: list[dict] = []
        self._skeletons = SkeletonSet.from_metadata(metadata)

    @property
    def num_images(self) -> int:
        return len(self._images)

    def add(self, name: str, instances: Instances) -> None:
        """Add one image's predictions, which are on the CPU and in its pixels."""
        height, width = instances.image_size
        boxes = BoxMode.convert(
            instances.pred_boxes.tensor.numpy(), BoxMode.XYXY_ABS, BoxMode.XYWH_ABS
        )
        rles = instance_rles(instances)
        found = []
        for index, (box, score, class_id) in enumerate(
            zip(boxes, instances.scores.tolist(), instances.pred_classes.tolist())
        ):
            entry = {
                "class_id": class_id,
                "class_name": self._names[class_id] if self._names else str(class_id),
                "score": score,
                "bbox_xywh": [float(v) for v in box],
            }
            if rles is not None:
                entry["segmentation"] = text_rle(rles[index])
            if instances.has("pred_keypoints"):
                keypoints = instances.pred_keypoints[index].tolist()
                own = cut_to_class(keypoints, class_id, self._skeletons)
                if own is not None:
                    entry["keypoints"] = own
            found.append(entry)
        self._images.append({"file": name, "height": height, "width": width, "instances": found})

    def close(self) -> None:
        """Write both files."""
        content = {
            "format": "mrcnn_ext predictions 1: bbox_xywh and keypoints (x, y, score) in pixels, the "
            "centre of the first pixel at 0.5; segmentation is COCO's compressed RLE",
            "classes": list(self._names) if self._names else None,
            "keypoints": self._keypoint_names(),
            "images": self._images,
        }
        write_json(self._folder / "predictions.json", content)
        write_json(self._folder / "coco_results.json", self._coco_results(), indent=None)

    def _keypoint_names(self) -> dict[str, list[str]] | None:
        """By class, of those that have keypoints; None if no names are known."""
        if self._skeletons is None or not self._names:
            return None
        skeletons = self._skeletons
        if not skeletons.class_skeletons:
            return {name: list(skeletons.keypoint_names) for name in self._names}
        of_class = zip(self._names, map(skeletons.skeleton, range(skeletons.num_classes)))
        return {name: list(one.keypoint_names) for name, one in of_class if one is not None}

    def summary(self) -> str:
        count = sum(len(image["instances"]) for image in self._images)
        return f"{self.num_images} images, {count} instances, written to {self._folder}"

    def _coco_results(self) -> list[dict]:
        results = []
        for image_id, image in enumerate(self._images):
            for entry in image["instances"]:
                class_id = entry["class_id"]
                result = {
                    "image_id": image_id,
                    "category_id": self._dataset_ids.get(class_id, class_id),
                    "bbox": entry["bbox_xywh"],
                    "score": entry["score"],
                }
                if "segmentation" in entry:
                    result["segmentation"] = entry["segmentation"]
                if "keypoints" in entry:
                    # COCO's keypoints name pixels: the first one's centre is 0, not 0.5.
                    points = np.array(entry["keypoints"]) - (0.5, 0.5, 0)
                    result["keypoints"] = points.ravel().tolist()
                results.append(result)
        return results
