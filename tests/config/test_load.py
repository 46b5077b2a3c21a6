# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Loading configs: files and names, and one set of errors."""

from __future__ import annotations

import pytest
import yaml
from detectron2.config import get_cfg

import mrcnn_ext.predict
from mrcnn_ext import add_mrcnn_ext_config, model_zoo
from mrcnn_ext.config.aliases import first_set
from mrcnn_ext.config.load import default_config, load_config
from mrcnn_ext.errors import ConfigError, DataError


def test_one_function_loads_everywhere():
    assert mrcnn_ext.predict.load_config is load_config
    cfg = get_cfg()
    add_mrcnn_ext_config(cfg)
    assert default_config() == cfg


def test_names_paths_and_overrides(tmp_path):
    name = "Shapes/mask_rcnn_Lite0_FPN.yaml"
    cfg = load_config(name, ["MRCNN_EXT.SHAPES.SEED", "3", "SOLVER.MAX_ITER", "7"])
    assert (cfg.MRCNN_EXT.SHAPES.SEED, cfg.SOLVER.MAX_ITER) == (3, 7)
    assert load_config(name) == model_zoo.get_config(name)
    path = tmp_path / "config.yaml"
    path.write_text(cfg.dump())
    # Not the configs: anchor sizes are a list in one and a tuple in the other.
    assert yaml.safe_load(load_config(path).dump()) == yaml.safe_load(cfg.dump())
    lazy = load_config("Shapes/mask_rcnn_Lite0_FPN.py", ["train.max_iter=7"])
    assert lazy.train.max_iter == 7


@pytest.mark.parametrize(
    ("name", "content", "overrides", "message"),
    [
        (
            "absent.yaml",
            None,
            [],
            r"no file '.*absent\.yaml', and mrcnn_ext has no config '.*absent",
        ),
        ("a.yaml", "MODEL: [", [], r"a\.yaml: ParserError: "),
        ("a.yaml", "MODEL:\n  NO_KEY: 1\n", [], r"a\.yaml: Non-existent config key: MODEL\.NO_KEY"),
        (
            "a.yaml",
            "MODEL:\n  MASK_ON: [1]\n",
            [],
            r"a\.yaml: Type mismatch .* config key: MODEL\.",
        ),
        ("a.yaml", "{}", ["MODEL.X", "1"], r"a\.yaml: Non-existent key: MODEL\.X"),
        ("a.yaml", "{}", ["MODEL.X"], r"a\.yaml: Override list has odd length"),
        ("a.yaml", "_BASE_: none.yaml\n", [], r"a\.yaml: FileNotFoundError: .*none\.yaml"),
        ("a.py", "x = (", [], r"a\.py: SyntaxError: "),
        ("a.py", "import no_such_module", [], r"a\.py: ModuleNotFoundError: .*no_such_module"),
        ("a.py", "raise KeyError('x')", [], r"a\.py: KeyError: 'x'"),
    ],
)
def test_each_mistake_is_one_clear_error(tmp_path, name, content, overrides, message):
    file = tmp_path / name
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigError, match=message):
        load_config(str(file), overrides)


def test_this_packages_errors_stay_what_they_are(tmp_path):
    file = tmp_path / "a.py"
    file.write_text("from mrcnn_ext.errors import DataError\nraise DataError('a.json: empty.')\n")
    with pytest.raises(DataError, match=r"^a\.json: empty\.$"):
        load_config(file)


# ------------------------------------------------------------------------------ keys with old names

NEW, OLD = "MRCNN_EXT.MASK_HEAD.IN_FEATURES", "MRCNN_EXT.MASK_HEAD.POOLER_LEVELS"


@pytest.mark.parametrize(
    ("new", "old", "expected"),
    [
        ([], [], (NEW, [])),
        (["p2"], [], (NEW, ["p2"])),
        ([], ["p3"], (OLD, ["p3"])),
        (["p2", "p3"], ["p2", "p3"], (NEW, ["p2", "p3"])),
    ],
)
def test_the_old_name_works_where_the_new_one_is_not_set(new, old, expected):
    cfg = default_config()
    cfg.merge_from_list([NEW, new, OLD, old])
    found = first_set(cfg, NEW, OLD)
    assert found == expected
    found[1].append("p9")
    assert new == cfg.MRCNN_EXT.MASK_HEAD.IN_FEATURES


def test_a_text_is_one_name():
    cfg = default_config()
    node = "MRCNN_EXT.MASK_HEAD.REFINE_MASK"
    keys = f"{node}.IN_FEATURES", f"{node}.SEMANTIC_FEATURE"
    assert first_set(cfg, *keys) == (keys[0], [])
    cfg.MRCNN_EXT.MASK_HEAD.REFINE_MASK.SEMANTIC_FEATURE = "p2"
    assert first_set(cfg, *keys) == (keys[1], ["p2"])
    cfg.MRCNN_EXT.MASK_HEAD.REFINE_MASK.IN_FEATURES = ["p2"]
    assert first_set(cfg, *keys) == (keys[0], ["p2"])


def test_two_names_that_contradict_each_other():
    cfg = default_config()
    cfg.merge_from_list([NEW, ["p2"], OLD, ["p3"]])
    with pytest.raises(
        ConfigError, match=rf"{NEW} is \['p2'\], but {OLD}, its old name, is \['p3'\]"
    ):
        first_set(cfg, NEW, OLD)
