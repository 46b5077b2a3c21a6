# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Old import paths work for one version, with a warning."""

from __future__ import annotations

import importlib
import importlib.util
import sys

import pytest

from mrcnn_ext._moved import MOVED_MODULES, install_moved_modules
from tests.helpers import REPO, run_python

# Names that have another module now, and perhaps another name.
MOVED_NAMES = {
    "mrcnn_ext.data.check.load_coco": "mrcnn_ext.coco.read.read_coco",
    "mrcnn_ext.data.check.main": "mrcnn_ext.data.check.__main__.main",
    "mrcnn_ext.evaluation.records.read_records": "mrcnn_ext.coco.results.read_records",
    "mrcnn_ext.evaluation.settings.TASKS": "mrcnn_ext.evaluation.tasks.TASKS",
    "mrcnn_ext.modeling.backbone.build_timm_fpn_backbone": (
        "mrcnn_ext.modeling.necks.build_timm_fpn_backbone"
    ),
    "mrcnn_ext.modeling.keypoint_codecs.RLECodec": (
        "mrcnn_ext.modeling.keypoint_codecs.ResidualLikelihoodCodec"
    ),
    "mrcnn_ext.predict.main": "mrcnn_ext.predict.__main__.main",
    "mrcnn_ext.structures.SkeletonSet": "mrcnn_ext.skeletons.SkeletonSet",
}


def _get(path: str):
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


@pytest.mark.parametrize("old", sorted(MOVED_MODULES))
def test_an_old_module_has_the_names_of_the_new_one(old):
    sys.modules.pop(old, None)
    with pytest.warns(FutureWarning, match=f"^{old} moved to {MOVED_MODULES[old]}; "):
        module = importlib.import_module(old)
    new = importlib.import_module(MOVED_MODULES[old])
    assert new.__name__ == MOVED_MODULES[old]
    for name in new.__all__:
        assert getattr(module, name) is getattr(new, name)


@pytest.mark.parametrize("old", sorted(MOVED_NAMES))
def test_an_old_name_is_the_new_one(old):
    with pytest.warns(FutureWarning, match=f"^{old} moved to "):
        found = _get(old)
    assert found is _get(MOVED_NAMES[old])


def test_a_name_that_never_was_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"'mrcnn_ext\.structures' has no attribute 'nope'"):
        _get("mrcnn_ext.structures.nope")


def test_the_warning_names_the_line_that_imports():
    result = run_python(["-c", "import sys\nimport mrcnn_ext.fileio"])
    assert "<string>:2: FutureWarning: mrcnn_ext.fileio moved to mrcnn_ext.files" in result.stderr


def test_an_old_command_of_a_package_runs():
    result = run_python(["-m", "mrcnn_ext.data.coco_check", "--help"])
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("usage: python -m mrcnn_ext.data.check")


def test_an_old_command_runs():
    result = run_python(["-m", "mrcnn_ext.config_reference"])
    assert result.returncode == 0, result.stderr
    assert result.stdout == (REPO / "docs" / "config.md").read_text(encoding="utf-8")
    assert "mrcnn_ext.config_reference moved to mrcnn_ext.config.reference" in result.stderr


def test_the_finder_is_installed_once():
    before = list(sys.meta_path)
    install_moved_modules()
    assert sys.meta_path == before


def test_no_module_is_old_and_new():
    assert not set(MOVED_MODULES) & set(MOVED_MODULES.values())
