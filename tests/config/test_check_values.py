# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Values that cannot work are found before the first step, in one message that names the key."""

from __future__ import annotations

import json
import math
import re

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.engine import DefaultTrainer
from detectron2.modeling import build_model

from mrcnn_ext.coco.peek import first_annotations
from mrcnn_ext.config.check import check_config
from mrcnn_ext.config.check_values import check_values
from mrcnn_ext.config.load import list_configs, load_config
from mrcnn_ext.errors import ConfigError
from mrcnn_ext.evaluation.check_keys import check_evaluation, check_whole_config
from tests.helpers import timm_cfg

MASK, KEYPOINT = "MODEL.ROI_MASK_HEAD", "MODEL.ROI_KEYPOINT_HEAD"
OWN, EVALUATION = "MRCNN_EXT.MASK_HEAD", "MRCNN_EXT.EVALUATION"
FCN = [f"{MASK}.NAME", "MrcnnExtFCNMaskHead"]
ON = [f"{EVALUATION}.ENABLED", True]
TRAIN, VAL = "mrcnn_ext_shapes_train", "mrcnn_ext_shapes_val"
CASCADE = ["MODEL.ROI_HEADS.NAME", "MrcnnExtCascadeROIHeads"]
EMA = ["MRCNN_EXT.EMA.ENABLED", True]
STOP = ["TEST.EVAL_PERIOD", 5, "MRCNN_EXT.EARLY_STOPPING.METRIC"]
AGNOSTIC = [*CASCADE, "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True]
POSE = ["MODEL.KEYPOINT_ON", True, f"{KEYPOINT}.NUM_KEYPOINTS", 11]


def _cfg(*overrides):
    cfg = timm_cfg("resnet18", fpn=True)
    for key, value in zip(overrides[::2], overrides[1::2]):
        *nodes, last = key.split(".")
        node = cfg
        for name in nodes:
            node = node[name]
        node[last] = value
    return cfg


@pytest.mark.parametrize("name", [n for n in list_configs() if n.endswith(".yaml")])
def test_configs_of_this_package_pass(name):
    cfg = load_config(name)
    check_values(cfg)
    check_evaluation(cfg)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["MODEL.ROI_HEADS.NUM_CLASSES", 0],
            "MODEL.ROI_HEADS.NUM_CLASSES is 0; expected 1 or more",
        ),
        ([*FCN, f"{OWN}.LOSS_WEIGHTS", [-1.0]], f"{OWN}.LOSS_WEIGHTS is [-1.0]; expected 0 or"),
        ([*FCN, f"{OWN}.LOSS_WEIGHTS", ["a"]], f"{OWN}.LOSS_WEIGHTS is ['a']; expected 0 or"),
        ([*FCN, f"{OWN}.LOSS_WEIGHTS", [math.nan]], f"{OWN}.LOSS_WEIGHTS is [nan]; expected"),
        ([*FCN, f"{OWN}.LOSSES", ["bce", "dice"]], f"{OWN}.LOSS_WEIGHTS has 1 numbers; expected"),
        ([*FCN, f"{OWN}.SCORE_LOSS_WEIGHT", -0.5], f"{OWN}.SCORE_LOSS_WEIGHT is -0.5; expected 0"),
        ([*FCN, f"{OWN}.CONTEXT", math.inf], f"{OWN}.CONTEXT is inf; expected a finite number"),
        (
            [*FCN, f"{OWN}.TRAIN_CLASSES", [8]],
            f"{OWN}.TRAIN_CLASSES is [8]; expected whole numbers",
        ),
        ([*FCN, f"{OWN}.TRAIN_CLASSES", [-1]], "whole numbers from 0 to 7"),
        ([*FCN, f"{OWN}.TRAIN_CLASSES", ["gear"]], f"{OWN}.TRAIN_CLASSES is ['gear']; expected"),
        ([f"{OWN}.BOUNDARY.DICE_WEIGHT", -1.0], f"{OWN}.BOUNDARY.DICE_WEIGHT is -1.0"),
        ([f"{OWN}.REFINE_MASK.STAGE_WEIGHTS", [1.0, -1.0]], f"{OWN}.REFINE_MASK.STAGE_WEIGHTS is"),
        (["MODEL.RPN.LOSS_WEIGHT", -1.0], "MODEL.RPN.LOSS_WEIGHT is -1.0; expected 0 or more"),
        (
            ["MRCNN_EXT.TIMM.DROP_PATH_RATE", 2.0],
            "MRCNN_EXT.TIMM.DROP_PATH_RATE is 2.0; expected 0",
        ),
        ([f"{OWN}.POINT_REND.IMPORTANCE_RATIO", 5.0], "IMPORTANCE_RATIO is 5.0; expected 0 to 1"),
        (["MODEL.ROI_HEADS.POSITIVE_FRACTION", -0.1], "POSITIVE_FRACTION is -0.1; expected 0 to 1"),
        (["MODEL.ROI_HEADS.SCORE_THRESH_TEST", 50.0], "SCORE_THRESH_TEST is 50.0; expected 0 to 1"),
        (["SOLVER.BASE_LR", math.nan], "SOLVER.BASE_LR is nan; expected a finite number"),
        (
            [f"{OWN}.LOSSES", ["dice"]],
            f"{OWN}.LOSSES is ['dice'], which MaskRCNNConvUpsampleHead does",
        ),
        (
            [f"{OWN}.SCORE", "mask_iou"],
            f"{OWN}.SCORE is 'mask_iou', which MaskRCNNConvUpsampleHead",
        ),
        ([f"{OWN}.CONTEXT", 1.5], f"{OWN}.CONTEXT is 1.5, which MaskRCNNConvUpsampleHead does not"),
        ([*POSE, "MRCNN_EXT.KEYPOINT_HEAD.CODEC", "udp"], "CODEC is 'udp', which KRCNNConvDeconv"),
        (
            [f"{MASK}.POOLER_TYPE", ""],
            f"{MASK}.POOLER_TYPE is '', but MaskRCNNConvUpsampleHead takes",
        ),
        ([f"{MASK}.POOLER_TYPE", "ROIAlignV3"], f"{MASK}.POOLER_TYPE is 'ROIAlignV3'; expected"),
        (["MODEL.ROI_BOX_HEAD.POOLER_TYPE", "ROIAlignV3"], "MODEL.ROI_BOX_HEAD.POOLER_TYPE is"),
        ([*POSE, f"{KEYPOINT}.POOLER_TYPE", ""], f"{KEYPOINT}.POOLER_TYPE is '', but KRCNN"),
        ([f"{MASK}.POOLER_RESOLUTION", -1], f"{MASK}.POOLER_RESOLUTION is -1; expected 1 or more"),
        (["MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO", -1], "POOLER_SAMPLING_RATIO is -1; expected"),
        (
            ["MODEL.ROI_HEADS.IN_FEATURES", ["p2", "p9"]],
            "MODEL.ROI_HEADS.IN_FEATURES is ['p2', 'p9']; expected some of p2, p3, p4, p5, p6",
        ),
        (
            ["MODEL.RPN.IN_FEATURES", ["res4"]],
            "MODEL.RPN.IN_FEATURES is ['res4']; expected some of",
        ),
        (["MODEL.RPN.IN_FEATURES", []], "MODEL.RPN.IN_FEATURES is []; expected some of p2"),
        (["MODEL.FPN.IN_FEATURES", ["p2"]], "MODEL.FPN.IN_FEATURES is ['p2'], but MRCNN_EXT.TIMM"),
        (["MODEL.FPN.IN_FEATURES", ["res9"]], "MODEL.FPN.IN_FEATURES is ['res9'], but MRCNN_EXT"),
        (
            [*FCN, f"{OWN}.LOSSES", [], f"{OWN}.LOSS_WEIGHTS", []],
            f"{OWN}.LOSSES is []; expected one",
        ),
        (
            [f"{MASK}.NAME", "PointRendMaskHead"],
            f"{MASK}.POOLER_TYPE is 'ROIAlignV2'; expected '', since PointRendMaskHead takes",
        ),
        (
            ["MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone", "MODEL.FPN.IN_FEATURES", ["res9"]],
            "MODEL.FPN.IN_FEATURES is ['res9']; expected some of res4",
        ),
        (["INPUT.MASK_FORMAT", "xx"], "INPUT.MASK_FORMAT is 'xx'; expected 'polygon' or 'bitmask'"),
        (["INPUT.MASK_FORMAT", "polygon"], "INPUT.MASK_FORMAT is 'polygon', but 'mrcnn_ext_shapes"),
        (
            ["MODEL.FPN.NORM", "GN"],
            "MODEL.FPN.NORM is 'GN', which has 32 groups, but MODEL.FPN.OUT_CHANNELS is 16",
        ),
        (
            [f"{MASK}.NORM", "GN"],
            f"{MASK}.NORM is 'GN', which has 32 groups, but {MASK}.CONV_DIM is",
        ),
        (
            ["MODEL.ROI_BOX_HEAD.NORM", "GN", "MODEL.ROI_BOX_HEAD.NUM_CONV", 1]
            + ["MODEL.ROI_BOX_HEAD.CONV_DIM", 48],
            "MODEL.ROI_BOX_HEAD.CONV_DIM is 48; expected a multiple of 32",
        ),
        (
            [
                *POSE,
                f"{KEYPOINT}.NAME",
                "MrcnnExtHeatmapKeypointHead",
                f"{KEYPOINT}.CONV_DIMS",
                [48],
            ]
            + ["MRCNN_EXT.KEYPOINT_HEAD.NORM", "GN"],
            f"MRCNN_EXT.KEYPOINT_HEAD.NORM is 'GN', which has 32 groups, but {KEYPOINT}.CONV_DIMS is",
        ),
        ([f"{EVALUATION}.TASKS", ["foo"]], f"{EVALUATION}.TASKS is ['foo']; expected some of bbox"),
        (
            [f"{EVALUATION}.TASKS", ["keypoints"]],
            "names 'keypoints', but MODEL.KEYPOINT_ON is False",
        ),
        (
            [f"{EVALUATION}.TASKS", ["segm"], "MODEL.MASK_ON", False],
            f"{EVALUATION}.TASKS names 'segm', but MODEL.MASK_ON is False",
        ),
        (
            [f"{EVALUATION}.BACKEND", "xx"],
            f"{EVALUATION}.BACKEND: backend is 'xx'; expected one of",
        ),
        ([f"{EVALUATION}.BOUNDARY_DILATION", -1.0], f"{EVALUATION}.BOUNDARY_DILATION is -1.0"),
        ([f"{EVALUATION}.BOUNDARY_DILATION", 0.0], "a fraction of the image's diagonal"),
        ([f"{EVALUATION}.MAX_DETECTIONS", -1], f"{EVALUATION}.MAX_DETECTIONS is -1; expected 0"),
        ([f"{EVALUATION}.LVIS_MAX_PER_CLASS", -1], "LVIS_MAX_PER_CLASS is -1; expected 0 or more"),
        (
            [f"{EVALUATION}.PCK_REFERENCE", ["neck"]],
            "PCK_REFERENCE is ['neck']; expected the names",
        ),
        ([f"{EVALUATION}.BEST_MODE", "best"], f"{EVALUATION}.BEST_MODE is 'best'; expected 'max'"),
        ([f"{EVALUATION}.BEST_METRIC", "AP"], f"{EVALUATION}.BEST_METRIC is 'AP'; expected TASK/"),
        ([f"{EVALUATION}.BEST_METRIC", "segm/APP"], "'segm/APP', but .* similar: segm/AP"),
        (
            [f"{EVALUATION}.BEST_METRIC", "segm/AP-gearr"],
            "'segm/AP-gearr', but the evaluation does",
        ),
        (
            [*ON, f"{EVALUATION}.BEST_METRIC", "seg/AP"],
            "'seg' is not evaluated; similar: segm; there",
        ),
        (
            [f"{EVALUATION}.BEST_METRIC", "keypoints/AP"],
            "'keypoints' is not evaluated; there are: bb",
        ),
        (
            [*ON, f"{EVALUATION}.BEST_METRIC", "segm/AP", f"{EVALUATION}.TASKS", ["bbox"]],
            "'segm' is not evaluated; there are: bbox",
        ),
        (
            [f"{EVALUATION}.BEST_METRIC", "segm/AP", "DATASETS.TEST", (TRAIN, VAL)],
            f"expected one that begins with a test set's name: {TRAIN}, {VAL}, such as",
        ),
        (
            [f"{EVALUATION}.BEST_METRIC", "ema/segm/AP"],
            "BEST_METRIC is 'ema/segm/AP', but MRCNN_EXT.EMA.ENABLED is False",
        ),
        (
            [*STOP, "ema/segm/AP", *EMA, "MRCNN_EXT.EMA.EVALUATE", False],
            "EARLY_STOPPING.METRIC is 'ema/segm/AP', but MRCNN_EXT.EMA.EVALUATE is False",
        ),
        ([*STOP, "ema/segm/APP", *EMA], "METRIC is 'ema/segm/APP', but .* similar: segm/AP"),
        ([*STOP, "AP"], "MRCNN_EXT.EARLY_STOPPING.METRIC is 'AP'; expected TASK/METRIC"),
        (
            [*STOP, "validation/total_loss", *ON],
            "METRIC is 'validation/total_loss', but MRCNN_EXT.EVALUATION.VALIDATION_LOSS is False",
        ),
        (["MODEL.META_ARCHITECTURE", "MrcnnExtRCN"], "similar names: MrcnnExtRCNN"),
        (["MODEL.ROI_HEADS.NAME", "StandardRoIHeads"], "similar names: StandardROIHeads"),
        (["MODEL.BACKBONE.NAME", "build_tim_fpn_backbone"], "similar names: build_timm_fpn_backb"),
        (CASCADE, "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG is False, but MrcnnExtCascadeROIHeads"),
        (
            [*AGNOSTIC, "MODEL.ROI_HEADS.IOU_THRESHOLDS", [0.6]],
            "MODEL.ROI_HEADS.IOU_THRESHOLDS is [0.6]; expected the first number of",
        ),
        (
            [*AGNOSTIC, "MODEL.ROI_BOX_CASCADE_HEAD.IOUS", (0.5, 0.6)],
            "BBOX_REG_WEIGHTS has 3 entries; expected one for each of IOUS, [0.5, 0.6]",
        ),
        (
            [*FCN, f"{OWN}.LOSSES", ["bcee"]],
            f"{OWN}.LOSSES is ['bcee']; expected one or more of bce, dice, lovasz, boundary_bce, "
            "edge_dice (similar: bce)",
        ),
        ([*FCN, f"{OWN}.SCORE", "iou"], f"{OWN}.SCORE is 'iou'; expected one of ['mask_iou'"),
        ([*FCN, f"{OWN}.CONTEXT", 0.5], f"{OWN}.CONTEXT is 0.5; expected 1 or more"),
    ],
)
def test_found_when_the_model_is_built(overrides, message):
    pattern = ".*".join(map(re.escape, message.split(".*")))
    if overrides[0] == "MODEL.META_ARCHITECTURE":  # Detectron2 looks for it before our code runs
        build = check_whole_config
    else:
        build = build_model
    with pytest.raises(ConfigError, match="^.*" + pattern) as error:
        build(_cfg(*overrides))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        [*FCN, f"{OWN}.LOSSES", ["bce", "dice"], f"{OWN}.LOSS_WEIGHTS", [1, 0.0]],
        [*FCN, f"{OWN}.TRAIN_CLASSES", (0, 7), f"{MASK}.POOLER_TYPE", "", f"{MASK}.NORM", "GN"],
        [f"{OWN}.POINT_REND.FC_DIM", 64],  # of another head: in base configs of comparisons
        ["MODEL.MASK_ON", False, f"{OWN}.SCORE", "mask_iou", f"{MASK}.POOLER_TYPE", ""],
        [
            f"{EVALUATION}.TASKS",
            ["bbox", "segm", "boundary"],
            f"{EVALUATION}.BEST_METRIC",
            "segm/AP",
        ],
        [
            "MODEL.BACKBONE.NAME",
            "build_retinanet_resnet_fpn_backbone",
            "MODEL.RPN.IN_FEATURES",
            ["x"],
        ],
        ["MODEL.FPN.NORM", "GN", "MODEL.FPN.OUT_CHANNELS", 64],
        [f"{MASK}.NAME", "PointRendMaskHead", f"{MASK}.POOLER_TYPE", ""],
        AGNOSTIC,
        ["DATASETS.TRAIN", ()],  # for evaluation
        *[
            [f"{EVALUATION}.BEST_METRIC", name]
            for name in ("segm/AP-gear", "bbox/AR@100", "bbox/ARs", "boundary/APl", "pk/mine")
        ],
        [*POSE, f"{EVALUATION}.BEST_METRIC", "pck/PCK@0.1-gear/crown"],
        [f"{EVALUATION}.BEST_METRIC", f"{VAL}/segm/AP75", "DATASETS.TEST", (TRAIN, VAL)],
        [f"{EVALUATION}.BEST_METRIC", "mine/f1", "DATASETS.TEST", ()],
        [*STOP, "ema/segm/AP-gear", *EMA, f"{EVALUATION}.BEST_METRIC", "ema/bbox/AP"],
        [*STOP, f"ema/{VAL}/segm/AP", *EMA, "DATASETS.TEST", (TRAIN, VAL)],
        [*STOP, "validation/total_loss", *ON, f"{EVALUATION}.VALIDATION_LOSS", True],
    ],
)
def test_what_works_is_not_refused(overrides):
    cfg = _cfg(*overrides)
    check_values(cfg)
    check_evaluation(cfg)


def test_polygons_are_asked_of_a_json_with_rle(tmp_path):
    """Only what is no crowd counts: COCO's crowds are in run-length encoding."""
    rle = {"size": [4, 4], "counts": [16]}
    box = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 2, 2], "area": 4}
    crowd = {**box, "id": 1, "segmentation": rle, "iscrowd": 1}
    polygon = {**box, "id": 2, "segmentation": [[0, 0, 2, 0, 2, 2]], "iscrowd": 0}
    masked = {**box, "id": 3, "segmentation": rle, "iscrowd": 0}
    name = "mrcnn_ext_test_polygons"
    cfg = _cfg("DATASETS.TRAIN", (name,), "DATASETS.TEST", (), "INPUT.MASK_FORMAT", "polygon")
    for entries, good in (([crowd, polygon], True), ([crowd, polygon, masked], False)):
        path = tmp_path / f"{good}.json"
        path.write_text(json.dumps({"images": [], "annotations": entries, "categories": []}))
        register_coco_instances(name, {}, str(path), str(tmp_path))
        try:
            if good:
                check_config(cfg)
            else:
                with pytest.raises(ConfigError, match=r"MASK_FORMAT is 'polygon'.*annotation 3;"):
                    check_config(cfg)
        finally:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("", 0),
        ("{}", 0),
        ('{"annotations": null}', 0),
        ('{"annotations" : \n[ {"id": 1} ,\n{"id": 2}]}', 2),
        ('{"annotations": [{"id": 1}, {"id": ', 1),
        ('{"annotations": [' + "[" * 100000, 0),
        ('{"annotations": [' + ", ".join(['{"id": 1}'] * 300) + "]}", 100),
        ('{"annotations": [{"id": 1}, 7, {"id": 2}]}', 2),
    ],
)
def test_first_annotations(tmp_path, text, number):
    (tmp_path / "a.json").write_text(text)
    assert len(first_annotations(tmp_path / "a.json")) == number
    assert first_annotations(tmp_path / "none.json") == []


def test_training_needs_a_data_set(tmp_path):
    cfg = _cfg("DATASETS.TRAIN", (), "OUTPUT_DIR", str(tmp_path))
    build_model(cfg)  # to predict or to evaluate
    with pytest.raises(ConfigError, match=r"DATASETS.TRAIN is \(\), but training needs a data set"):
        DefaultTrainer(cfg)
