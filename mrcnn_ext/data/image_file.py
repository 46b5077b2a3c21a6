# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Read images for a model: all that reads one for training, testing or predicting reads it here."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from detectron2.data import detection_utils as utils

from ..config.bands import check_choice, pixel_channels
from ..errors import DataError
from .pictures import picture_problem
from .stored_image import StoredImage, open_image

__all__ = ["ImageReader", "displayed", "read_picture"]

_STRETCH = (2, 98)  # percentiles


@dataclass(frozen=True)
class ImageReader:
    """Reads a file as the model gets it.

    Without ``bands`` this is Detectron2's ``read_image``: 8 bits, in the order of ``image_format``.
    With them, the chosen bands come in their order and with their own values.

    Args:
        image_format: INPUT.FORMAT.
        bands: numbers of the file's bands, from 0, in the order of the model's channels.
        pixel_type: what every file holds, NumPy's name: "uint8", "uint16", …
        rgb_bands: those of ``bands`` that are red, green and blue; empty if that is not known.

    Raises:
        ConfigError: an argument has a value that cannot work.
    """

    image_format: str = "BGR"
    bands: tuple[int, ...] = ()
    pixel_type: str = "uint8"
    rgb_bands: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_choice(self.bands, self.pixel_type, self.rgb_bands, lazy=True)

    @classmethod
    def from_config(cls, cfg) -> ImageReader:
        """Of a config, with the ``MRCNN_EXT`` node or without."""
        own = cfg.get("MRCNN_EXT")
        if own is None:
            return cls(cfg.INPUT.FORMAT)
        keys = own.DATA
        return cls(cfg.INPUT.FORMAT, tuple(keys.BANDS), keys.PIXEL_TYPE, tuple(keys.RGB_BANDS))

    @classmethod
    def from_info(cls, info: dict) -> ImageReader:
        """Of the metadata of an exported model, which takes BGR where it takes no bands."""
        bands = info.get("bands")
        if not bands:
            return cls("BGR")
        return cls("BGR", tuple(bands["bands"]), bands["pixel_type"], tuple(bands["rgb_bands"]))

    @property
    def by_band(self) -> bool:
        """Whether bands are chosen."""
        return bool(self.bands)

    @property
    def channel_order(self) -> str:
        """ "BGR" or "RGB": how colours lie in three channels."""
        if not self.by_band:
            return self.image_format
        return "BGR" if pixel_channels(self.bands, self.rgb_bands) == [2, 1, 0] else "RGB"

    def __call__(self, path: str | os.PathLike) -> np.ndarray:
        """
        Args:
            path: any that Detectron2's ``PathManager`` opens.

        Returns:
            (H, W, C). With ``bands``, uint8 for files of uint8, float32 for others; every value of
            the types up to 16 bits is a float32.

        Raises:
            DataError: with ``bands``: the file cannot be read, has not the bands or the type, or
                values that are not finite; names it, and the keys. Without: as Detectron2's.
        """
        if not self.by_band:
            return utils.read_image(os.fspath(path), format=self.image_format)
        try:
            stored = self.open(path)
            pixels = stored.values(self.bands)
        except (DataError, OSError):
            raise
        except Exception as error:  # decoders raise about anything on damaged files
            raise DataError(f"{path}: cannot be read: {_reason(error)}.") from error
        return self.converted(pixels, path)

    def open(self, path: str | os.PathLike) -> StoredImage:
        """What the file says of itself, where that fits ``bands`` and ``pixel_type``.

        Raises:
            DataError: it does not; names the file and the keys.
        """
        try:
            stored = open_image(path)
        except DataError as error:
            raise DataError(f"{path}: {error}.") from error
        except OSError as error:
            reason = error.strerror or error
            raise DataError(f"{path}: cannot be read: {reason}.") from error
        except Exception as error:
            raise DataError(f"{path}: cannot be read: {_reason(error)}.") from error
        if max(self.bands) >= stored.bands:
            raise DataError(
                f"{path}: has {_bands(stored.bands)}, but MRCNN_EXT.DATA.BANDS is "
                f"{list(self.bands)}; expected band {max(self.bands)}, counted from 0."
            )
        if stored.pixel_type != self.pixel_type:
            raise DataError(
                f"{path}: has pixels of {stored.pixel_type}, but MRCNN_EXT.DATA.PIXEL_TYPE is "
                f"'{self.pixel_type}'; expected the same."
            )
        return stored

    def of_frame(self, frame: np.ndarray, source) -> np.ndarray:
        """A frame of a video, (H, W, 3) uint8, BGR, as the model gets it.

        Raises:
            DataError: a video has not the bands.
        """
        if not self.by_band:
            return frame
        if max(self.bands) > 2 or self.pixel_type != "uint8":
            raise DataError(
                f"{source}: a video has 3 bands of uint8, but MRCNN_EXT.DATA.BANDS is "
                f"{list(self.bands)} and PIXEL_TYPE '{self.pixel_type}'."
            )
        return np.ascontiguousarray(frame[..., [2 - band for band in self.bands]])

    def converted(self, pixels: np.ndarray, source) -> np.ndarray:
        """As a model takes it: uint8 as it is, others as float32.

        Raises:
            DataError: a value is not finite; names ``source``.
        """
        if pixels.dtype == np.uint8:
            return pixels
        values = np.asarray(pixels, dtype=np.float32)
        if not np.issubdtype(pixels.dtype, np.integer) and not np.isfinite(values).all():
            wrong = int((~np.isfinite(values)).any(axis=2).sum())
            raise DataError(
                f"{source}: {wrong} of its {values.shape[0] * values.shape[1]} pixels are NaN or "
                "infinite in float32; write a number where there is no data."
            )
        return values

    def shown(self, image: np.ndarray) -> np.ndarray:
        """An image that was read, as a picture to look at; see :func:`displayed`.

        Args:
            image: (H, W, C), as the model gets it.

        Returns:
            uint8 (H, W, 3), RGB.
        """
        if self.by_band:
            return displayed(image, pixel_channels(self.bands, self.rgb_bands))
        if self.image_format == "BGR":
            image = image[..., ::-1]
        return displayed(image, list(range(image.shape[2]))[:3])


def displayed(image: np.ndarray, channels: Sequence[int]) -> np.ndarray:
    """A picture of any image: three channels as red, green and blue, or the first one as grey.

    Values of 8 bits are shown as they are; others are stretched, each channel from its 2nd to its
    98th percentile.

    Args:
        image: (H, W, C).
        channels: three of them; of fewer the first one is shown.

    Returns:
        uint8 (H, W, 3), RGB.
    """
    chosen = list(channels) if len(channels) == 3 else [channels[0]] * 3
    if image.dtype == np.uint8:
        return np.ascontiguousarray(image[..., chosen])
    out = {c: _stretched(image[..., c]) for c in set(chosen)}
    return np.stack([out[c] for c in chosen], axis=-1)


def _stretched(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    finite = values[np.isfinite(values)]
    low, high = np.percentile(finite, _STRETCH) if finite.size else (0.0, 1.0)
    scaled = (np.nan_to_num(values, nan=low) - low) * (255 / (high - low if high > low else 1.0))
    return scaled.clip(0, 255).astype(np.uint8)


def read_picture(path: str | os.PathLike, reader: ImageReader | None = None) -> np.ndarray:
    """A file as a picture to look at.

    Args:
        path: any that Detectron2's ``PathManager`` opens.
        reader: of the model; None, or without bands: as Detectron2 reads it, and what it cannot read
            as it is with its first three bands.

    Returns:
        uint8 (H, W, 3), RGB.

    Raises:
        DataError: it cannot be read; names it.
    """
    if reader is not None and reader.by_band:
        return reader.shown(reader(path))
    if os.fspath(path).lower().endswith(".npy") or _is_wide_grey(path):
        return _first_bands(path)
    try:
        return utils.read_image(os.fspath(path), format="RGB")
    except FileNotFoundError:
        raise
    except Exception:
        try:
            return _first_bands(path)
        except DataError:
            pass
        raise


def _is_wide_grey(path: str | os.PathLike) -> bool:
    problem = picture_problem(path)
    return problem is not None and "grey values" in problem  # cut off at 255, white in most places


def _first_bands(path: str | os.PathLike) -> np.ndarray:
    try:
        pixels = open_image(path).values()
    except DataError as error:
        raise DataError(f"{path}: {error}.") from error
    except Exception as error:
        raise DataError(f"{path}: cannot be read: {_reason(error)}.") from error
    return displayed(pixels, list(range(pixels.shape[2]))[:3])


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".rstrip(".")


def _bands(number: int) -> str:
    return f"{number} band" + "s" * (number != 1)
