# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Compare a COCO data set with its metadata in Detectron2, and with a yaml config."""

from __future__ import annotations

from collections.abc import Iterator

from ...coco.read import class_names
from ...coco.rle import is_rle_list
from ...messages import describe, shorten
from .patterns import count_text
from .problem import Problem

__all__ = ["MASK_IS_MISSING", "check_metadata", "check_with_config", "takes_boxes_only"]

# Kinds of problems that are none where :func:`takes_boxes_only`
MASK_IS_MISSING = ("segmentation-missing", "segmentation-empty")


def check_metadata(data: dict, metadata) -> list[Problem]:
    """Compare class and keypoint names of a COCO file with a data set's metadata.

    Args:
        data: what :func:`~mrcnn_ext.coco.read.read_coco` returned.
        metadata: an entry of ``MetadataCatalog``.
    """
    return list(_metadata(data, metadata))


def _metadata(data: dict, metadata) -> Iterator[Problem]:
    names = _class_names(data)
    classes = metadata.get("thing_classes")
    if classes and names and list(classes) != names:
        yield _error(
            "metadata-classes",
            f"thing_classes in the metadata of '{metadata.name}' is [{shorten(classes)}] "
            f"({len(classes)}), the json has [{shorten(names)}] ({len(names)}) in the order of "
            "its category ids; Detectron2 refuses to load it",
        )
    points = list(metadata.get("keypoint_names") or [])
    if not points:
        return
    skeletons = metadata.get("mrcnn_ext_skeletons")
    names = _class_names(data)
    for category in _keypoint_categories(data):
        found = [str(name) for name in category["keypoints"]]
        expected = points
        name = str(category.get("name"))
        place = names.index(name) if name in names else len(names)
        if skeletons is not None and place < skeletons.num_classes:
            skeleton = skeletons.skeleton(place)
            expected = [] if skeleton is None else list(skeleton.keypoint_names)
        if found != expected:
            yield _error(
                "metadata-keypoints",
                f"keypoint_names in the metadata of '{metadata.name}' is [{shorten(expected)}] "
                f"({len(expected)}), category {describe(category.get('name'), 200)} of the json has "
                f"[{shorten(found)}] ({len(found)})",
            )
    yield from _flips(points, metadata)


def _flips(points: list[str], metadata) -> Iterator[Problem]:
    pairs = metadata.get("keypoint_flip_map")
    if pairs is None:  # needed in training only; check_with_config says so
        return
    mapped = {name for pair in pairs for name in pair}
    unknown = sorted(mapped - set(points))
    if unknown:
        yield _error(
            "metadata-flip-map",
            f"keypoint_flip_map in the metadata of '{metadata.name}' has {shorten(unknown)}, "
            "which keypoint_names lacks",
        )
    for name in points:
        other = name.replace("left", "right")
        if other != name and other in points and not {name, other} <= mapped:
            text = f"keypoint_flip_map of '{metadata.name}' does not exchange {name} and {other}"
            yield Problem("warning", "metadata-flip-map", None, None, text)


def takes_boxes_only(cfg) -> bool:
    """Whether objects without a mask train boxes and classes alone."""
    own = cfg.get("MRCNN_EXT")
    return own is not None and own.DATA.BOXES_ONLY and cfg.MODEL.MASK_ON


def check_with_config(data: dict, cfg, metadata=None) -> list[Problem]:
    """Compare a COCO file with the config that is to train or test on it.

    Args:
        data: what :func:`~mrcnn_ext.coco.read.read_coco` returned.
        cfg: a Detectron2 config.
        metadata: the data set's entry of ``MetadataCatalog``; None for a file without a name,
            which is taken for a training set.

    Returns:
        problems, all without an image id; each message names the config key.
    """
    trains = metadata is None or metadata.name in cfg.DATASETS.TRAIN
    trains = trains or metadata.name not in cfg.DATASETS.TEST
    tests = metadata is None or metadata.name in cfg.DATASETS.TEST
    instances = [a for a in data["annotations"] if isinstance(a, dict) and a.get("iscrowd", 0) == 0]
    problems = list(_classes(data, cfg))
    if trains and not data["annotations"]:
        text = "there is no annotation to train on; DATASETS.TRAIN needs some"
        problems.append(_error("config-no-annotations", text))
    if tests:
        problems += _evaluator(data, cfg)
    if cfg.MODEL.MASK_ON:
        problems += _masks(instances, cfg, trains, tests)
    if cfg.MODEL.KEYPOINT_ON:
        problems += _keypoints(data, instances, cfg, tests, metadata)
        if trains and metadata is not None:
            problems += _keypoint_metadata(metadata)
    return problems


def _classes(data: dict, cfg) -> Iterator[Problem]:
    names = _class_names(data)
    expected = cfg.MODEL.ROI_HEADS.NUM_CLASSES
    if len(names) != expected:
        yield _error(
            "config-num-classes",
            f"MODEL.ROI_HEADS.NUM_CLASSES is {expected}, the data set has {len(names)} categories: "
            f"{shorten(names)}",
        )


def _evaluator(data: dict, cfg) -> Iterator[Problem]:
    """Ids that only this package's evaluator takes."""
    own = cfg.get("MRCNN_EXT")
    if own is not None and own.EVALUATION.ENABLED:
        return
    texts = [a for a in data["annotations"] if isinstance(a, dict) and isinstance(a.get("id"), str)]
    if texts:
        # In a tool such as train_net.py, MrcnnExtRCNN puts its evaluator where Detectron2's fails.
        replaced = own is not None and cfg.MODEL.META_ARCHITECTURE == "MrcnnExtRCNN"
        text = (
            f"{count_text(len(texts), len(data['annotations']), 'annotations')} have texts as ids, but "
            "MRCNN_EXT.EVALUATION.ENABLED is not True: Detectron2's COCOEvaluator ends with an error "
            f"at the first object that is found (the first id: {describe(texts[0]['id'])})"
        )
        if replaced:
            text += ". In train_net.py that of mrcnn_ext takes its place"
        severity = "warning" if replaced else "error"
        yield Problem(severity, "config-annotation-ids", None, None, text)


def _masks(instances: list[dict], cfg, trains: bool, tests: bool) -> Iterator[Problem]:
    masks = [a for a in instances if a.get("segmentation")]
    rles = [
        a for a in masks if isinstance(a["segmentation"], dict) or is_rle_list(a["segmentation"])
    ]
    if takes_boxes_only(cfg) and len(masks) < len(instances):
        text = (
            f"{len(instances) - len(masks)} of {len(instances)} instances have a box and no mask; "
            "MRCNN_EXT.DATA.BOXES_ONLY is True, so that masks "
            + " and ".join(["learn from"] * trains + ["are evaluated on"] * tests)
            + " the others"
        )
        yield Problem("warning", "boxes-only", None, None, text)
    if instances and not masks:
        text = "MODEL.MASK_ON is True, but no annotation has a segmentation"
        # Others may have masks to learn from, and boxes are evaluated all the same.
        only = trains and len(cfg.DATASETS.TRAIN) <= 1
        severity = "warning" if takes_boxes_only(cfg) and not only else "error"
        yield Problem(severity, "config-mask-on", None, None, text)
    if trains and rles and cfg.INPUT.MASK_FORMAT != "bitmask":
        yield _error(
            "config-mask-format",
            f"INPUT.MASK_FORMAT is '{cfg.INPUT.MASK_FORMAT}', but {len(rles)} of {len(masks)} masks "
            f"are RLE (the first: annotation {rles[0].get('id')} of image "
            f"{rles[0].get('image_id')}); set it to 'bitmask'",
        )


def _keypoints(data: dict, instances: list[dict], cfg, tests: bool, metadata) -> Iterator[Problem]:
    counts = {len(category["keypoints"]) for category in _keypoint_categories(data)}
    skeletons = None if metadata is None else metadata.get("mrcnn_ext_skeletons")
    if skeletons is not None:
        counts = {skeletons.num_keypoints}
    annotated = [a["keypoints"] for a in instances if isinstance(a.get("keypoints"), list)]
    counts |= {len(k) // 3 for k in annotated if k and not counts}
    if not any(annotated):
        yield _error(
            "config-keypoint-on", "MODEL.KEYPOINT_ON is True, but no annotation has keypoints"
        )
        return
    expected = cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS
    for count in sorted(counts - {expected}):
        yield _error(
            "config-num-keypoints",
            f"MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS is {expected}, the data set has {count}",
        )
    own = cfg.get("MRCNN_EXT")
    # This package's evaluator takes the data set's; MrcnnExtRCNN puts it where Detectron2's fails.
    named = metadata is not None and metadata.get("keypoint_names")
    ours = cfg.MODEL.META_ARCHITECTURE == "MrcnnExtRCNN" and named
    ours = own is not None and (ours or own.EVALUATION.ENABLED)
    if ours and not len(cfg.TEST.KEYPOINT_OKS_SIGMAS):
        return
    sigmas = len(cfg.TEST.KEYPOINT_OKS_SIGMAS) or 17  # empty stands for those of COCO persons
    if tests and counts and sigmas not in counts:
        yield _error(
            "config-oks-sigmas",
            f"TEST.KEYPOINT_OKS_SIGMAS has {len(cfg.TEST.KEYPOINT_OKS_SIGMAS)} numbers (none: COCO's "
            f"17), the data set has {max(counts)} keypoints; COCO's evaluation needs one for each "
            "(MRCNN_EXT.EVALUATION.ENABLED: True takes the data set's own)",
        )


def _keypoint_metadata(metadata) -> Iterator[Problem]:
    missing = [k for k in ("keypoint_names", "keypoint_flip_map") if metadata.get(k) is None]
    if missing:
        yield _error(
            "config-keypoint-metadata",
            f"MODEL.KEYPOINT_ON is True, but the metadata of '{metadata.name}' lacks "
            f"{' and '.join(missing)}: set them with MetadataCatalog.get('{metadata.name}').set(...)",
        )


def _class_names(data: dict) -> list[str]:
    """Names in the order in which Detectron2 numbers the classes."""
    return [str(name) for name in class_names(data["categories"])]


def _keypoint_categories(data: dict) -> list[dict]:
    return [
        c
        for c in data["categories"]
        if isinstance(c, dict) and isinstance(c.get("keypoints"), list) and c["keypoints"]
    ]


def _error(kind: str, message: str) -> Problem:
    return Problem("error", kind, None, None, message)
