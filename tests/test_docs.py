# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""What the documents say is so: links, code, names."""

from __future__ import annotations

import ast
import os
import re
import textwrap

import pytest

from mrcnn_ext import doctor, model_zoo
from tests.helpers import REPO, random_inputs, run_python, timm_cfg, tool, train_step

DOCUMENTS = [REPO / "README.md", REPO / "CONTRIBUTING.md", *sorted((REPO / "docs").rglob("*.md"))]


def _blocks(name: str, language: str) -> list[str]:
    text = (REPO / name).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document):
    text = document.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if not target.startswith("http"):
            assert (document.parent / target).exists(), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_configs_and_modules_that_are_named_exist(document):
    text = document.read_text(encoding="utf-8")
    for name in re.findall(r"configs/([\w/-]+\.(?:yaml|py))", text):
        assert (REPO / "configs" / name).is_file(), name
    for name in re.findall(r"python -m (mrcnn_ext[\w.]*)", text):
        path = REPO / name.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), name
    for block in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL):
        ast.parse(textwrap.dedent(block))  # blocks in lists are indented


def test_readme_opens_with_the_two_commands_and_names_all_that_is_registered():
    text = (REPO / "README.md").read_text(encoding="utf-8")
    first = _blocks("README.md", "bash")[0].splitlines()
    assert [line.split("#")[0].split() for line in first] == [["make", "demo"], ["make", "test"]]
    registered, _ = doctor._registered()
    for entry in registered:
        assert f"`{entry['name']}`" in text
        assert entry["key"] in text


@pytest.fixture
def own_head(tmp_path):
    (tmp_path / "my_head.py").write_text(_blocks("docs/own_head.md", "python")[0])
    return tmp_path


def test_the_head_of_the_tutorial_trains_and_predicts(own_head, monkeypatch):
    monkeypatch.syspath_prepend(str(own_head))
    import my_head
    from detectron2.modeling import ROI_MASK_HEAD_REGISTRY, build_model

    assert ROI_MASK_HEAD_REGISTRY.get("MyDilatedMaskHead") is my_head.MyDilatedMaskHead
    source = (own_head / "my_head.py").read_text()
    body = source[source.index("@ROI_MASK_HEAD") : source.index("def setup_environment")]
    assert len([line for line in body.splitlines() if line.strip()]) <= 20
    cfg = timm_cfg("resnet18", fpn=True)
    cfg.MODEL.ROI_MASK_HEAD.NAME = "MyDilatedMaskHead"
    model = build_model(cfg)
    losses = train_step(model, random_inputs(cfg))
    assert losses["loss_mask"] > 0
    gradient = model.roi_heads.mask_head.predictor.weight.grad
    assert gradient.abs().sum() > 0
    assert "instances" in model.eval()(random_inputs(cfg, number=1))[0]


def test_the_head_of_the_tutorial_with_switches(tmp_path, monkeypatch):
    (tmp_path / "my_switched_head.py").write_text(_blocks("docs/own_head.md", "python")[2])
    monkeypatch.syspath_prepend(str(tmp_path))
    import my_switched_head  # noqa: F401
    from detectron2.modeling import build_model

    cfg = timm_cfg("resnet18", fpn=True)
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    cfg.MODEL.ROI_MASK_HEAD.NAME = "MySwitchedMaskHead"
    cfg.MODEL.ROI_HEADS.NAME = "MrcnnExtStandardROIHeads"
    cfg.MRCNN_EXT.MASK_HEAD.LOSSES = ["bce", "dice"]
    cfg.MRCNN_EXT.MASK_HEAD.LOSS_WEIGHTS = [1.0, 1.0]
    cfg.MRCNN_EXT.MASK_HEAD.SCORE = "mask_iou"
    cfg.MRCNN_EXT.MASK_HEAD.CONTEXT = 1.2
    model = build_model(cfg)
    losses = train_step(model, random_inputs(cfg))
    assert losses["loss_mask"] > 0
    assert losses["loss_mask_iou"] > 0
    found = model.eval()(random_inputs(cfg, number=1))[0]["instances"]
    assert len(found.mask_scores) == len(found) > 0


@pytest.mark.slow
def test_the_head_of_the_tutorial_runs_in_train_net(own_head):
    if not tool("train_net.py").is_file():
        pytest.skip("Detectron2 was not installed from tools/build_detectron2.py's wheel")
    opts = """MODEL.ROI_MASK_HEAD.NAME MyDilatedMaskHead SOLVER.MAX_ITER 1 SOLVER.STEPS ()
        SOLVER.IMS_PER_BATCH 1 DATALOADER.NUM_WORKERS 0 MRCNN_EXT.SHAPES.NUM_TRAIN 4
        MRCNN_EXT.SHAPES.NUM_VAL 1 MRCNN_EXT.SHAPES.IMAGE_SIZE 96""".split()
    config = model_zoo.get_config_file("Shapes/mask_rcnn_Lite0_FPN.yaml")
    path = os.pathsep.join([str(own_head), os.environ.get("PYTHONPATH", "")])
    result = run_python(
        [tool("train_net.py"), "--config-file", config, *opts]
        + ["MODEL.WEIGHTS", "", "OUTPUT_DIR", own_head / "out"],
        env={
            "DETECTRON2_ENV_MODULE": "mrcnn_ext.d2_env",
            "MRCNN_EXT_ENV_MODULES": "my_head",
            "PYTHONPATH": path,
        },
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert "MyDilatedMaskHead" in result.stdout
