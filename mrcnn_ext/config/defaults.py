# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Every config key of mrcnn_ext, in one place (yaml side; LazyConfig passes arguments instead).

``docs/config.md`` is generated from this file by ``python -m mrcnn_ext.config.reference``: the
comment above a key is its documentation.
"""

from __future__ import annotations

from fvcore.common.config import CfgNode as FvcoreCfgNode

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
    # "convnext_tiny" or "swin_tiny_patch4_window7_224". Its ImageNet weights are a matter of
    # MODEL.WEIGHTS: "timm://tf_efficientnet_lite0" (see docs/backbones.md).
    _C.TIMM.NAME = "resnet50"
    # Feature maps to return: "res2" ... "res5" have stride 4 ... 32 ("res1", stride 2, exists for
    # some models). FPN takes those that MODEL.FPN.IN_FEATURES names; C4 heads want ["res4"].
    _C.TIMM.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    # What becomes of the model's BatchNorm layers: "FrozenBN" fixes statistics and affine parameters
    # (right for small batches), "BN" trains them, "SyncBN" shares their statistics over GPUs, "GN"
    # puts GroupNorm in their place. A model without BatchNorm (ConvNeXt, Swin) keeps its own norm;
    # "SyncBN" and "GN" are an error there. MODEL.BACKBONE.FREEZE_AT freezes layers besides this.
    _C.TIMM.NORM = "FrozenBN"
    # Stochastic depth, 0 to 1, for models that support it (ConvNeXt, Swin, EfficientNet ...).
    _C.TIMM.DROP_PATH_RATE = 0.0
    # Recompute activations in the backward pass: less memory, more time. Models that support it.
    _C.TIMM.GRAD_CHECKPOINTING = False

    # ---------------------------------------------------------------------------------------------
    # The built-in synthetic data sets mrcnn_ext_shapes_train and mrcnn_ext_shapes_val.
    # Read by MODEL.META_ARCHITECTURE "MrcnnExtRCNN"; scripts call mrcnn_ext.data.shapes instead.
    # ---------------------------------------------------------------------------------------------
    _C.SHAPES = CN()
    # Number of training images. The first N images are the same whatever the number is.
    _C.SHAPES.NUM_TRAIN = 400
    # Number of validation images, none of which is a training image.
    _C.SHAPES.NUM_VAL = 100
    # Long side of the images in pixels, 64 to 4096.
    _C.SHAPES.IMAGE_SIZE = 320
    # Another seed makes another, equally distributed, pair of sets.
    _C.SHAPES.SEED = 0

    # ---------------------------------------------------------------------------------------------
    # Mask heads of this package: MODEL.ROI_MASK_HEAD.NAME "MrcnnExt…MaskHead". Its other keys
    # (NUM_CONV, CONV_DIM, NORM, CLS_AGNOSTIC_MASK, POOLER_RESOLUTION) keep their meaning.
    # ---------------------------------------------------------------------------------------------
    _C.MASK_HEAD = CN()
    # Losses of the mask: "bce" (Mask R-CNN's), "dice", "lovasz", "boundary_bce"
    # (pixels at the boundary count five times) and "edge_dice" (edges of prediction and truth).
    _C.MASK_HEAD.LOSSES = ["bce"]
    # One factor for each of them.
    _C.MASK_HEAD.LOSS_WEIGHTS = [1.0]
    # What the quality of a mask is taken from, which times the class score becomes "mask_scores":
    # "" (no such scores), "mask_iou" (learned: Mask Scoring R-CNN), or, free of cost,
    # "mean_foreground" or "certainty" (from the mask's own probabilities).
    _C.MASK_HEAD.SCORE = ""
    # Factor of the loss of "mask_iou".
    _C.MASK_HEAD.SCORE_LOSS_WEIGHT = 1.0
    # Width of its convolutions.
    _C.MASK_HEAD.SCORE_CONV_DIM = 256
    # Width of its fully connected layers.
    _C.MASK_HEAD.SCORE_FC_DIM = 1024
    # Put mask scores into "scores", so that every evaluator ranks by them, for boxes too.
    _C.MASK_HEAD.FOLD_SCORE = False
    # Feature maps that the head pools from, for example ["p2"]; empty: all of
    # MODEL.ROI_HEADS.IN_FEATURES. Needs MODEL.ROI_MASK_HEAD.POOLER_TYPE "", as CONTEXT does.
    _C.MASK_HEAD.POOLER_LEVELS = []
    # Predict in boxes enlarged by this factor and cut the masks back to the box.
    _C.MASK_HEAD.CONTEXT = 1.0
    # Classes whose masks train the head (contiguous ids); empty: all. For studies of classes that
    # have boxes only; meant for class-agnostic heads.
    _C.MASK_HEAD.TRAIN_CLASSES = []
    # MrcnnExtFCNMaskHead: "sigmoid" (classes are independent) or "softmax" (they compete).
    _C.MASK_HEAD.COUPLING = "sigmoid"
    # MrcnnExtWrappedMaskHead: name of the mask head that it puts these switches around.
    _C.MASK_HEAD.WRAPPED = "MaskRCNNConvUpsampleHead"
    _C.MASK_HEAD.BOUNDARY = CN()
    # MrcnnExtBoundaryMaskHead: feature maps that the boundary branch pools from, for example ["p2"], at
    # twice POOLER_RESOLUTION; empty: the finest of those that the head pools from.
    _C.MASK_HEAD.BOUNDARY.POOLER_LEVELS = []
    # 3 x 3 convolutions of the boundary branch; NUM_CONV are those of the mask branch.
    _C.MASK_HEAD.BOUNDARY.NUM_CONV = 2
    # Factor of the boundary's binary cross entropy.
    _C.MASK_HEAD.BOUNDARY.BCE_WEIGHT = 1.0
    # Factor of the boundary's dice loss.
    _C.MASK_HEAD.BOUNDARY.DICE_WEIGHT = 1.0
    _C.MASK_HEAD.DYNAMIC = CN()
    # MrcnnExtDynamicMaskHead: feature maps that the shared features are made from, at the stride of the
    # finest of them; empty: those that the head pools from. CondInst takes ["p3", "p4", "p5"].
    # (MODEL.ROI_MASK_HEAD.NUM_CONV and CONV_DIM are those of its controller.)
    _C.MASK_HEAD.DYNAMIC.MAP_LEVELS = []
    # Width of the branch that makes them.
    _C.MASK_HEAD.DYNAMIC.MAP_CONV_DIM = 128
    # 3 x 3 convolutions of that branch.
    _C.MASK_HEAD.DYNAMIC.MAP_NUM_CONV = 4
    # Shared features, which each object's network gets together with the position in its box.
    _C.MASK_HEAD.DYNAMIC.MAP_CHANNELS = 8
    # Width of each object's network.
    _C.MASK_HEAD.DYNAMIC.HIDDEN_CHANNELS = 8
    # Side of the masks.
    _C.MASK_HEAD.DYNAMIC.MASK_RESOLUTION = 56
    _C.MASK_HEAD.DEEP = CN()
    # MrcnnExtDeepMaskHead: layers of its hourglass network, 10, 20 or 52. The paper has
    # MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION 32. CONV_DIM, NUM_CONV and CLS_AGNOSTIC_MASK there are not
    # used: masks never depend on the class.
    _C.MASK_HEAD.DEEP.DEPTH = 20
    # Width of its first and last convolution; the hourglass is 2 to 4 times as wide.
    _C.MASK_HEAD.DEEP.CONV_DIM = 64
    # Train on the ground-truth boxes that proposals were matched to, instead of the proposals.
    _C.MASK_HEAD.DEEP.TRAIN_ON_GT_BOXES = True
    # How many of them at most in each image, different ones first; 0: one for each proposal.
    _C.MASK_HEAD.DEEP.MAX_BOXES_PER_IMAGE = 16

    # MrcnnExtPointRendMaskHead. MODEL.ROI_MASK_HEAD.POOLER_TYPE must be ""; CONV_DIM and NORM are of
    # the one convolution of its coarse mask, NUM_CONV has no meaning. With POOLER_LEVELS ["p2"] and
    # MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO 1 the coarse mask is the paper's.
    _C.MASK_HEAD.POINT_REND = CN()
    # Side of the coarse mask.
    _C.MASK_HEAD.POINT_REND.COARSE_RESOLUTION = 7
    # Number of its fully connected layers, before the last.
    _C.MASK_HEAD.POINT_REND.COARSE_NUM_FC = 2
    # Their width.
    _C.MASK_HEAD.POINT_REND.COARSE_FC_DIM = 1024
    # Maps that a point's features are from, for example ["p2", "p3"]; empty: the finest of
    # MODEL.ROI_HEADS.IN_FEATURES.
    _C.MASK_HEAD.POINT_REND.IN_FEATURES = []
    # Number of layers that answer for a point, before the last.
    _C.MASK_HEAD.POINT_REND.NUM_FC = 3
    # Their width.
    _C.MASK_HEAD.POINT_REND.FC_DIM = 256
    # Points of each RoI in training.
    _C.MASK_HEAD.POINT_REND.TRAIN_POINTS = 196
    # Times as many candidates are drawn; 1: no choice among them.
    _C.MASK_HEAD.POINT_REND.OVERSAMPLE_RATIO = 3.0
    # Share of the points that are the most uncertain candidates; the others are drawn uniformly.
    _C.MASK_HEAD.POINT_REND.IMPORTANCE_RATIO = 0.75
    # Side of the mask: COARSE_RESOLUTION times a power of 2. Detectron2's PointRend has 224.
    _C.MASK_HEAD.POINT_REND.OUTPUT_RESOLUTION = 112
    # Cells of the mask that are answered anew after each doubling of its side.
    _C.MASK_HEAD.POINT_REND.SUBDIVISION_POINTS = 784

    # MrcnnExtRefineMaskHead. MODEL.ROI_MASK_HEAD.POOLER_TYPE must be ""; NUM_CONV (the paper has 2)
    # and CONV_DIM are of the convolutions before the first stage, CONV_DIM also of the semantic branch
    # and the first stage, NORM of all 3 x 3 convolutions.
    _C.MASK_HEAD.REFINE_MASK = CN()
    # Map that the semantic branch works on; "": the finest of MODEL.ROI_HEADS.IN_FEATURES.
    _C.MASK_HEAD.REFINE_MASK.SEMANTIC_FEATURE = ""
    # Number of its 3 x 3 convolutions over the whole map.
    _C.MASK_HEAD.REFINE_MASK.SEMANTIC_NUM_CONV = 4
    # Factors of the losses of the masks. There are as many masks; the first has the side
    # MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION, each further one twice the side of the one before.
    _C.MASK_HEAD.REFINE_MASK.STAGE_WEIGHTS = [0.5, 0.75, 0.75, 1.0]

    # ---------------------------------------------------------------------------------------------
    # Keypoint heads of this package: MODEL.ROI_KEYPOINT_HEAD.NAME "MrcnnExt…KeypointHead". Its other
    # keys keep their meaning; CONV_DIMS are the widths of the trunk. See docs/pose/heads.md.
    # ---------------------------------------------------------------------------------------------
    _C.KEYPOINT_HEAD = CN()
    # MrcnnExtHeatmapKeypointHead: what a heatmap means. "one_hot" (Detectron2's: one cell is right),
    # "gaussian" (a Gaussian around the point, decoded between cells), "udp" (the same with the box
    # measured from the first cell's centre to the last one's), "integral" (the mean of the cells).
    _C.KEYPOINT_HEAD.CODEC = "one_hot"
    # Standard deviation of the Gaussian of "gaussian", "udp" and "integral", in cells of the heatmap.
    _C.KEYPOINT_HEAD.SIGMA = 2.0
    # Score of a keypoint, the third number of pred_keypoints. "": the codec's own, which is "max" (the
    # height of the peak; Detectron2's for "one_hot") for heatmaps and SimCC, and "sigma" (1 minus the
    # predicted deviation) for regression. "oks": the OKS that the spread of the prediction lets expect,
    # with TEST.KEYPOINT_OKS_SIGMAS or .05 for each keypoint, and the box's area.
    _C.KEYPOINT_HEAD.SCORE = ""
    # Multiply "scores" by the mean score of an instance's keypoints; that ranks boxes and masks, too.
    _C.KEYPOINT_HEAD.FOLD_SCORE = False
    # Normalisation after each convolution of the trunk, "GN" for example; "": none, as in Detectron2.
    _C.KEYPOINT_HEAD.NORM = ""
    # Depthwise-separable convolutions in the trunk: about a ninth of its multiplications.
    _C.KEYPOINT_HEAD.LIGHT = False
    # Show the head the object's mask: the true one in training, the predicted one at inference. Needs
    # MODEL.MASK_ON.
    _C.KEYPOINT_HEAD.MASK_GUIDED = False
    _C.KEYPOINT_HEAD.INTEGRAL = CN()
    # CODEC "integral": factor of the cross entropy that holds heatmaps to a Gaussian; 0: the mean's
    # distance alone is trained, and decoding takes the mean of the whole map, not of the peak.
    _C.KEYPOINT_HEAD.INTEGRAL.REGULARIZATION = 1.0
    _C.KEYPOINT_HEAD.SIMCC = CN()
    # MrcnnExtSimCCKeypointHead: bins of each axis.
    _C.KEYPOINT_HEAD.SIMCC.BINS = 224
    # Standard deviation of the targets, in bins.
    _C.KEYPOINT_HEAD.SIMCC.SIGMA = 6.0
    _C.KEYPOINT_HEAD.RLE = CN()
    # MrcnnExtRegressionKeypointHead: the box is divided into so many parts along each side, whose mean
    # features go into a fully connected layer. 1 is the paper's.
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
    # The skeletons of the model's classes: a json as SkeletonSet.save writes it, or a COCO json. "":
    # what the metadata of the first data set of DATASETS.TRAIN (or else DATASETS.TEST) say. A file
    # lets the model be used where its data set is not.
    _C.POSE.SKELETONS = ""
    # Data sets to register, each [name, COCO json, image folder]; their categories may have different
    # keypoints. Scripts and LazyConfigs call mrcnn_ext.data.pose_datasets.register_coco_pose instead.
    _C.POSE.DATASETS = []

    # ---------------------------------------------------------------------------------------------
    # Checks and results of MODEL.META_ARCHITECTURE "MrcnnExtRCNN"
    # ---------------------------------------------------------------------------------------------
    # Look at every training image's boxes and classes before they reach the device, so that a NaN
    # box or a class index out of range is reported with its file and image id, not as a NaN loss
    # or a CUDA assertion. Costs microseconds an image, on the CPU.
    _C.CHECK_INPUTS = True
    # Leave predicted masks as small as the mask head made them until somebody reads pred_masks; then
    # they are what Detectron2 gives. Evaluation and json need no dense masks at all (see
    # docs/mask_postprocessing.md). False pastes them at once, as Detectron2 does.
    _C.DEFER_MASKS = True

    # ---------------------------------------------------------------------------------------------
    # Evaluation with an unmodified train_net.py (MODEL.META_ARCHITECTURE "MrcnnExtRCNN")
    # What it gives: docs/evaluation.md. LazyConfig takes mrcnn_ext.evaluation.MrcnnExtCOCOEvaluator.
    # ---------------------------------------------------------------------------------------------
    _C.EVALUATION = CN()
    # Evaluate COCO-like and LVIS-like data sets with MrcnnExtCOCOEvaluator: the trainer class of the
    # script that runs gets a build_evaluator and a build_hooks that add it and the hooks below.
    # Detectron2 itself is left as it is. All keys here have no effect otherwise, but for keypoints that
    # its COCOEvaluator ends with an error for: several skeletons, or others than COCO's 17 without
    # TEST.KEYPOINT_OKS_SIGMAS. There MrcnnExtCOCOEvaluator takes its place in any case.
    _C.EVALUATION.ENABLED = False
    # Names of evaluation.tasks.TASKS: "bbox", "segm", "boundary", "mask_quality", "keypoints", "pck".
    # An empty list takes every task whose fields the predictions contain.
    _C.EVALUATION.TASKS = []
    # Detections that count in an image. 0 takes 100, or TEST.DETECTIONS_PER_IMAGE if that is more
    # (LVIS: 300), so that nothing that the model reports is cut off.
    _C.EVALUATION.MAX_DETECTIONS = 0
    # Width of the boundary in Boundary AP, as a fraction of the image's diagonal.
    _C.EVALUATION.BOUNDARY_DILATION = 0.02
    # LVIS's rules (categories that were not looked for, 300 detections an image, AP by frequency).
    # Data sets whose evaluator_type is "lvis" are evaluated so in any case.
    _C.EVALUATION.LVIS_STYLE = False
    # LVIS's style only: AP fixed, so many detections per class in the whole data set instead of a
    # limit per image; 10000 in the paper. 0 keeps the limit per image.
    _C.EVALUATION.LVIS_MAX_PER_CLASS = 0
    # Two keypoints whose distance is the unit of PCK, ["neck", "waist"] for example; empty: the square
    # root of the box's area.
    _C.EVALUATION.PCK_REFERENCE = []
    # "auto" takes faster-coco-eval where it is installed; "faster_coco_eval"; "pycocotools". The
    # numbers are the same.
    _C.EVALUATION.BACKEND = "auto"
    # Every TEST.EVAL_PERIOD iterations, also compute the model's losses on DATASETS.TEST; they are
    # written as "validation/loss_mask" ... beside the training losses.
    _C.EVALUATION.VALIDATION_LOSS = False
    # Keep the weights of the best evaluation so far as model_best.pth: the metric that decides, for
    # example "segm/AP" or "boundary/AP" (with several data sets: "NAME/segm/AP"). "" keeps none.
    _C.EVALUATION.BEST_METRIC = ""
    # "max", or "min" for a BEST_METRIC that is a loss.
    _C.EVALUATION.BEST_MODE = "max"
    return _C
