# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Config keys, the environment hook in every import order, other plugins beside it."""

from __future__ import annotations

import json

import pytest
import yaml
from detectron2.config import CfgNode, get_cfg

from mrcnn_ext import add_mrcnn_ext_config
from mrcnn_ext.config.reference import config_reference
from tests.helpers import REPO, run_python

HOOK = {"DETECTRON2_ENV_MODULE": "mrcnn_ext.d2_env", "MRCNN_EXT_ENV_MODULES": None}


def _report(code: str, env: dict, extra_path=None) -> dict:
    """Run ``code``; return what the last line it prints says as JSON."""
    if extra_path is not None:
        code = f"import sys; sys.path.insert(0, {str(extra_path)!r})\n{code}"
    result = run_python(["-W", "ignore", "-c", code], env={**HOOK, **env})
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


# ------------------------------------------------------------------------------------ in process


def test_keys_are_added_once_and_keep_what_the_user_set():
    cfg = get_cfg()
    add_mrcnn_ext_config(cfg)
    cfg.MRCNN_EXT.TIMM.NAME = "resnet18"
    cfg.MRCNN_EXT.SHAPES.pop("SEED")
    add_mrcnn_ext_config(cfg)
    assert cfg.MRCNN_EXT.TIMM.NAME == "resnet18"
    assert cfg.MRCNN_EXT.SHAPES.SEED == 0
    assert type(cfg.MRCNN_EXT) is type(cfg.MODEL)


def test_two_configs_do_not_share_values():
    first, second = get_cfg(), get_cfg()
    add_mrcnn_ext_config(first)
    add_mrcnn_ext_config(second)
    first.MRCNN_EXT.TIMM.OUT_FEATURES.append("res1")
    assert second.MRCNN_EXT.TIMM.OUT_FEATURES == ["res2", "res3", "res4", "res5"]


def test_a_dumped_config_loads(tmp_path):
    cfg = get_cfg()
    add_mrcnn_ext_config(cfg)
    (tmp_path / "config.yaml").write_text(cfg.dump())
    again = get_cfg()
    add_mrcnn_ext_config(again)
    again.merge_from_file(str(tmp_path / "config.yaml"))
    # Not the texts: a list that two keys share is dumped as an alias of the first.
    assert yaml.safe_load(again.dump()) == yaml.safe_load(cfg.dump())


@pytest.mark.parametrize("key", ["MRCNN_EXT.TIM.NAME", "MRCNN_EXT.TIMM.NAMES", "MRCNN.TIMM.NAME"])
def test_an_unknown_key_is_named(key, tmp_path):
    cfg = get_cfg()
    add_mrcnn_ext_config(cfg)
    with pytest.raises(AssertionError, match=f"Non-existent key: {key}"):
        cfg.merge_from_list([key, "x"])
    node = CfgNode({"VERSION": 2})
    inner = node
    for part in key.split(".")[:-1]:
        inner[part] = CfgNode()
        inner = inner[part]
    inner[key.split(".")[-1]] = "x"
    (tmp_path / "bad.yaml").write_text(node.dump())
    with pytest.raises(KeyError, match="Non-existent config key: MRCNN"):
        cfg.merge_from_file(str(tmp_path / "bad.yaml"))


def test_every_key_is_documented_and_the_document_is_current():
    text = config_reference()
    cfg = get_cfg()
    add_mrcnn_ext_config(cfg)

    def leaves(node, prefix):
        for key, value in node.items():
            if isinstance(value, CfgNode):
                yield from leaves(value, f"{prefix}.{key}")
            else:
                yield f"{prefix}.{key}"

    for key in leaves(cfg.MRCNN_EXT, "MRCNN_EXT"):
        assert f"### `{key}` = " in text
    assert "\n\n\n\n" not in text, "a key has no comment"
    assert (REPO / "docs" / "config.md").read_text(encoding="utf-8") == text, "make docs"


# ------------------------------------------------------------------------- a process of their own

_SHOW = """
import json
from detectron2.config import get_cfg
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY
from detectron2.data import DatasetCatalog
cfg = get_cfg()
print(json.dumps({
    "name": cfg.MRCNN_EXT.TIMM.NAME if "MRCNN_EXT" in cfg else None,
    "backbone": "build_timm_fpn_backbone" in BACKBONE_REGISTRY,
    "meta": "MrcnnExtRCNN" in META_ARCH_REGISTRY,
    "data": "mrcnn_ext_shapes_train" in DatasetCatalog,
    "other": list(cfg.get("OTHER", {}).values()),
}))
"""


@pytest.mark.parametrize(
    "first",
    [
        "import detectron2",
        "import mrcnn_ext.modeling.backbone.timm_backbone",
        *(
            pytest.param(first, marks=pytest.mark.slow)  # some seconds each
            for first in (
                "import mrcnn_ext",
                "import mrcnn_ext.d2_env",
                "import mrcnn_ext.config",
                "from detectron2.config import get_cfg; get_cfg()",
                "import detectron2.data.datasets",
                "from detectron2.engine import DefaultTrainer",
                "import mrcnn_ext.d2_env as h; h.setup_environment(); h.setup_environment()",
                "from mrcnn_ext.data.shapes import ShapesSpec",
            )
        ),
    ],
)
def test_hook_works_whatever_is_imported_first(first):
    report = _report(first + _SHOW, {})
    assert report == {"name": "resnet50", "backbone": True, "meta": True, "data": True, "other": []}


def test_without_the_hook_nothing_of_detectron2_changes():
    report = _report("import mrcnn_ext" + _SHOW, {"DETECTRON2_ENV_MODULE": None})
    assert report["name"] is None
    assert report["backbone"]


_OTHER = """
def setup_environment():
    from detectron2.config import defaults, CfgNode
    from detectron2.modeling import BACKBONE_REGISTRY
    if "OTHER" not in defaults._C:
        defaults._C.OTHER = CfgNode({"KEY": 7})
        BACKBONE_REGISTRY.register(build_other_backbone)
    %s

def build_other_backbone(cfg, input_shape):
    raise NotImplementedError
"""


@pytest.mark.slow
@pytest.mark.parametrize("ours_first", [True, False])
def test_another_plugin_works_beside_this_one(tmp_path, ours_first):
    call = "import mrcnn_ext.d2_env as ours; ours.setup_environment()"
    (tmp_path / "other_plugin.py").write_text(_OTHER % ("pass" if ours_first else call))
    env = {"MRCNN_EXT_ENV_MODULES": "other_plugin"}
    if not ours_first:
        env = {"DETECTRON2_ENV_MODULE": "other_plugin"}
    report = _report("import detectron2" + _SHOW, env, extra_path=tmp_path)
    assert report["other"] == [7]
    assert report["name"] == "resnet50"
    assert report["backbone"]


@pytest.mark.slow
@pytest.mark.parametrize("module", ["json", "no_such_plugin"])
def test_a_second_hook_that_is_none_is_named(module):
    result = run_python(
        ["-W", "ignore", "-c", "import detectron2"], env={**HOOK, "MRCNN_EXT_ENV_MODULES": module}
    )
    assert result.returncode != 0
    assert f"MRCNN_EXT_ENV_MODULES names '{module}'" in result.stderr.splitlines()[-1]


_STOCK = """
import glob, json, os
import detectron2.model_zoo as zoo
from detectron2.config import get_cfg
root = os.path.join(os.path.dirname(zoo.__file__), "configs")
dumps = {}
for path in sorted(glob.glob(root + "/COCO-*/*.yaml") + glob.glob(root + "/Misc/*.yaml")):
    name = os.path.relpath(path, root)
    cfg = zoo.get_config(name)
    cfg.pop("MRCNN_EXT", None)
    dumps[name] = hash(cfg.dump())
print(json.dumps(dumps))
"""


@pytest.mark.slow
def test_stock_configs_load_with_the_hook_as_without():
    same_hash = {"PYTHONHASHSEED": "0"}
    with_hook = _report(_STOCK, same_hash)
    without = _report(_STOCK, {**same_hash, "DETECTRON2_ENV_MODULE": None})
    assert len(with_hook) > 30
    assert with_hook == without
