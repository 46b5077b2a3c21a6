# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""What can be chosen about forms."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..errors import ConfigError

__all__ = ["FormOptions"]


@dataclass(frozen=True)
class FormOptions:
    """
    Args:
        polygon_error: how far the line of a polygon may be from the mask's edge, in pixels; 0 keeps
            every corner.
        image_url: what stands before an image's name in Label Studio's tasks; the default is its
            address of local files.

    Raises:
        ConfigError: the error is negative, or no number.
    """

    polygon_error: float = 1.0
    image_url: str = "/data/local-files/?d="

    def __post_init__(self) -> None:
        if not (math.isfinite(self.polygon_error) and self.polygon_error >= 0):
            raise ConfigError(
                f"--polygon-error is {self.polygon_error}; expected pixels, 0 or more."
            )
