# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Modules of the package form no import circle, and lower rooms import nothing of upper ones.

Imports are read from the source, so those inside functions count, too.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import mrcnn_ext
from tests.helpers import REPO

ROOT = Path(mrcnn_ext.__file__).parent
# Room -> the other rooms it may import, besides GROUND.
FLOORS: dict[str, set[str]] = {
    "layers": set(),
    "coco": set(),
    "skeletons": {"coco"},
    "structures": {"coco", "layers"},
}
# Single modules below all rooms; _moved holds old names.
GROUND = {
    "_moved",
    "_version",
    "compat",
    "errors",
    "files",
    "messages",
    "modes",
    "paths",
    "precision",
}


def _modules() -> dict[str, Path]:
    """Dotted name -> file of every module; a package's is its ``__init__.py``."""
    modules = {}
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return modules


MODULES = _modules()


def _ancestors(name: str) -> Iterator[str]:
    while "." in name:
        name = name.rpartition(".")[0]
        yield name


def _named(module: str, path: Path) -> Iterator[str]:
    """Full names of the modules that a module's import statements name."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parent, *filter(None, [node.module])])
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield full if full in MODULES else base


def _imports(module: str, path: Path) -> set[str]:
    """Modules of the package that importing ``module`` runs first.

    These are the named ones and the packages they are in, apart from packages that ``module`` is in:
    those are being imported already.
    """
    own = {module, *_ancestors(module)}
    found: set[str] = set()
    for name in _named(module, path):
        if name in MODULES and name != module:
            found |= {name, *(set(_ancestors(name)) - own)}
    return found


GRAPH = {module: _imports(module, path) for module, path in MODULES.items()}


def _room(module: str) -> str:
    return [*module.split("."), ""][1]


def test_no_import_circle():
    try:
        TopologicalSorter(GRAPH).prepare()
    except CycleError as error:
        pytest.fail("import circle: " + " is imported by ".join(error.args[1]))


@pytest.mark.parametrize("room", [*FLOORS, *sorted(GROUND)])
def test_lower_rooms_import_nothing_of_upper_ones(room):
    allowed = {room, *FLOORS.get(room, ()), *GROUND}
    modules = [module for module in GRAPH if _room(module) == room]
    assert modules
    upward = [
        f"{module} imports {name}"
        for module in modules
        for name in sorted(GRAPH[module])
        if _room(name) not in allowed
    ]
    assert not upward


def test_packages_import_only_those_above_them_in_the_documented_layout():
    text = (REPO / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = text.partition("| in `mrcnn_ext/` |")[2].partition("\n\n")[0]
    rows = [re.findall(r"`(\w+)(?:/|\.py)`", line.split("|")[1]) for line in table.splitlines()[2:]]
    place = {name: index for index, row in enumerate(rows) for name in row}
    place |= {"_moved": -1, "_version": -1, "": len(rows)}  # "" is mrcnn_ext/__init__.py
    assert {_room(module) for module in GRAPH} == set(place), "CONTRIBUTING.md lacks a package"
    wrong = [
        f"{module} imports {name}"
        for module, names in sorted(GRAPH.items())
        for name in sorted(names)
        if place[_room(name)] > place[_room(module)] and _room(name)
    ]
    assert not wrong


def test_the_graph_has_every_kind_of_import():
    package = GRAPH["mrcnn_ext.layers.roi_align"]
    assert "mrcnn_ext.layers.roi_align.ops" in package  # from . import module
    assert "mrcnn_ext.layers.checks" in package  # from ..module import name
    assert "mrcnn_ext.layers" not in package  # it is being imported already
    assert "mrcnn_ext.layers" in GRAPH["mrcnn_ext.structures.packed_polygons"]  # from ..package
    tool = GRAPH["mrcnn_ext.doctor"]
    assert "mrcnn_ext.checkpoint.efficientnet_lite" in tool  # absolute, inside a function
    assert "mrcnn_ext.checkpoint" in tool  # which runs first
