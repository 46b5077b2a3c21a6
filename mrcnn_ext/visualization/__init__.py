# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Pictures: uint8 (H, W, 3) RGB arrays; ``cv2.imwrite(file, picture[:, :, ::-1])`` saves one."""

from .instances import (
    contact_sheet,
    draw_comparison,
    draw_ground_truth,
    draw_instances,
    plot_training_curves,
)

__all__ = [
    "contact_sheet",
    "draw_comparison",
    "draw_ground_truth",
    "draw_instances",
    "plot_training_curves",
]
