# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""What RoIAlign is for: where the three poolers look, and what that costs."""

# Values of Detectron2's MODEL.ROI_BOX_HEAD.POOLER_TYPE; the last is what others are compared with.
POOLER_TYPES = ("ROIPool", "ROIAlign", "ROIAlignV2")
BASELINE = POOLER_TYPES[-1]
