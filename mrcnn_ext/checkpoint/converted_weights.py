# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Weights in another form than Detectron2's checkpointer reads: converted once, into the cache."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path

from iopath.common.file_io import PathHandler, file_lock

from ..errors import WeightsError

__all__ = ["ConvertedWeightsHandler"]


class ConvertedWeightsHandler(PathHandler):
    """iopath handler of one prefix; writes a file to the cache when it is first asked for."""

    @property
    @abstractmethod
    def prefix(self) -> str:
        """``"name://"``."""

    @abstractmethod
    def cached_file(self, uri: str) -> Path:
        """Where the checkpoint of ``uri`` belongs, whether it is there or not.

        Raises:
            WeightsError: ``uri`` names nothing that could be converted.
        """

    @abstractmethod
    def write(self, uri: str, target: Path) -> None:
        """Write the checkpoint, whole or not at all.

        Raises:
            WeightsError: the weights cannot be had.
        """

    def _get_supported_prefixes(self) -> list[str]:
        return [self.prefix]

    def _get_local_path(self, path: str, force: bool = False, **kwargs) -> str:
        target = self.cached_file(path)
        if force or not target.is_file():
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise WeightsError(
                    f"cannot write to the cache folder {target.parent}: {error}; set "
                    "MRCNN_EXT_CACHE to a folder that can be written."
                ) from error
            with file_lock(str(target)):  # several ranks start at once
                if force or not target.is_file():
                    self.write(path, target)
        return str(target)

    def _isfile(self, path: str, **kwargs) -> bool:
        return self._exists(path)

    def _exists(self, path: str, **kwargs) -> bool:
        try:
            self.cached_file(path)
        except WeightsError:
            return False
        return True

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs):
        if "w" in mode or "a" in mode:
            raise WeightsError(f"'{path}' is read-only.")
        return open(self._get_local_path(path), mode, buffering=buffering)
