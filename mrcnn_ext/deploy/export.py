# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Write a Detectron2 R-CNN as an ONNX file that describes itself."""

from __future__ import annotations

import copy
import io
import os
import warnings
from collections.abc import Callable
from typing import Any

import torch
from detectron2.export import TracingAdapter
from torch import Tensor, nn

from ..errors import ConfigError
from ..files import replaced_file
from .fold import fold_norms
from .graph import detect, resize_in_graph
from .metadata import ModelInput, metadata_of, set_metadata
from .supported import OPSETS, check_installed, check_model, check_opset
from .traceable import leaves_maps, symbolics, traceable

__all__ = ["export_onnx", "resizing_file"]

_TRACED = (96, 128)  # any size will do


def export_onnx(
    model: nn.Module,
    output: str | os.PathLike,
    source: ModelInput,
    *,
    opset: int = OPSETS[0],
    resize: bool = False,
) -> dict[str, Any]:
    """Write a model to an ONNX file; it takes one image of any size.

    Input "image": (3, height, width) float32, 0 to 255, in ``source.pixel_format``, resized; with
    ``source.bands`` it has as many channels, and values as they are stored. With
    ``resize`` it is (height, width, 3) uint8, BGR, of any size, and the graph resizes it.

    Outputs, N detections in the order of their scores, coordinates in pixels of the resized image:
    "boxes" (N, 4) x0, y0, x1, y1; "scores" (N,); "classes" (N,) int64; "masks" (N, 1, M, M)
    probabilities in the boxes; "mask_scores" (N,); "keypoints" (N, K, 3) x, y, score, or
    "keypoint_maps" (N, K, S, S) for Detectron2's codec, which the runner decodes; "resized" (2,) int64,
    height and width of the resized image, with ``resize``. Only what the model has is there.

    Args:
        model: GeneralizedRCNN with its weights, on the CPU. It stays as it is; a copy is made, whose
            norms are folded (:func:`~.fold.fold_norms`).
        output: the file. It is written whole or not at all.
        source: of its images and classes; becomes part of the file.
        opset: version of ONNX's operators, 17 to 20.
        resize: put resizing and the order of channels into the graph; opset 18 or more.

    Returns:
        the file's metadata.

    Raises:
        ConfigError: a part of the model cannot be exported, the opset does not fit, or a setting of
            ``source`` does not.
        ImportError: the onnx package is not installed.
        OSError: the file cannot be written.
    """
    check_installed("onnx")
    check_opset(opset, resize=resize)
    check_model(model)
    if model.device.type != "cpu":
        raise ConfigError(f"the model is on {model.device}; move it to the CPU to export it.")
    info = metadata_of(model, source, resize=resize)
    maps = leaves_maps(model)
    # In files for 8 bits, too: a convolution's own output, before its norm, differs much by channel.
    folded = copy.deepcopy(model).eval()
    fold_norms(folded)
    with torch.no_grad(), traceable(folded):
        content = _traced(folded, source, opset, resize, maps)
    import onnx

    proto = onnx.load_from_string(content)
    set_metadata(proto, info)
    onnx.checker.check_model(proto)
    with replaced_file(output) as temporary:
        temporary.write_bytes(proto.SerializeToString(deterministic=True))
    return info


def resizing_file(source: ModelInput, opset: int) -> bytes:
    """The resizing of a file that resizes in its graph, with the same operators, in a file of its own.

    Returns:
        an ONNX file; input "image" (H, W, 3) uint8, BGR, output "resized" (3, h, w) float32.
    """
    names = ["resized"]
    return _written(_Resizing(source), _noise().permute(1, 2, 0).to(torch.uint8), names, opset)


class _Resizing(nn.Module):
    def __init__(self, source: ModelInput) -> None:
        super().__init__()
        self.sides = (source.min_size, source.max_size)
        self.rgb = source.pixel_format == "RGB"

    def forward(self, image: Tensor) -> Tensor:
        return resize_in_graph(image, *self.sides, rgb=self.rgb)


def _noise(channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (channels, *_TRACED), generator=generator).to(torch.float32)


def _traced(model: nn.Module, source: ModelInput, opset: int, resize: bool, maps: bool) -> bytes:
    """The ONNX file as the exporter writes it."""
    image = _noise(int(model.pixel_mean.numel()))
    run: Callable[[nn.Module, Tensor], dict[str, Tensor]]
    if resize:
        image = image.permute(1, 2, 0).to(torch.uint8)
        resizing = _Resizing(source)

        def run(model: nn.Module, image: Tensor) -> dict[str, Tensor]:
            small = resizing(image)
            size = torch.stack([torch.as_tensor(side) for side in small.shape[1:]])
            return {**detect(model, small, maps=maps), "resized": size}

    else:

        def run(model: nn.Module, image: Tensor) -> dict[str, Tensor]:
            return detect(model, image, maps=maps)

    names = list(run(model, image))  # eager, which also fills what must not be traced
    adapter = TracingAdapter(model, image, lambda *args: tuple(run(*args).values()))
    axes = {name: {0: "detections"} for name in names if name != "resized"}
    return _written(adapter, image, names, opset, axes)


def _written(
    module: nn.Module,
    image: Tensor,
    names: list[str],
    opset: int,
    axes: dict[str, dict[int, str]] | None = None,
) -> bytes:
    in_graph = image.dtype == torch.uint8
    module.eval()  # or the exporter puts all modules into training mode in the end
    sides = {0: "height", 1: "width"} if in_graph else {1: "height", 2: "width"}
    file = io.BytesIO()
    try:
        with symbolics(opset), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the tracer, by hundreds
            torch.onnx.export(
                module,
                (image,),
                file,  # type: ignore[arg-type]
                dynamo=False,
                opset_version=opset,
                input_names=["image"],
                output_names=names,
                dynamic_axes={**(axes or {}), "image": sides},
            )
    except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
        reason = " ".join(str(error).split("[Caused by")[0].split())[:300]
        raise ConfigError(f"the model cannot be written as ONNX: {reason}") from error
    return file.getvalue()
