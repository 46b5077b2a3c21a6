# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Static quantisation of an exported model to 8 bits, by onnxruntime."""

from __future__ import annotations

import logging
import os
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

from detectron2.data.detection_utils import read_image

from ..errors import ConfigError, DataError
from ..files import replaced_file
from .metadata import copy_metadata
from .onnx_runner import OnnxModel
from .supported import check_installed

__all__ = ["quantise_int8"]

_OPERATORS = ["Conv", "ConvTranspose", "Gemm", "MatMul"]


def quantise_int8(
    model: str | os.PathLike, output: str | os.PathLike, images: Sequence[str | os.PathLike]
) -> None:
    """Quantise convolutions and matrix products; boxes, NMS and RoIAlign stay float32.

    Weights are symmetric, with a scale for each output channel; activations have one scale each, from
    their smallest and largest values on the images.

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

    class _Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(images)

        def get_next(self):
            path = next(self.left, None)
            return None if path is None else {"image": runner.resized(_read(path))}

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
                op_types_to_quantize=_OPERATORS,
                per_channel=True,
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
        proto = onnx.load(os.fspath(quantised))
    copy_metadata(onnx.load(os.fspath(model), load_external_data=False), proto)
    with replaced_file(output) as temporary:
        temporary.write_bytes(proto.SerializeToString(deterministic=True))


def _read(path: str | os.PathLike):
    try:
        return read_image(os.fspath(path), "BGR")
    except Exception as error:  # Pillow raises many kinds
        raise DataError(f"--calibration: {path}: {error}") from error
