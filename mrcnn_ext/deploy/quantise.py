# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Static quantisation of an exported model to 8 bits, by onnxruntime."""

from __future__ import annotations

import logging
import os
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

from ..data.image_file import ImageReader
from ..errors import ConfigError, DataError
from ..files import replaced_file
from .metadata import copy_metadata
from .onnx_runner import OnnxModel
from .supported import check_installed

__all__ = ["kept_layers", "quantise_int8"]

_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
# So that the range is that of their results, and they become a part of the layer before them. They stay
# float32 where nothing quantised comes before.
_ACTIVATIONS = ("Clip", "Relu")
_NO_BOXES = {"NonMaxSuppression": 0, "TopK": 0, "RoiAlign": 1}  # first input that stays float32


def quantise_int8(
    model: str | os.PathLike, output: str | os.PathLike, images: Sequence[str | os.PathLike]
) -> None:
    """Quantise convolutions and matrix products; boxes, NMS and RoIAlign stay float32.

    So do the layers that objectness, boxes, scores, masks and keypoints come from: they are small, and
    their errors go straight into the results. Weights are symmetric, with a scale for each output
    channel, and have 7 bits: x86 processors without VNNI (AVX2 alone, say) add two products in 16 bits,
    which 8 bits overflow. Activations have 8 bits and one scale each, from their smallest and largest
    values on the images.

    Args:
        model: file that :func:`~.export.export_onnx` wrote.
        output: the new file; written whole or not at all.
        images: like those that the model will see; 50 to 500 of them.

    Raises:
        ConfigError: there are no images, or onnxruntime cannot quantise the model.
        DataError: an image cannot be read; names it.
        ImportError: onnx or onnxruntime is not installed.
        OSError: the file cannot be written.
    """
    check_installed("onnx", "onnxruntime")
    if not images:
        raise ConfigError("--calibration: there is no image; expected 50 or more.")
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    runner = OnnxModel(model)
    reader = ImageReader.from_info(runner.info)

    class _Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(images)

        def get_next(self):
            path = next(self.left, None)
            return None if path is None else {"image": runner.resized(_read(path, reader))}

    proto = onnx.load(os.fspath(model))
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantised = Path(folder) / "int8.onnx"
        level = logging.root.level
        logging.root.setLevel(logging.ERROR)  # it advises to preprocess, which dynamic sizes defy
        try:
            quantize_static(
                os.fspath(model),
                os.fspath(quantised),
                _Reader(),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=[*_WEIGHTED, *_ACTIVATIONS],
                nodes_to_exclude=kept_layers(proto.graph),
                per_channel=True,
                reduce_range=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                extra_options={"CalibMovingAverage": False},
            )
        except DataError:
            raise
        except Exception as error:
            reason = " ".join(str(error).split())[:300]
            raise ConfigError(f"onnxruntime cannot quantise the model: {reason}") from error
        finally:
            logging.root.setLevel(level)
        result = onnx.load(os.fspath(quantised))
    copy_metadata(proto, result)
    with replaced_file(output) as temporary:
        temporary.write_bytes(result.SerializeToString(deterministic=True))


def kept_layers(graph) -> list[str]:
    """Names of the layers whose results are no input of another layer's, and of products of results.

    Searched from the outputs and from what chooses and moves boxes, back to the first layer each.
    """
    maker = {name: node for node in graph.node for name in node.output}
    constant = {item.name for item in graph.initializer}
    for node in graph.node:  # the exporter stores equal weights once
        if node.op_type == "Constant" or (node.op_type == "Identity" and node.input[0] in constant):
            constant.add(node.output[0])
    left = [output.name for output in graph.output]
    kept = set()
    for node in graph.node:
        if node.op_type in _NO_BOXES:
            left += node.input[_NO_BOXES[node.op_type] :]
        elif node.op_type in _WEIGHTED and node.input[1] not in constant:
            kept.add(node.name)
    seen = set()
    while left:
        node = maker.get(left.pop())
        if node is None or node.name in seen:
            continue
        seen.add(node.name)
        if node.op_type in _WEIGHTED:
            kept.add(node.name)
        elif node.op_type not in ("RoiAlign", "Shape"):
            left += node.input
    return sorted(kept)


def _read(path: str | os.PathLike, reader: ImageReader):
    try:
        return reader(path)
    except Exception as error:  # Pillow raises many kinds
        raise DataError(f"--calibration: {path}: {error}") from error
