# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""What a check finds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["Finding", "Problem", "Progress"]

Finding = tuple[str, str, str]  # severity, kind, message: a problem without ids
Progress = Callable[[str, int, int], None]  # stage, done, total


@dataclass(frozen=True)
class Problem:
    """One finding.

    Attributes:
        severity: "error" (a run stops, or uses wrong data) or "warning" (probably not meant).
        kind: short name of what is wrong, for example "box-empty".
        image_id: id of the image as the json has it; None where no single image is concerned.
        annotation_id: id of the annotation, or None.
        message: a sentence with the values found.
    """

    severity: str
    kind: str
    image_id: Any
    annotation_id: Any
    message: str
