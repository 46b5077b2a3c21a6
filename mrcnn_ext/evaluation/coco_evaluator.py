# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Detectron2's COCOEvaluator, faster and with more to say about masks."""

from __future__ import annotations

import itertools
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace

from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import create_small_table

from ..coco.index import GroundTruth
from ..errors import DataError
from ..skeletons import SkeletonSet
from .class_keypoints import cut_annotations, oks_sigmas
from .evaluate import evaluate_records
from .records import instances_to_records
from .settings import EvaluationSettings

__all__ = ["MrcnnExtCOCOEvaluator"]


class MrcnnExtCOCOEvaluator(COCOEvaluator):
    """Evaluate boxes, masks, their boundaries and keypoints on a data set in COCO's format.

    It is used as Detectron2's evaluator is, collects from all processes, writes the same two files
    and returns the same numbers, and more of them: see docs/evaluation.md. The model's output is
    not changed.

    A head that scores its masks sets the field ``mask_scores`` (n,) of the Instances. "segm" and
    "boundary" then rank by it, and the json has it as "mask_score".
    """

    def __init__(
        self,
        dataset_name: str,
        tasks: Sequence[str] | None = None,
        distributed: bool = True,
        output_dir: str | None = None,
        *,
        max_dets_per_image: int | None = None,
        kpt_oks_sigmas: Sequence[float] | Mapping = (),
        boundary_dilation: float = 0.02,
        lvis_style: bool = False,
        lvis_max_per_class: int = 0,
        pck_reference: Sequence[str] = (),
        backend: str = "auto",
    ) -> None:
        """
        Args:
            dataset_name: a registered data set, with metadata "json_file" or in Detectron2's format.
            tasks: of "bbox", "segm", "boundary", "mask_quality", "keypoints", "pck"; None takes those
                that the predictions have what is needed for.
            distributed: collect predictions from all processes and evaluate in the main one.
            output_dir: where instances_predictions.pth and coco_instances_results.json are written.
            max_dets_per_image: detections that count in an image; None is 100, or as many as the
                fullest image has if that is more, so that none is dropped. LVIS's style: 300.
            kpt_oks_sigmas: of the keypoints; a dict has a list for each category, by name or the
                json's id. Empty: the metadata's "keypoint_oks_sigmas", else those of the data set's
                skeletons, else those of COCO's 17.
            boundary_dilation: width of boundaries, as a fraction of the image's diagonal.
            lvis_style: follow LVIS's rules for "neg_category_ids" and "not_exhaustive_category_ids"
                of the json's images, and its limit of 300 detections an image.
            lvis_max_per_class: AP fixed: so many detections per class in the data set count (10000
                in the paper) instead of so many per image.
            pck_reference: names of two keypoints whose distance is the unit of PCK; empty: the square
                root of the box's area.
            backend: "auto", "faster_coco_eval" or "pycocotools". Both give the same numbers.

        Raises:
            ConfigError: an argument cannot be; the message names it.
            DataError: the data set's json is damaged; the message names it.
        """
        metadata = MetadataCatalog.get(dataset_name)
        self._settings = EvaluationSettings(
            tasks=tuple(tasks) if tasks else None,
            max_dets=max_dets_per_image,
            boundary_dilation=boundary_dilation,
            lvis_style=lvis_style,
            lvis_max_per_class=lvis_max_per_class,
            pck_reference=tuple(pck_reference),
            backend=backend,
        )
        try:
            super().__init__(
                dataset_name,
                self._settings.tasks,
                distributed,
                output_dir,
                max_dets_per_image=max_dets_per_image,
                use_fast_impl=False,
            )
        except (json.JSONDecodeError, KeyError, UnicodeDecodeError) as error:
            raise DataError(
                f"{metadata.get('json_file', dataset_name)}: is no COCO ground truth "
                f"({type(error).__name__}: {error})."
            ) from error
        categories = list(self._coco_api.cats.values())
        sigmas = oks_sigmas(kpt_oks_sigmas, metadata, categories)
        self._settings = replace(self._settings, sigmas=sigmas)
        self._skeletons = SkeletonSet.from_metadata(metadata)
        if self._skeletons is not None and self._skeletons.class_skeletons:
            classes = metadata.get("thing_dataset_id_to_contiguous_id")
            classes = classes or {i: i for i in self._coco_api.cats}
            cut_annotations(list(self._coco_api.anns.values()), classes, self._skeletons)
        # Detectron2's tools print what is logged below its own name.
        self._logger = logging.getLogger("detectron2." + __name__)

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """As COCOEvaluator.process; ``outputs`` are not changed."""
        for one_input, output in zip(inputs, outputs):
            prediction = {"image_id": one_input["image_id"]}
            if "instances" in output:
                instances = output["instances"].to(self._cpu_device)
                prediction["instances"] = instances_to_records(
                    instances, one_input["image_id"], self._skeletons
                )
            if "proposals" in output:
                prediction["proposals"] = output["proposals"].to(self._cpu_device)
            if len(prediction) > 1:
                self._predictions.append(prediction)

    def _eval_predictions(self, predictions: list[dict], img_ids=None) -> None:
        records = list(itertools.chain(*(p["instances"] for p in predictions)))
        self._to_dataset_ids(records)
        file_name = ""
        if self._output_dir:
            file_name = os.path.join(self._output_dir, "coco_instances_results.json")
            self._logger.info(f"Saving results to {file_name}")
            with PathManager.open(file_name, "w") as file:
                file.write(json.dumps(records))
        if not self._do_evaluation:
            self._logger.info("Annotations are not available for evaluation.")
            return
        json_file = self._metadata.get("json_file", "")
        results = evaluate_records(
            records,
            GroundTruth(self._coco_api, img_ids, json_file),
            self._settings,
            class_names=self._class_names(),
            source=file_name,
        )
        for task, metrics in results.items():
            self._log(task, metrics)
            self._results[task] = metrics

    def _to_dataset_ids(self, records: list[dict]) -> None:
        """The model's classes 0, 1, … become the json's ids."""
        mapping = self._metadata.get("thing_dataset_id_to_contiguous_id")
        if mapping is None:
            return
        ids = {contiguous: dataset_id for dataset_id, contiguous in mapping.items()}
        for record in records:
            category = record["category_id"]
            if category not in ids:
                raise DataError(
                    f"a prediction for image id {record['image_id']!r} has class {category}, but "
                    f"'{self._metadata.name}' has {len(ids)} classes, 0 to {len(ids) - 1}."
                )
            record["category_id"] = ids[category]

    def _class_names(self) -> list[str] | None:
        """Names in the order of the json's ids; None leaves it to the json."""
        names = self._metadata.get("thing_classes")
        ids = sorted(self._coco_api.cats)
        mapping = self._metadata.get("thing_dataset_id_to_contiguous_id")
        if not names or len(names) != len(ids):
            return None
        return [names[mapping[i]] for i in ids] if mapping else list(names)

    def _log(self, task: str, metrics: dict[str, float]) -> None:
        plain = {key: value for key, value in metrics.items() if "-" not in key}
        self._logger.info(f"Evaluation results for {task}:\n" + create_small_table(plain))
        by_class = {k[3:]: v for k, v in metrics.items() if k.startswith("AP-")}
        if by_class:
            self._logger.info(f"Per-category {task} AP:\n" + _columns(by_class))


def _columns(values: Mapping[str, float], columns: int = 3) -> str:
    from tabulate import tabulate

    cells = list(values.items())
    rows = [sum(cells[i : i + columns], ()) for i in range(0, len(cells), columns)]
    headers = ["category", "AP"] * min(columns, len(cells))
    return tabulate(rows, headers=headers, tablefmt="pipe", floatfmt=".3f", numalign="left")
