# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""From files to a finished report."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ..coco.index import Detections, GroundTruth, load_ground_truth
from ..coco.results import read_records
from ..data.registered import CocoFiles, registered_coco
from ..errors import ConfigError, DataError
from ..evaluation.settings import EvaluationSettings
from ..files import write_json
from ..page import staged_folder
from .analysis import Analysis, analyse, choose_task, why_boxes
from .examples import make_examples
from .page import write_page

__all__ = ["make_report", "read_detections"]

Progress = Callable[[str, int, int], None]  # stage, done, of how many
_LEAST_MAX_DETS = 100  # COCO's


def make_report(
    *,
    results: Mapping[str, str | os.PathLike | list[dict]],
    out: str | os.PathLike,
    dataset: str | None = None,
    annotations: str | os.PathLike | None = None,
    images: str | os.PathLike | None = None,
    task: str | None = None,
    boxes_only: bool = False,
    examples: int = 3,
    score_threshold: float | None = None,
    oks_sigmas: Sequence[float] | None = None,
    title: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Write a report on result files: ``report.html``, ``report.json`` and ``report_pictures/``.

    Args:
        results: what to call it -> file in COCO's results format, or its content. Differences are to
            the first one.
        out: a folder, which is made if need be; an earlier report in it is replaced.
        dataset: name of a registered data set in COCO's format; or
        annotations: COCO annotations, with
        images: the folder of the images; without it examples are drawn on a plain ground.
        task: "bbox" or "segm"; None takes masks if all files have them.
        boxes_only: objects may have a box and no mask; to masks they are crowds, whose region is the
            box.
        examples: how many of the worst and how many of the best images are drawn.
        score_threshold: what is counted and drawn in images; None takes, for each result file, the
            one with the highest F1.
        oks_sigmas: of the keypoints; None: those of the json's categories, or COCO's.
        title: of the page.
        progress: called with stage, number done, and of how many.

    Returns:
        the path of ``report.html``.

    Raises:
        ConfigError: an argument is unusable.
        DataError: a file is; the message names file and id. Nothing is written then.
    """
    _check(results, dataset, annotations, examples, score_threshold)
    tell = progress or (lambda stage, done, total: None)
    tell("reading", 0, len(results) + 1)
    truth, settings = _truth(dataset, annotations, images, oks_sigmas, boxes_only)
    found = []
    for index, (name, source) in enumerate(results.items()):
        tell("reading", index + 1, len(results) + 1)
        found.append(read_detections(name, source, truth))
    asked, task = task, choose_task(truth, found, task, boxes_only=boxes_only)
    reason = why_boxes(truth, found) if asked is None and task == "bbox" else None
    notes = [f"Boxes are compared, not masks: {reason}."] if reason else []
    mask_truth = truth.for_masks() if boxes_only else truth
    if task == "segm" or (mask_truth.has_regions and any(r.has_masks for r in found)):
        for entry in mask_truth.objects:
            mask_truth.rle(entry)  # raises for a damaged one
        if mask_truth is not truth:
            notes.append(
                f"{truth.num_without_mask} of {truth.num_instances} objects have a box and no mask. A "
                "predicted mask in such a box is neither right nor wrong."
            )
    max_dets = max([_LEAST_MAX_DETS, *(r.most_per_pair() for r in found)])
    analyses: list[Analysis] = []
    for index, result in enumerate(found):
        tell("evaluating", index, len(found))
        analyses.append(
            analyse(
                truth, result, task=task, max_dets=max_dets,
                score_threshold=score_threshold, settings=settings,
            )
        )  # fmt: skip
    if task == "segm":
        truth = mask_truth
    drawn, problems = make_examples(truth, analyses, examples, task, tell)
    notes += [f"Drawn on a plain ground: {problem}" for problem in problems]
    tell("writing", 0, 1)
    content = {
        "format": "mrcnn_ext report 1: scores in 0 to 1, null where there is no instance",
        "dataset": truth.name,
        "annotations": truth.source,
        "task": task,
        "max_dets": max_dets,
        "images": len(truth.images),
        "instances": truth.num_instances,
        "notes": notes,
        "results": [a.as_json(truth.class_names) for a in analyses],
    }
    with staged_folder(Path(out)) as folder:
        write_json(folder / "report.json", content)
        write_page(folder, truth, analyses, drawn, task=task, max_dets=max_dets, title=title,
                   given_threshold=score_threshold, notes=notes)  # fmt: skip
    return Path(out) / "report.html"


def _check(results, dataset, annotations, examples: int, score_threshold: float | None) -> None:
    if not results:
        raise ConfigError("--results: no result file is given.")
    if (dataset is None) == (annotations is None):
        raise ConfigError("expected either --dataset or --annotations, one of the two.")
    if examples < 0:
        raise ConfigError(f"--examples is {examples}; expected 0 or more.")
    if score_threshold is not None and not score_threshold == score_threshold:
        raise ConfigError("--score-threshold is no number.")


def _truth(
    dataset: str | None, annotations, images, sigmas: Sequence[float] | None, boxes_only: bool
) -> tuple[GroundTruth, EvaluationSettings]:
    if images is not None and not os.path.isdir(images):
        raise DataError(f"--images {images}: there is no such folder.")
    files = CocoFiles("", str(annotations)) if dataset is None else registered_coco(dataset)
    truth = load_ground_truth(
        files.json_file, name=files.name, image_root=images or files.image_root
    )
    settings = EvaluationSettings(sigmas=tuple(sigmas or ()), boxes_only=boxes_only)
    return truth, settings.for_dataset(files.metadata or {}, truth.categories)


def read_detections(
    name: str, results: str | os.PathLike | list[dict], truth: GroundTruth
) -> Detections:
    """Read the results of one report, see :func:`make_report`.

    Returns:
        detections sorted by image, the highest scores first.

    Raises:
        DataError: the file is unusable; names file, prediction and image id.
    """
    in_memory = isinstance(results, list)
    source = f"results '{name}'" if in_memory else str(results)
    records = read_records(results, truth.sizes, source)
    # Of equal scores those of the first image come first, as in COCOeval.
    records.sort(key=lambda r: (truth.image_number.get(r["image_id"], 0), -r["score"]))
    found = Detections(records, truth, source, name=name)
    if in_memory:
        found.source = "in memory"
    return found
