# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The keys of training data. ``docs/config.md`` is made from this file, too; see ``defaults.py``."""

from __future__ import annotations

from fvcore.common.config import CfgNode as FvcoreCfgNode

__all__ = ["add_data_config"]


def add_data_config(_C: FvcoreCfgNode, CN: type) -> None:
    """Add the keys of training data to ``_C``, which is the node ``MRCNN_EXT``."""
    # ---------------------------------------------------------------------------------------------
    # Training data (mrcnn_ext.train; any train_net.py with MODEL.META_ARCHITECTURE "MrcnnExtRCNN")
    # As long as these keys have their defaults, samples are Detectron2's. See docs/augmentation.md.
    # ---------------------------------------------------------------------------------------------
    if "DATA" not in _C:
        _C.DATA = CN()
    # Augmentations in the place of those that INPUT's keys describe (resizing, crop, flip), in their
    # order: each a name, or [name, {argument: value}]. "Default" stands for those of INPUT. Names and
    # arguments: docs/augmentation.md. Empty: those of INPUT.
    _C.DATA.AUGMENTATIONS = []
    # Drop objects of whose mask (or box, without a mask) fewer pixels than this are left in the
    # augmented picture. 0: only those of which nothing is left.
    _C.DATA.MIN_AREA_LEFT = 0.0
    # Take objects without a mask, too: boxes and classes learn from all objects, masks from those that
    # have one, and are evaluated on those. Needs a mask head of this package. False: such an object is
    # an error.
    _C.DATA.BOXES_ONLY = False
    # Train on images without objects, too, up to this share of all: 0.1 for every tenth image. They
    # teach a model where nothing is. 0: as DATALOADER.FILTER_EMPTY_ANNOTATIONS says, none or all.
    _C.DATA.NEGATIVES = 0.0
    # How often images are drawn. "": as DATALOADER.SAMPLER_TRAIN says. "repeat_factor": images with a
    # rare class more often. "class_balanced": every class equally often, then one of its images.
    # docs/data.md says when to use which.
    _C.DATA.SAMPLER = ""
    # "repeat_factor": images with a class of frequency f come max(1, sqrt(SAMPLER_THRESHOLD / f)) times
    # as often. More than 0, at most 1. LVIS has 0.001; classes rarer than that are repeated.
    _C.DATA.SAMPLER_THRESHOLD = 0.001
    # "repeat_factor": what f is. "images": the fraction of images that hold the class, as in LVIS and
    # Detectron2. "instances": the class's fraction of all objects. "both": the geometric mean of these.
    _C.DATA.SAMPLER_FREQUENCY = "both"
    # Which bands of the files become the model's channels, counted from 0, in this order: more than
    # three bands, 16 bits, floating point, grey. MODEL.PIXEL_MEAN and PIXEL_STD have a number for each.
    # INPUT.FORMAT then is only the order of the channels of pretrained weights. See docs/bands.md.
    # Empty: three bands of 8 bits, or grey, as INPUT.FORMAT says.
    _C.DATA.BANDS = []
    # What every file holds, with BANDS: "uint8", "uint16", "int16", "uint32", "int32", "float16",
    # "float32" or "float64". Another type in a file is an error; no value is scaled.
    _C.DATA.PIXEL_TYPE = "uint8"
    # Those of BANDS that are red, green and blue: for pictures to look at, and for FIRST_CONVOLUTION
    # "copy". Empty: the first three bands are shown.
    _C.DATA.RGB_BANDS = []
    # What the first convolution begins with if the weights are for three channels and the model has
    # another number. "mean": each channel has the mean of the three filters. "copy": red, green and
    # blue keep their filters, others have the mean. Both are scaled so that an image whose bands are
    # equal gives what a grey one gave. "random": as without weights.
    _C.DATA.FIRST_CONVOLUTION = "mean"
