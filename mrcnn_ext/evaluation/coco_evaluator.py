# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Detectron2's COCOEvaluator, faster and with more metrics."""

from __future__ import annotations

import itertools
import json
import logging
import os
from collections.abc import Mapping, Sequence

from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import create_small_table

from ..coco.index import GroundTruth
from ..coco.read import check_entries, read_coco
from ..errors import DataError
from ..skeletons import SkeletonSet
from .class_keypoints import cut_annotations
from .evaluate import evaluate_records
from .records import instances_to_records
from .settings import EvaluationSettings
from .tasks import named_tasks

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
        settings: EvaluationSettings | None = None,
        **rules,
    ) -> None:
        """
        Args:
            dataset_name: a registered data set, with metadata "json_file" or in Detectron2's format.
            tasks: names of ``evaluation.tasks.TASKS``; None: every task whose fields the predictions
                contain.
            distributed: collect predictions from all processes and evaluate in the main one.
            output_dir: where instances_predictions.pth and coco_instances_results.json are written.
            max_dets_per_image, kpt_oks_sigmas: ``max_dets`` and ``sigmas`` of
                :class:`EvaluationSettings`, by Detectron2's names. Without sigmas: the metadata's
                "keypoint_oks_sigmas", else those of the data set's skeletons, else those of COCO's 17.
            settings: all of the rules as one object, instead of the arguments above and below.
            rules: other arguments of :class:`EvaluationSettings`.

        Raises:
            ConfigError: an argument is invalid; the message names it.
            DataError: the data set's json is damaged; the message names it.
        """
        metadata = MetadataCatalog.get(dataset_name)
        settings = settings or EvaluationSettings(
            tuple(tasks or ()), max_dets_per_image, sigmas=kpt_oks_sigmas, **rules
        )
        named_tasks(settings.tasks or ())
        try:
            super().__init__(
                dataset_name,
                tuple(settings.tasks or ()) or None,
                distributed,
                output_dir,
                max_dets_per_image=settings.max_dets,
                use_fast_impl=False,
            )
        except (json.JSONDecodeError, KeyError, TypeError, UnicodeDecodeError) as error:
            file = metadata.get("json_file", dataset_name)
            if metadata.get("json_file") and isinstance(error, (KeyError, TypeError)):
                check_entries(read_coco(file, annotated=False), str(file))  # says which entry
            raise DataError(
                f"{file}: is no COCO ground truth ({type(error).__name__}: {error})."
            ) from error
        if self._do_evaluation and metadata.get("evaluator_type") != "lvis":
            source = str(metadata.get("json_file", dataset_name))
            check_entries(self._coco_api.dataset, source, other_images=True)
        self._settings = settings.for_dataset(metadata, list(self._coco_api.cats.values()))
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
            GroundTruth(self._coco_api, img_ids, json_file, check_rles=False),
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
