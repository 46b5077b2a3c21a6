# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import detectron2
import pytest
import torch

from mrcnn_ext import doctor
from tests.helpers import run_python

_BLOCK = """
import importlib.abc, importlib.util, sys
class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == {module!r}:
            raise ModuleNotFoundError("No module named " + repr({module!r}), name={module!r})
sys.meta_path.insert(0, Block())
real = importlib.util.find_spec
importlib.util.find_spec = lambda n, *a: None if n.split(".")[0] == {module!r} else real(n, *a)
"""


def _without(module: str, code: str, **kwargs):
    return run_python(["-c", _BLOCK.format(module=module) + code], **kwargs)


def test_report_is_complete_and_serialisable(monkeypatch):
    monkeypatch.setenv("DETECTRON2_ENV_MODULE", "mrcnn_ext.d2_env")
    report = json.loads(json.dumps(doctor.diagnose()))
    assert report["ok"]
    assert (
        report["versions"]["torch"] == torch.__version__.split("+")[0] or "+" in torch.__version__
    )
    assert report["detectron2"]["location"] == detectron2.__path__[0]
    assert report["detectron2"]["line"] in ("0.6", "main")
    names = {(r["key"], r["name"]) for r in report["registered"]}
    assert {
        ("MODEL.BACKBONE.NAME", "build_timm_backbone"),
        ("MODEL.BACKBONE.NAME", "build_timm_fpn_backbone"),
        ("MODEL.META_ARCHITECTURE", "MrcnnExtRCNN"),
    } <= names
    assert all(r["what"] and "`" not in r["what"] for r in report["registered"])
    assert report["datasets"] == [
        f"mrcnn_ext_shapes_{kind}{split}" for kind in ("pose_", "") for split in ("train", "val")
    ]
    assert {k["name"] for k in report["kernels"]} == {"_C_cpu", "_C_cuda"}
    assert all(k["reason"] for k in report["kernels"])
    assert not any("DETECTRON2_ENV_MODULE" in line for line in report["advice"])


def test_advice_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("DETECTRON2_ENV_MODULE", "other.hook")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "none"))
    advice = "\n".join(doctor.diagnose()["advice"])
    assert "MRCNN_EXT_ENV_MODULES=other.hook" in advice
    assert "DETECTRON2_DATASETS is" in advice


def test_kernels_off_is_said(monkeypatch):
    result = run_python(
        ["-W", "ignore", "-m", "mrcnn_ext.doctor", "--json"], env={"MRCNN_EXT_KERNELS": "0"}
    )
    assert result.returncode == 0, result.stderr
    kernels = json.loads(result.stdout)["kernels"]
    assert {k["reason"] for k in kernels} == {"switched off by MRCNN_EXT_KERNELS=0"}


def test_text_names_everything(capsys):
    assert doctor.main([]) == 0
    text = capsys.readouterr().out
    for part in ("Versions", "Kernels", "build_timm_fpn", "mrcnn_ext_shapes_val", "Advice"):
        assert part in text


@pytest.mark.parametrize("module", ["detectron2", "torch"])
def test_import_without_it_says_in_one_line_how_to_get_it(module):
    result = _without(module, "import mrcnn_ext\nmrcnn_ext.add_mrcnn_ext_config")
    assert result.returncode != 0
    warning, *_, error = (line for line in result.stderr.splitlines() if "mrcnn_ext" in line)
    for line in (warning, error):
        assert f"{module} is missing; install" in line
        assert "pip install" in line


@pytest.mark.parametrize(
    ("module", "package"),
    [("detectron2", "detectron2"), ("torch", "torch"), ("cv2", "opencv-python")],
)
def test_doctor_works_where_something_needed_is_missing(module, package):
    code = "import sys\nfrom mrcnn_ext.doctor import main\nsys.exit(main(['--json']))"
    result = _without(module, code)
    assert result.returncode == 1, result.stderr
    report = json.loads(result.stdout)
    assert report["versions"][package] is None
    assert any(line.startswith(f"{package} is missing: pip install") for line in report["advice"])


def test_several_opencvs_are_reported(monkeypatch):
    versions = {"opencv-python": "5.0", "opencv-python-headless": "4.12"}

    def version(name):
        if name.startswith("opencv") and name not in versions:
            raise doctor.importlib.metadata.PackageNotFoundError(name)
        return versions.get(name, "1")

    monkeypatch.setattr(doctor.importlib.metadata, "version", version)
    advice = []
    found = doctor._versions(advice)
    assert {k: v for k, v in found.items() if k.startswith("opencv")} == versions
    assert any("opencv-python and opencv-python-headless are both installed" in a for a in advice)
    del versions["opencv-python"]
    advice = []
    found = doctor._versions(advice)
    assert {k: v for k, v in found.items() if k.startswith("opencv")} == versions
    assert not any("both installed" in a for a in advice)
