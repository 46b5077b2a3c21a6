# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The keys of training. ``docs/config.md`` is made from this file, too; see ``defaults.py``."""

from __future__ import annotations

from fvcore.common.config import CfgNode as FvcoreCfgNode

__all__ = ["add_training_defaults"]


def add_training_defaults(_C: FvcoreCfgNode, CN: type) -> None:
    """Add the nodes of training to ``_C``, which is the node ``MRCNN_EXT``."""
    # ---------------------------------------------------------------------------------------------
    # Optimisation (mrcnn_ext.train; any train_net.py with MODEL.META_ARCHITECTURE "MrcnnExtRCNN")
    # As long as these keys have their defaults, training is Detectron2's. See docs/training.md.
    # ---------------------------------------------------------------------------------------------
    _C.SOLVER = CN()
    # "": SGD, as Detectron2 builds it. "SGD": SGD with the keys below. "AdamW": AdamW, with
    # SOLVER.BASE_LR (often 1e-4) and SOLVER.WEIGHT_DECAY (often .05). Others of SOLVER's keys hold for
    # all, clipping included.
    _C.SOLVER.OPTIMIZER = ""
    # AdamW: decay of the means of the gradient and of its square.
    _C.SOLVER.BETAS = [0.9, 0.999]
    # AdamW: added to the root of the mean square.
    _C.SOLVER.EPS = 1e-8
    # Learning rates of the backbone fall by this factor from layer to layer towards the image; all
    # else has the whole rate. Layers are timm's, the stages of Detectron2's ResNets and the blocks of
    # its transformers, which often take .7 to .9. 1: all the same.
    _C.SOLVER.LAYER_DECAY = 1.0
    # Factor of the backbone's learning rates. (The neck is no part of it.)
    _C.SOLVER.BACKBONE_LR_FACTOR = 1.0
    # No weight decay on norms, biases, other parameters of one dimension and tables of positions,
    # whatever SOLVER.WEIGHT_DECAY_NORM and SOLVER.WEIGHT_DECAY_BIAS say.
    _C.SOLVER.NO_DECAY_NORM_AND_BIAS = False
    # Before each step scale all gradients together so that their norm is at most this (transformers
    # often take 1). SOLVER.CLIP_GRADIENTS clips each parameter's by itself. 0: do not.
    _C.SOLVER.CLIP_NORM = 0.0
    # "": as SOLVER.LR_SCHEDULER_NAME says. "step": SOLVER.STEPS and SOLVER.GAMMA. "cosine": falls
    # from the start of training to its end. "flat_cosine": stays for FLAT_FRACTION of training, then
    # falls as a cosine. SOLVER's warm-up replaces the first SOLVER.WARMUP_ITERS of each.
    _C.SOLVER.SCHEDULE = ""
    # "flat_cosine": fraction of training during which the learning rate stays.
    _C.SOLVER.FLAT_FRACTION = 0.5
    # "cosine" and "flat_cosine": the last learning rate as a fraction of the first.
    _C.SOLVER.END_LR_FACTOR = 0.0
    # Split every batch into this many micro-batches, one after the other, and step once with the mean
    # of their gradients: memory of IMS_PER_BATCH / ACCUMULATE images, learning rate and schedule of
    # IMS_PER_BATCH. An iteration is one step. Must divide the number of images of each process. 1: off.
    _C.SOLVER.ACCUMULATE = 1
    # Losses that are means over RoIs are means of their micro-batch ("micro_batch"), or of the whole
    # batch ("whole_batch"), as without accumulation: this costs one more pass without gradients through
    # backbone and proposals.
    _C.SOLVER.ACCUMULATE_NORMALIZER = "micro_batch"

    # ---------------------------------------------------------------------------------------------
    # Exponential moving average of the weights
    # ---------------------------------------------------------------------------------------------
    _C.EMA = CN()
    # Keep one, in the checkpoints too. At the end it is in model_ema_final.pth, for MODEL.WEIGHTS.
    _C.EMA.ENABLED = False
    # Decay per step, after warm-up: about the last 1 / (1 - DECAY) steps count.
    _C.EMA.DECAY = 0.999
    # The decay of step t is min(DECAY, (1 + t) / (WARMUP + t)). 0: no warm-up.
    _C.EMA.WARMUP = 10
    # Evaluate it beside the raw weights; its results are "ema/segm/AP" and so on.
    _C.EMA.EVALUATE = True

    # ---------------------------------------------------------------------------------------------
    # Early stopping
    # ---------------------------------------------------------------------------------------------
    _C.EARLY_STOPPING = CN()
    # End training when this metric of the evaluation, for example "segm/AP", no longer gets better;
    # "ema/segm/AP" is that of the moving average. A resumed training does not go on then, unless
    # PATIENCE is larger. "": never.
    _C.EARLY_STOPPING.METRIC = ""
    # "max", or "min" for a loss.
    _C.EARLY_STOPPING.MODE = "max"
    # End after this many evaluations (one each TEST.EVAL_PERIOD iterations) in a row that are not
    # better than the best.
    _C.EARLY_STOPPING.PATIENCE = 5
    # By how much a value must be better than the best to count, in the metric's unit; AP is in percent.
    _C.EARLY_STOPPING.MIN_DELTA = 0.0

    # ---------------------------------------------------------------------------------------------
    # Interruptions
    # ---------------------------------------------------------------------------------------------
    _C.RESUME = CN()
    # After any interruption, --resume goes on as if there had been none: the same images in the same
    # order with the same augmentation, the same random numbers in every step. Checkpoints are written
    # whole or not at all, a damaged one is passed over, SIGTERM writes one. The order of the images
    # is another than Detectron2's.
    _C.RESUME.EXACT = False
    # Number of the newest numbered checkpoints (model_0000499.pth) that are kept. model_final.pth and
    # model_best.pth always are. 0: keep all.
    _C.RESUME.KEEP = 0

    # ---------------------------------------------------------------------------------------------
    # Logs
    # ---------------------------------------------------------------------------------------------
    _C.LOG = CN()
    # Any of "tensorboard", "wandb" and "mlflow"; console and metrics.json are always written. Empty: as
    # the script has it. Detectron2's writes tensorboard's scalars.
    _C.LOG.WRITERS = []
    # Project ("wandb") or experiment ("mlflow").
    _C.LOG.PROJECT = "mrcnn_ext"
    # Name of the run. "": the name of OUTPUT_DIR.
    _C.LOG.NAME = ""
    # How many images of the first set of DATASETS.TEST are drawn with their predictions, after each
    # evaluation. 0: none.
    _C.LOG.IMAGES = 0
    # Iterations between two entries of all writers, console and metrics.json included.
    _C.LOG.PERIOD = 20

    # ---------------------------------------------------------------------------------------------
    # Classification loss of this package's RoI heads: MODEL.ROI_HEADS.NAME "MrcnnExt…"
    # ---------------------------------------------------------------------------------------------
    _C.BOX_HEAD = CN()
    # "": Detectron2's cross entropy. "focal": easy examples count less. "class_balanced": rare classes
    # count more, by the effective number of their instances in DATASETS.TRAIN.
    _C.BOX_HEAD.CLS_LOSS = ""
    # "focal": exponent of (1 - p).
    _C.BOX_HEAD.FOCAL_GAMMA = 2.0
    # "class_balanced": beta of (1 - beta) / (1 - beta^n), of CLS_LOSS and of every CLASS_WEIGHTS.
    _C.BOX_HEAD.CLASS_BALANCED_BETA = 0.999
    # Factors of the classification loss by class: [name, factor] for each class that has one. Before
    # them may come a rule for all others, by their objects in DATASETS.TRAIN: "inverse_sqrt", or
    # "class_balanced" as of CLS_LOSS. Background has 1. Empty: all have 1.
    _C.BOX_HEAD.CLASS_WEIGHTS = []
