# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Pictures: uint8 (H, W, 3) RGB arrays; ``cv2.imwrite(file, picture[:, :, ::-1])`` saves one."""

from .compared import compared_keypoints, compared_masks
from .curves import plot_training_curves
from .instances import draw_comparison, draw_ground_truth, draw_instances
from .judged import Item, draw_items
from .pose import draw_poses
from .sheets import captioned, contact_sheet, legend_strip, sheet

__all__ = [
    "Item",
    "captioned",
    "compared_keypoints",
    "compared_masks",
    "contact_sheet",
    "draw_comparison",
    "draw_ground_truth",
    "draw_instances",
    "draw_items",
    "draw_poses",
    "legend_strip",
    "plot_training_curves",
    "sheet",
]
