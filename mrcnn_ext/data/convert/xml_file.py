# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Read xml files of annotations: no entities, no DTD, nothing fetched, no file without end."""

from __future__ import annotations

import os
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from ...coco.read import refuse_special
from ...errors import DataError

__all__ = ["child_text", "read_xml"]

_DEEPEST = 100


def read_xml(path: str | os.PathLike) -> Element:
    """The root element of an xml file.

    A document type definition is refused: annotations have none, and its entities can stand for
    gigabytes of text or for other files. defusedxml would do the same, but has had no release since
    2021; the standard library's parser needs one handler for it.

    Raises:
        DataError: it cannot be read, is no xml, or has a DTD; names file and line.
    """
    refuse_special(path)
    builder = TreeBuilder()
    parser = expat.ParserCreate(namespace_separator=None)
    parser.buffer_text = True
    depth = 0

    def start(tag: str, attributes: dict) -> None:
        nonlocal depth
        depth += 1
        if depth > _DEEPEST:
            _refuse("more than 100 elements in each other")
        builder.start(tag, attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)

    def _refuse(why: str) -> None:
        raise DataError(f"{path}, line {parser.CurrentLineNumber}: {why}; annotations have none.")

    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = lambda *_: _refuse("a document type definition (DOCTYPE)")
    try:
        with open(path, "rb") as file:
            parser.ParseFile(file)
        return builder.close()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}.") from error
    except (expat.ExpatError, ValueError, LookupError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: is no valid xml, or not all of it is there: {error}.") from error


def child_text(element: Element, name: str, default: str = "") -> str:
    """The text of a child without blanks around it."""
    return (element.findtext(name) or "").strip() or default
