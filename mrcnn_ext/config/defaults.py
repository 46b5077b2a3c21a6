# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Every config key of mrcnn_ext (yaml side; LazyConfig passes arguments instead).

Those of training are in ``training_defaults.py``, those of training data in ``data_defaults.py``.
``docs/config.md`` is generated from all three files by
``python -m mrcnn_ext.config.reference``: the comment above a key is its documentation.
"""

from __future__ import annotations

from fvcore.common.config import CfgNode as FvcoreCfgNode

from .data_defaults import add_data_config
from .training_defaults import add_training_defaults

__all__ = ["add_mrcnn_ext_config"]


def add_mrcnn_ext_config(cfg: FvcoreCfgNode) -> None:
    """Add the node ``MRCNN_EXT`` with its defaults to ``cfg``, in place.

    Keys that exist already keep their value, so it is safe to call this twice, or in a script that
    also runs with ``DETECTRON2_ENV_MODULE=mrcnn_ext.d2_env``.

    Args:
        cfg: a Detectron2 config, as ``detectron2.config.get_cfg()`` returns it.
    """
    _merge_missing(cfg, "MRCNN_EXT", _defaults(type(cfg)))


def _merge_missing(cfg: FvcoreCfgNode, key: str, value) -> None:
    if key not in cfg:
        cfg[key] = value
    elif isinstance(value, FvcoreCfgNode):
        for child in value:
            _merge_missing(cfg[key], child, value[child])


def _defaults(CN: type) -> FvcoreCfgNode:
    # One class for all nodes: yacs refuses to merge a node of another class into a config.
    _C = CN()

    # ---------------------------------------------------------------------------------------------
    # timm backbones: MODEL.BACKBONE.NAME "build_timm_backbone" (C4) or "build_timm_fpn_backbone"
    # ---------------------------------------------------------------------------------------------
    _C.TIMM = CN()
    # Any timm model that supports features_only, for example "tf_efficientnet_lite0", "resnet50",
    # "convnext_tiny" or "swin_tiny_patch4_window7_224". Load its ImageNet weights with MODEL.WEIGHTS:
    # "timm://tf_efficientnet_lite0" (see docs/backbones.md).
    _C.TIMM.NAME = "resnet50"
    # Feature maps to return: "res2" ... "res5" have stride 4 ... 32 ("res1", stride 2, exists for
    # some models). FPN takes those in MODEL.FPN.IN_FEATURES; C4 heads want ["res4"].
    _C.TIMM.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    # How to treat the model's BatchNorm layers. "FrozenBN": fix statistics and affine parameters
    # (best for small batches). "BN": train them. "SyncBN": share their statistics over GPUs. "GN":
    # replace them by GroupNorm. A model without BatchNorm (ConvNeXt, Swin) keeps its own norm;
    # "SyncBN" and "GN" raise an error there. MODEL.BACKBONE.FREEZE_AT freezes layers independently.
    _C.TIMM.NORM = "FrozenBN"
    # Stochastic depth, 0 to 1, for models that support it (ConvNeXt, Swin, EfficientNet ...).
    _C.TIMM.DROP_PATH_RATE = 0.0
    # Recompute activations in the backward pass: less memory, more time. Models that support it.
    _C.TIMM.GRAD_CHECKPOINTING = False

    # ---------------------------------------------------------------------------------------------
    # Data sets
    # Registered by MODEL.META_ARCHITECTURE "MrcnnExtRCNN" and by this package's tools; other scripts
    # call mrcnn_ext.data.register_datasets(cfg).
    # ---------------------------------------------------------------------------------------------
    _C.DATA = CN()
    # Data sets to register, each [name, COCO json, image folder]. DATASETS.TRAIN and DATASETS.TEST
    # take the names. Only the jsons of those are read. Categories that list "keypoints" get their
    # skeletons, as with POSE.DATASETS. LazyConfigs call mrcnn_ext.data.register_coco.
    _C.DATA.DATASETS = []

    # ---------------------------------------------------------------------------------------------
    # The built-in synthetic data sets mrcnn_ext_shapes_train and mrcnn_ext_shapes_val.
    # Read by MODEL.META_ARCHITECTURE "MrcnnExtRCNN"; scripts call mrcnn_ext.data.shapes instead.
    # ---------------------------------------------------------------------------------------------
    _C.SHAPES = CN()
    # Number of training images. The first N images are the same for every number.
    _C.SHAPES.NUM_TRAIN = 400
    # Number of validation images. None of them is a training image.
    _C.SHAPES.NUM_VAL = 100
    # Long side of the images in pixels, 64 to 4096.
    _C.SHAPES.IMAGE_SIZE = 320
    # Another seed makes other images of the same distribution.
    _C.SHAPES.SEED = 0

    # ---------------------------------------------------------------------------------------------
    # Mask heads of this package: MODEL.ROI_MASK_HEAD.NAME "MrcnnExt…MaskHead". Its other keys
    # (NUM_CONV, CONV_DIM, NORM, CLS_AGNOSTIC_MASK, POOLER_RESOLUTION) keep their meaning.
    # ---------------------------------------------------------------------------------------------
    _C.MASK_HEAD = CN()
    # Mask losses: "bce" (Mask R-CNN's), "dice", "lovasz", "boundary_bce" (boundary pixels weigh five
    # times as much) and "edge_dice" (compares the edges of prediction and ground truth).
    _C.MASK_HEAD.LOSSES = ["bce"]
    # One factor per loss.
    _C.MASK_HEAD.LOSS_WEIGHTS = [1.0]
    # Factors of all losses of masks by class, as BOX_HEAD.CLASS_WEIGHTS says. Empty: all have 1.
    _C.MASK_HEAD.CLASS_WEIGHTS = []
    # How mask quality is estimated; mask_scores = class score x quality. "": no mask scores.
    # "mask_iou": learned, as in Mask Scoring R-CNN. "mean_foreground" and "certainty": from the
    # mask's own probabilities, at no cost.
    _C.MASK_HEAD.SCORE = ""
    # Factor of the loss of "mask_iou".
    _C.MASK_HEAD.SCORE_LOSS_WEIGHT = 1.0
    # Width of the convolutions of "mask_iou".
    _C.MASK_HEAD.SCORE_CONV_DIM = 256
    # Width of the fully connected layers of "mask_iou".
    _C.MASK_HEAD.SCORE_FC_DIM = 1024
    # Write the mask scores to "scores", so that every evaluator ranks by them, boxes included.
    _C.MASK_HEAD.FOLD_SCORE = False
    # Feature maps that the head pools from, for example ["p2"]; empty: all of
    # MODEL.ROI_HEADS.IN_FEATURES. With Detectron2's own RoI heads, this and CONTEXT need
    # MODEL.ROI_MASK_HEAD.POOLER_TYPE "".
    _C.MASK_HEAD.IN_FEATURES = []
    # Old name of MASK_HEAD.IN_FEATURES.
    _C.MASK_HEAD.POOLER_LEVELS = []
    # Predict in boxes enlarged by this factor, then crop the masks to the box.
    _C.MASK_HEAD.CONTEXT = 1.0
    # Classes whose masks train the head (contiguous ids); empty: all. For class-agnostic heads and
    # studies of classes that have boxes only.
    _C.MASK_HEAD.TRAIN_CLASSES = []
    # MrcnnExtFCNMaskHead: "sigmoid" (independent classes) or "softmax" (competing classes).
    _C.MASK_HEAD.COUPLING = "sigmoid"
    # MrcnnExtWrappedMaskHead: name of the mask head to wrap with the options above.
    _C.MASK_HEAD.WRAPPED = "MaskRCNNConvUpsampleHead"
    _C.MASK_HEAD.BOUNDARY = CN()
    # MrcnnExtBoundaryMaskHead: feature maps that the boundary branch pools from, for example ["p2"], at
    # twice POOLER_RESOLUTION; empty: the finest of those that the head pools from.
    _C.MASK_HEAD.BOUNDARY.IN_FEATURES = []
    # Old name of MASK_HEAD.BOUNDARY.IN_FEATURES.
    _C.MASK_HEAD.BOUNDARY.POOLER_LEVELS = []
    # 3 x 3 convolutions of the boundary branch. (NUM_CONV counts those of the mask branch.)
    _C.MASK_HEAD.BOUNDARY.NUM_CONV = 2
    # Factor of the boundary's binary cross entropy.
    _C.MASK_HEAD.BOUNDARY.BCE_WEIGHT = 1.0
    # Factor of the boundary's dice loss.
    _C.MASK_HEAD.BOUNDARY.DICE_WEIGHT = 1.0
    _C.MASK_HEAD.DYNAMIC = CN()
    # MrcnnExtDynamicMaskHead: feature maps that the shared features are computed from, at the stride
    # of the finest one; empty: those that the head pools from. CondInst takes ["p3", "p4", "p5"].
    # (MODEL.ROI_MASK_HEAD.NUM_CONV and CONV_DIM belong to its controller.)
    _C.MASK_HEAD.DYNAMIC.IN_FEATURES = []
    # Old name of MASK_HEAD.DYNAMIC.IN_FEATURES.
    _C.MASK_HEAD.DYNAMIC.MAP_LEVELS = []
    # Width of the branch that computes the shared features.
    _C.MASK_HEAD.DYNAMIC.MAP_CONV_DIM = 128
    # 3 x 3 convolutions of that branch.
    _C.MASK_HEAD.DYNAMIC.MAP_NUM_CONV = 4
    # Number of shared features. Each object's network gets them and the position in its box.
    _C.MASK_HEAD.DYNAMIC.MAP_CHANNELS = 8
    # Width of each object's network.
    _C.MASK_HEAD.DYNAMIC.HIDDEN_CHANNELS = 8
    # Side of the masks.
    _C.MASK_HEAD.DYNAMIC.MASK_RESOLUTION = 56
    _C.MASK_HEAD.DEEP = CN()
    # MrcnnExtDeepMaskHead: layers of its hourglass network, 10, 20 or 52. The paper sets
    # MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION to 32. CONV_DIM, NUM_CONV and CLS_AGNOSTIC_MASK there have
    # no effect: masks never depend on the class.
    _C.MASK_HEAD.DEEP.DEPTH = 20
    # Width of its first and last convolution; the hourglass is 2 to 4 times as wide.
    _C.MASK_HEAD.DEEP.CONV_DIM = 64
    # Train on the matched ground-truth boxes instead of the proposals.
    _C.MASK_HEAD.DEEP.TRAIN_ON_GT_BOXES = True
    # Maximum number of boxes per image, different ones first; 0: one per proposal.
    _C.MASK_HEAD.DEEP.MAX_BOXES_PER_IMAGE = 16

    # MrcnnExtPointRendMaskHead. MODEL.ROI_MASK_HEAD.CONV_DIM and NORM belong to the one convolution of
    # its coarse mask, NUM_CONV has no effect. With MASK_HEAD.IN_FEATURES ["p2"] and
    # MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO 1 the coarse mask is the paper's.
    _C.MASK_HEAD.POINT_REND = CN()
    # Side of the coarse mask.
    _C.MASK_HEAD.POINT_REND.COARSE_RESOLUTION = 7
    # Fully connected layers of the coarse mask, without the last.
    _C.MASK_HEAD.POINT_REND.COARSE_NUM_FC = 2
    # Width of these layers.
    _C.MASK_HEAD.POINT_REND.COARSE_FC_DIM = 1024
    # Feature maps that points are sampled from, for example ["p2", "p3"]; empty: the finest of
    # MODEL.ROI_HEADS.IN_FEATURES.
    _C.MASK_HEAD.POINT_REND.IN_FEATURES = []
    # Layers of the point head, without the last.
    _C.MASK_HEAD.POINT_REND.NUM_FC = 3
    # Width of these layers.
    _C.MASK_HEAD.POINT_REND.FC_DIM = 256
    # Training points per RoI.
    _C.MASK_HEAD.POINT_REND.TRAIN_POINTS = 196
    # Candidates drawn per kept point; 1 disables oversampling.
    _C.MASK_HEAD.POINT_REND.OVERSAMPLE_RATIO = 3.0
    # Share of the points that are the most uncertain candidates; the rest is drawn uniformly.
    _C.MASK_HEAD.POINT_REND.IMPORTANCE_RATIO = 0.75
    # Side of the mask: COARSE_RESOLUTION times a power of 2. Detectron2's PointRend has 224.
    _C.MASK_HEAD.POINT_REND.OUTPUT_RESOLUTION = 112
    # Most uncertain cells re-predicted after each 2x upsampling.
    _C.MASK_HEAD.POINT_REND.SUBDIVISION_POINTS = 784

    # MrcnnExtRefineMaskHead. MODEL.ROI_MASK_HEAD.NUM_CONV (2 in the paper) counts the convolutions
    # before the first stage; CONV_DIM is their width and that of the semantic branch and the first
    # stage; NORM applies to all 3 x 3 convolutions.
    _C.MASK_HEAD.REFINE_MASK = CN()
    # Feature map of the semantic branch, a list of one name; empty: the finest of
    # MODEL.ROI_HEADS.IN_FEATURES.
    _C.MASK_HEAD.REFINE_MASK.IN_FEATURES = []
    # Old name of MASK_HEAD.REFINE_MASK.IN_FEATURES, the name as text.
    _C.MASK_HEAD.REFINE_MASK.SEMANTIC_FEATURE = ""
    # 3 x 3 convolutions of the semantic branch over the whole map.
    _C.MASK_HEAD.REFINE_MASK.SEMANTIC_NUM_CONV = 4
    # One loss factor per mask. The first mask has the side MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION, each
    # further one twice the side of the one before.
    _C.MASK_HEAD.REFINE_MASK.STAGE_WEIGHTS = [0.5, 0.75, 0.75, 1.0]

    # ---------------------------------------------------------------------------------------------
    # Keypoint heads of this package: MODEL.ROI_KEYPOINT_HEAD.NAME "MrcnnExt…KeypointHead". Its other
    # keys keep their meaning; CONV_DIMS are the widths of the trunk. See docs/pose/heads.md.
    # ---------------------------------------------------------------------------------------------
    _C.KEYPOINT_HEAD = CN()
    # Name of a registered codec (KEYPOINT_CODEC_REGISTRY), your own included. For heatmaps: "one_hot":
    # one correct cell (as in Detectron2). "gaussian": a Gaussian around the point, decoded between
    # cells. "udp": the same with the box measured from the centre of the first cell to that of the
    # last. "integral": the mean of the cells. The SimCC and regression heads use "simcc" and
    # "residual_likelihood" instead of a codec for heatmaps.
    _C.KEYPOINT_HEAD.CODEC = "one_hot"
    # Standard deviation of the Gaussian of "gaussian", "udp" and "integral", in cells of the heatmap.
    _C.KEYPOINT_HEAD.SIGMA = 2.0
    # Score of a keypoint, the third number of pred_keypoints. "": the codec's own, which is "max" (the
    # height of the peak; Detectron2's for "one_hot") for heatmaps and SimCC, and "sigma" (1 minus the
    # predicted deviation) for regression. "oks": the OKS expected from the spread of the prediction,
    # the box's area and TEST.KEYPOINT_OKS_SIGMAS (.05 for each keypoint if that is empty).
    _C.KEYPOINT_HEAD.SCORE = ""
    # Multiply "scores" by the mean score of an instance's keypoints. This ranks boxes and masks, too.
    _C.KEYPOINT_HEAD.FOLD_SCORE = False
    # Normalisation after each convolution of the trunk, for example "GN"; "": none, as in Detectron2.
    _C.KEYPOINT_HEAD.NORM = ""
    # Depthwise-separable convolutions in the trunk: about a ninth of its multiplications.
    _C.KEYPOINT_HEAD.LIGHT = False
    # Feed the instance mask to the head (ground truth in training, predicted at inference). Needs
    # MODEL.MASK_ON.
    _C.KEYPOINT_HEAD.MASK_GUIDED = False
    _C.KEYPOINT_HEAD.INTEGRAL = CN()
    # CODEC "integral": factor of the cross entropy that keeps heatmaps Gaussian. 0: train only the
    # distance of the mean, and decode the mean of the whole map instead of the peak's.
    _C.KEYPOINT_HEAD.INTEGRAL.REGULARIZATION = 1.0
    _C.KEYPOINT_HEAD.SIMCC = CN()
    # MrcnnExtSimCCKeypointHead: bins per axis.
    _C.KEYPOINT_HEAD.SIMCC.BINS = 224
    # Standard deviation of the targets, in bins.
    _C.KEYPOINT_HEAD.SIMCC.SIGMA = 6.0
    _C.KEYPOINT_HEAD.RLE = CN()
    # MrcnnExtRegressionKeypointHead: cells per side of the box. The mean features of each cell go into
    # a fully connected layer. 1 is the paper's.
    _C.KEYPOINT_HEAD.RLE.GRID = 7
    # Width of that layer; 0: none.
    _C.KEYPOINT_HEAD.RLE.FC_DIM = 1024
    # Learn the shape of errors with a normalising flow (in training only). False: Laplace's.
    _C.KEYPOINT_HEAD.RLE.FLOW = True
    # Keypoints outside the box train the head, too, up to this many sides of the box from its centre
    # (.5 is the box).
    _C.KEYPOINT_HEAD.RLE.LIMIT = 1.0

    # ---------------------------------------------------------------------------------------------
    # Keypoints of several classes: docs/pose/skeletons.md
    # ---------------------------------------------------------------------------------------------
    _C.POSE = CN()
    # Skeletons of the model's classes: a json written by SkeletonSet.save, or a COCO json. "": from the
    # metadata of the first data set of DATASETS.TRAIN (or else of DATASETS.TEST). With a file, the
    # model works without its data set.
    _C.POSE.SKELETONS = ""
    # As DATA.DATASETS, for jsons whose categories have keypoints; read whether they are used or not.
    # Scripts and LazyConfigs call mrcnn_ext.data.register_coco_pose instead.
    _C.POSE.DATASETS = []

    # ---------------------------------------------------------------------------------------------
    # Checks and results of MODEL.META_ARCHITECTURE "MrcnnExtRCNN"
    # ---------------------------------------------------------------------------------------------
    # Check boxes and classes of every training image before they reach the device. A NaN box or a
    # class out of range is then reported with its file and image id, not as a NaN loss or a CUDA
    # assertion, and so are objects without the masks or keypoints that a head needs. Costs
    # microseconds per image, on the CPU.
    _C.CHECK_INPUTS = True
    # Paste predicted masks only when pred_masks is read; the result is Detectron2's. Evaluation and
    # json need no dense masks at all (see docs/mask_postprocessing.md). False pastes them at once, as
    # Detectron2 does.
    _C.DEFER_MASKS = True

    # ---------------------------------------------------------------------------------------------
    # How training computes (MODEL.META_ARCHITECTURE "MrcnnExtRCNN"): docs/deployment.md#faster-training
    # LazyConfigs pass channels_last, autocast and checkpoint_backbone to the model instead.
    # ---------------------------------------------------------------------------------------------
    _C.COMPUTE = CN()
    # Store weights and feature maps as (N, H, W, C): the same numbers up to rounding, faster on CPUs
    # and on GPUs with half precision. Checkpoints stay as they are.
    _C.COMPUTE.CHANNELS_LAST = False
    # "bfloat16": layers compute in it, losses and boxes in float32. Processors and GPUs without it in
    # hardware are an error. "": float32. For float16 on a GPU there is SOLVER.AMP.ENABLED.
    _C.COMPUTE.AUTOCAST = ""
    # Keep the inputs of the backbone's blocks only and compute their activations again in the backward
    # pass: less memory, more time, the same losses. Detectron2's ResNet and RegNet, and timm.
    _C.COMPUTE.CHECKPOINT_BACKBONE = False

    # ---------------------------------------------------------------------------------------------
    # Evaluation with an unmodified train_net.py (MODEL.META_ARCHITECTURE "MrcnnExtRCNN")
    # What it gives: docs/evaluation.md. LazyConfig takes mrcnn_ext.evaluation.MrcnnExtCOCOEvaluator.
    # ---------------------------------------------------------------------------------------------
    _C.EVALUATION = CN()
    # Evaluate COCO-like and LVIS-like data sets with MrcnnExtCOCOEvaluator: the running script's
    # trainer class gets a build_evaluator and a build_hooks that add it and the hooks below. Detectron2
    # itself is not changed. If False, the other keys here have no effect, with one exception:
    # keypoints that Detectron2's COCOEvaluator cannot evaluate are always MrcnnExtCOCOEvaluator's:
    # several skeletons, others than COCO's 17, TEST.KEYPOINT_OKS_SIGMAS that the script keeps from it.
    _C.EVALUATION.ENABLED = False
    # Any of "bbox", "segm", "boundary", "false_positives", "mask_quality", "keypoints",
    # "operating_point", "pck" and of the tasks you registered. Empty: every task whose fields the
    # predictions contain, but for "operating_point".
    _C.EVALUATION.TASKS = []
    # Maximum number of detections per image. 0: 100, or TEST.DETECTIONS_PER_IMAGE if that is more
    # (LVIS: 300), so that every reported detection counts.
    _C.EVALUATION.MAX_DETECTIONS = 0
    # Width of the boundary in Boundary AP, as a fraction of the image's diagonal.
    _C.EVALUATION.BOUNDARY_DILATION = 0.02
    # LVIS's rules: unchecked categories are ignored, 300 detections per image, AP by frequency. Data
    # sets whose evaluator_type is "lvis" always use them.
    _C.EVALUATION.LVIS_STYLE = False
    # LVIS's style only: AP fixed, with this many detections per class in the whole data set instead of
    # a limit per image; 10000 in the paper. 0 keeps the limit per image.
    _C.EVALUATION.LVIS_MAX_PER_CLASS = 0
    # Two keypoints whose distance is the unit of PCK, for example ["neck", "waist"]; empty: the square
    # root of the box's area.
    _C.EVALUATION.PCK_REFERENCE = []
    # Least scores, from 0 to 1, at which the task "false_positives" counts wrong detections. The model
    # itself gives none below MODEL.ROI_HEADS.SCORE_THRESH_TEST.
    _C.EVALUATION.SCORE_THRESHOLDS = [0.3, 0.5, 0.7]
    # "faster_coco_eval", "pycocotools", or "auto": the former if it is installed. The numbers are the
    # same.
    _C.EVALUATION.BACKEND = "auto"
    # Every TEST.EVAL_PERIOD iterations, also compute the model's losses on DATASETS.TEST; they are
    # written as "validation/loss_mask" ... beside the training losses. Sets without annotations are
    # left out with a warning.
    _C.EVALUATION.VALIDATION_LOSS = False
    # Keep the weights of the best evaluation so far as model_best.pth. This metric decides, for example
    # "segm/AP" or "boundary/AP" (with several data sets: "NAME/segm/AP"). "": keep none. One that does
    # not exist is an error at the first evaluation.
    _C.EVALUATION.BEST_METRIC = ""
    # "max", or "min" for a BEST_METRIC that is a loss.
    _C.EVALUATION.BEST_MODE = "max"
    add_data_config(_C, CN)
    add_training_defaults(_C, CN)
    return _C
