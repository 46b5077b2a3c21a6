# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Where each pooler looks, against where it should: boxes shifted over maps that are known.

The maps are ramps: each pixel holds its own centre's position in the image. A pooled cell then
holds the position that it was taken from. RoIPool's maximum of a ramp is the far edge of the cell's
pixels; with a falling ramp besides it is the near edge, and their middle is where the cell looks.
RoIAlign averages, for which the middle of the two changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from mrcnn_ext.modeling.poolers import fuse_pooler

from . import POOLER_TYPES

__all__ = ["ShiftErrors", "cell_errors", "plot_shift", "ramps", "shift_table", "study_shift"]

STRIDES = (4, 8, 16)
CELLS = 14  # along each side: the mask head's
STEPS_PER_STRIDE = 32
# Sides of the boxes in pixels. COCO's names; fractions, so that boxes start and end anywhere.
SIZES: dict[str, tuple[float, ...]] = {
    "small, 12 to 32": tuple(12 + 20 * k / 16 for k in range(17)),
    "medium, 32 to 96": tuple(32 + 64 * k / 16 for k in range(17)),
    "large, 96 to 256": tuple(96 + 160 * k / 16 for k in range(17)),
}
PLOTTED = (16.0, 64.0, 160.0)
COLORS = dict(zip(POOLER_TYPES, ("#d95f02", "#7570b3", "#1b9e77")))
_ORIGIN = 64.0  # far enough from the border that no sample is clamped


@dataclass(frozen=True)
class ShiftErrors:
    """One row of the table; errors in pixels of the image, over all boxes, shifts, cells and axes.

    Attributes:
        bias: mean error. A network can learn to undo one that is the same for all boxes.
        wobble: standard deviation around the bias, which it cannot.
        mean, worst: of the absolute error.
        mean_of_box: mean absolute error as a fraction of the box's side.
    """

    stride: int
    boxes: str
    pooler_type: str
    bias: float
    wobble: float
    mean: float
    worst: float
    mean_of_box: float


def ramps(stride: int, side: int) -> Tensor:
    """(1, 4, side, side) float32: x, -x, y and -y of each pixel's centre, in the image's pixels."""
    centers = (torch.arange(side, dtype=torch.float32) + 0.5) * stride
    y, x = torch.meshgrid(centers, centers, indexing="ij")
    return torch.stack([x, -x, y, -y])[None]


def cell_errors(
    pooler_type: str, stride: int, size: float, shifts: Sequence[float], cells: int = CELLS
) -> np.ndarray:
    """Where cells look minus where they should, for a square box that moves along the diagonal.

    Args:
        pooler_type: as in the config, run by the same modules as in the model.
        stride: of the feature map.
        size: side of the box in pixels of the image.
        shifts: in pixels of the image.

    Returns:
        (len(shifts), 2, cells): errors in x by column and in y by row, in pixels of the image.
    """
    shift = torch.tensor(shifts, dtype=torch.float64)
    starts = _ORIGIN + shift
    side = int((_ORIGIN * 2 + size + float(shift.max())) / stride) + 2
    pooler = fuse_pooler(ROIPooler(cells, (1 / stride,), 0, pooler_type))
    boxes = Boxes(torch.stack([starts, starts, starts + size, starts + size], dim=1))
    pooled = pooler([ramps(stride, side)], [boxes]).double()
    looks_x = (pooled[:, 0] - pooled[:, 1])[:, 0, :] / 2
    looks_y = (pooled[:, 2] - pooled[:, 3])[:, :, 0] / 2
    should = starts[:, None] + (torch.arange(cells, dtype=torch.float64) + 0.5) * size / cells
    return torch.stack([looks_x - should, looks_y - should], dim=1).numpy()


def _shifts(stride: int) -> list[float]:
    """Over two strides. None puts the edge of a box where RoIPool's rounding turns, a tie."""
    return [stride * (k + 0.31) / STEPS_PER_STRIDE for k in range(2 * STEPS_PER_STRIDE)]


def measure(stride: int, boxes: str, pooler_type: str) -> ShiftErrors:
    """All boxes of a size class at all shifts; each box counts the same."""
    shifts = _shifts(stride)
    errors = np.stack([cell_errors(pooler_type, stride, size, shifts) for size in SIZES[boxes]])
    relative = np.abs(errors) / np.array(SIZES[boxes]).reshape(-1, 1, 1, 1)
    return ShiftErrors(
        stride=stride,
        boxes=boxes,
        pooler_type=pooler_type,
        bias=float(errors.mean()),
        wobble=float(errors.std()),
        mean=float(np.abs(errors).mean()),
        worst=float(np.abs(errors).max()),
        mean_of_box=float(relative.mean()),
    )


def shift_table(rows: Sequence[ShiftErrors]) -> str:
    """Markdown."""
    lines = [
        "| stride | boxes | pooler | mean error | of the box | largest | bias | wobble |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        numbers = (row.mean, row.worst, row.bias, row.wobble)
        values = [f"{round(number, 2) + 0.0:.2f}" for number in numbers]  # 0.00 and not -0.00
        values.insert(1, f"{row.mean_of_box:.1%}")
        lines.append(f"| {row.stride} | {row.boxes} | {row.pooler_type} | {' | '.join(values)} |")
    return "\n".join(lines) + "\n"


def plot_shift(file: Path) -> None:
    """The error over the shift, for each stride and some boxes."""
    figure = Figure(figsize=(11, 8.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(STRIDES), len(PLOTTED), sharex="row", sharey="row")
    for row, stride in zip(axes, STRIDES):
        for axis, size in zip(row, PLOTTED):
            _plot_one(axis, stride, size)
        row[0].set_ylabel("error (px)")
    figure.suptitle(
        f"Where the {CELLS} cells of a box look, against where they should, while the box moves\n"
        "line: mean of the cells; band: from the least to the greatest",
        fontsize=12,
    )
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=11)
    figure.savefig(str(file), dpi=100)


def _plot_one(axis, stride: int, size: float) -> None:
    shifts = _shifts(stride)
    for pooler_type in POOLER_TYPES:
        errors = cell_errors(pooler_type, stride, size, shifts)[:, 0]
        color = COLORS[pooler_type]
        axis.fill_between(shifts, errors.min(1), errors.max(1), color=color, alpha=0.2, lw=0)
        axis.plot(shifts, errors.mean(1), color=color, lw=2, label=pooler_type)
    axis.set_title(f"stride {stride}, box of {size:g} px", fontsize=11)
    axis.set_xlabel("shift of the box (px)")
    axis.set_xlim(0, 2 * stride)
    axis.set_xticks([stride * k / 2 for k in range(5)])
    axis.grid(alpha=0.3)


def study_shift(output: Path) -> list[ShiftErrors]:
    """Measure all; write shift.json and shift_response.png."""
    rows = [
        measure(stride, boxes, pooler_type)
        for stride in STRIDES
        for boxes in SIZES
        for pooler_type in POOLER_TYPES
    ]
    (output / "shift.json").write_text(json.dumps([asdict(row) for row in rows], indent=1))
    plot_shift(output / "shift_response.png")
    print(shift_table(rows))
    return rows
