# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Write predictions: a line an image at once, from which the json files are made at the end."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.data import Metadata
from detectron2.structures import Instances

from ..evaluation.records import instances_to_records
from ..results import FormOptions, Predictions, write_forms
from ..results.json_file import write_json_list
from ..skeletons import SkeletonSet
from .result_file import ResultFile

__all__ = ["PredictionWriter"]

_FORMAT = (
    "mrcnn_ext predictions 1: bbox_xywh and keypoints (x, y, score) in pixels, the centre of the first "
    "pixel at 0.5; segmentation is COCO's compressed RLE"
)


class PredictionWriter:
    """Writes ``coco_results.jsonl``, and from it ``predictions.json`` and ``coco_results.json``.

    Masks are kept as RLE. Memory holds one image at a time.

    Attributes:
        metadata: what to draw with; has the classes' names as far as they are known.
        results: the file of lines.
    """

    def __init__(
        self,
        folder: Path,
        metadata: Metadata,
        classes: Sequence[str] | None = None,
        *,
        image_ids: Mapping[str, int | float | str] | None = None,
        category_ids: Sequence[int | float | str] | None = None,
        resume: bool = False,
        forms: Sequence[str] = (),
        form_options: FormOptions | None = None,
    ) -> None:
        """
        Args:
            folder: where the files go.
            metadata: of the data set the model was trained on.
            classes: names, in place of the metadata's.
            image_ids: by name of the image; None counts them from 0.
            category_ids: by class of the model, in place of the metadata's.
            resume: go on with the lines that are there already.
            forms: names of :data:`mrcnn_ext.results.FORMS` to make of the lines, too.
            form_options: of the forms.

        Raises:
            DataError: the lines that are there are damaged.
            OSError: nothing can be written.
        """
        self._folder = Path(folder)
        self.metadata = metadata
        if classes:
            self.metadata = Metadata(**{**metadata.as_dict(), "thing_classes": list(classes)})
        self._names: list[str] | None = self.metadata.get("thing_classes")
        ids = metadata.get("thing_dataset_id_to_contiguous_id") or {}
        self._category_ids = {contiguous: original for original, contiguous in ids.items()}
        if category_ids is not None:
            self._category_ids = dict(enumerate(category_ids))
        self._class_ids = {original: class_id for class_id, original in self._category_ids.items()}
        self._image_ids = image_ids
        self._skeletons = SkeletonSet.from_metadata(metadata)
        self._forms, self._form_options = forms, form_options
        self.results = ResultFile(self._folder / "coco_results.jsonl", resume=resume)

    @property
    def predictions(self) -> Predictions:
        """The lines, and what their ids mean."""
        return Predictions(self.results, self._names, self._category_ids, self._skeletons)

    @property
    def num_images(self) -> int:
        """Images that have a line, those of earlier runs included."""
        return len(self.results.done)

    def line(self, name: str, instances: Instances, source: list | None = None) -> dict:
        """What :meth:`append` takes, of one image.

        Args:
            name: of the image.
            instances: predictions, on the CPU and in the image's pixels.
            source: kept with the line, to recognise the file later.
        """
        image_id = self.num_images if self._image_ids is None else self._image_ids[name]
        records = instances_to_records(instances, image_id, self._skeletons)
        for record in records:
            class_id = record["category_id"]
            record["category_id"] = self._category_ids.get(class_id, class_id)
        height, width = instances.image_size
        line = {"image_id": image_id, "file": name, "height": height, "width": width}
        return {**line, **({"source": source} if source else {}), "results": records}

    def class_id(self, category_id: int | float | str) -> Any:
        """The model's class of an id that :meth:`line` wrote."""
        return self._class_ids.get(category_id, category_id)

    def append(self, line: dict) -> None:
        """Write what :meth:`line` returned.

        Raises:
            OSError: it cannot be written.
        """
        self.results.append(line)

    def add(self, name: str, instances: Instances) -> None:
        """Add one image's predictions, which are on the CPU and in its pixels.

        Raises:
            OSError: they cannot be written.
        """
        self.append(self.line(name, instances))

    def close(self) -> None:
        """Make both json files of the lines, and the forms.

        Raises:
            OSError: one cannot be written; what it was before is left.
        """
        self.results.close()
        head = {
            "format": _FORMAT,
            "classes": list(self._names) if self._names else None,
            "keypoints": self._keypoint_names(),
        }
        start = json.dumps(head, indent=1)[:-2] + ',\n"images": ['
        images = map(self._image, self.results)
        write_json_list(self._folder / "predictions.json", images, start, "]}", indent=1)
        records = (record for line in self.results for record in line["results"])
        write_json_list(self._folder / "coco_results.json", records)
        write_forms(self._forms, self.predictions, self._folder, self._form_options)

    def summary(self) -> str:
        count = self.results.num_instances
        return f"{self.num_images} images, {count} instances, written to {self._folder}"

    def _image(self, line: dict) -> dict:
        instances = [self._instance(record) for record in line["results"]]
        kept = {k: line[k] for k in ("file", "height", "width", "time") if k in line}
        return {**kept, "instances": instances}

    def _instance(self, record: dict) -> dict:
        class_id = self.class_id(record["category_id"])
        names = dict(enumerate(self._names or ()))
        entry = {
            "class_id": class_id,
            "class_name": names.get(class_id, str(class_id)),
            "score": record["score"],
            "bbox_xywh": record["bbox"],
        }
        kept = ("segmentation", "mask_score", "track_id")
        entry.update({k: record[k] for k in kept if k in record})
        if "keypoints" in record:
            # COCO's keypoints name pixels: the first one's centre is 0, not 0.5.
            x, y, score = (record["keypoints"][axis::3] for axis in range(3))
            entry["keypoints"] = [[a + 0.5, b + 0.5, c] for a, b, c in zip(x, y, score)]
        return entry

    def _keypoint_names(self) -> dict[str, list[str]] | None:
        """By class, of those that have keypoints; None if no names are known."""
        if self._skeletons is None or not self._names:
            return None
        skeletons = self._skeletons
        if not skeletons.class_skeletons:
            return {name: list(skeletons.keypoint_names) for name in self._names}
        of_class = zip(self._names, map(skeletons.skeleton, range(skeletons.num_classes)))
        return {name: list(one.keypoint_names) for name, one in of_class if one is not None}
