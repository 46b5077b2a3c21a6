# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Convert a data set as a whole: all files are written, or none."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from ...coco.read import check_entries, read_categories
from ...errors import DataError
from ...files import check_writable, write_json
from .builder import Builder
from .lost import Lost
from .options import Options
from .readers import READERS
from .writers import WRITERS, Source, Target

__all__ = ["convert_from_coco", "convert_to_coco", "lost_file"]


def lost_file(out: str | os.PathLike) -> Path:
    """Where what was lost is written: data.json.lost.json, or FOLDER.lost.json."""
    out = Path(out)
    return out.with_name(f"{out.name}.lost.json")


def convert_to_coco(
    kind: str, source: str | os.PathLike, out: str | os.PathLike, options: Options | None = None
) -> tuple[dict, Builder]:
    """Write the COCO json of a data set in another format, and what was lost beside it.

    Args:
        kind: one of ``READERS``.
        source: file or folder, as its reader wants it.
        out: the json.

    Returns:
        the COCO data set, and the builder with what was lost, notes and counts.

    Raises:
        DataError: an entry cannot be used; names file and entry. Nothing is written then.
    """
    path = Path(source)
    if not path.exists():
        raise DataError(f"there is no file or folder {path}.")
    if Path(out).is_dir():
        raise DataError(f"{out}: is a folder, expected the name of a json.")
    check_writable(Path(out).parent)
    options = options or Options()
    _check_target(path, Path(out))
    builder = READERS[kind](path, options)
    builder.note_pictures(whole=options.part is None)
    try:
        content = builder.finish(options.keypoints)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    check_entries(content, str(out))
    write_json(out, content, indent=None)
    _write_lost(out, builder.lost)
    return content, builder


def _check_target(source: Path, out: Path) -> None:
    """
    Raises:
        DataError: ``out`` is there, and is no COCO json: labels that would be lost.
    """
    same = out.exists() and out.samefile(source)
    if same or (out.exists() and out.stat().st_size and not _is_coco(out)):
        what = "the SOURCE" if same else "there already, and no COCO json"
        raise DataError(f"--out {out}: is {what}; name another file, or delete it.")


def _is_coco(path: Path) -> bool:
    try:
        read_categories(path)
    except DataError:
        return False
    return True


def convert_from_coco(
    kind: str,
    source: str | os.PathLike,
    out: str | os.PathLike,
    *,
    images: str | os.PathLike | None = None,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> tuple[Source, Target]:
    """Write a COCO json in another format, to a new folder.

    Args:
        kind: one of ``WRITERS``.
        images: folder of the images.

    Raises:
        DataError: an entry cannot be used, or the folder holds files. Nothing is written then.
    """
    final = Path(out)
    if final.exists() and (not final.is_dir() or any(final.iterdir())):
        raise DataError(f"{final}: is there already, and not an empty folder.")
    if images is not None and not os.path.isdir(images):
        raise DataError(f"there is no folder of images {images}.")
    data = Source(Path(source))
    check_writable(final.absolute().parent)
    folder = Path(tempfile.mkdtemp(prefix=".convert.", dir=final.absolute().parent))
    try:
        target = Target(folder, None if images is None else Path(images), final, progress=progress)
        WRITERS[kind](data, target)
        folder.chmod(0o755)
        if final.exists():
            final.rmdir()
        os.replace(folder, final)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    _write_lost(final, target.lost)
    return data, target


def _write_lost(out: str | os.PathLike, lost: Lost) -> None:
    file = lost_file(out)
    if lost:
        write_json(file, lost.content())
    else:
        file.unlink(missing_ok=True)  # of an earlier conversion
