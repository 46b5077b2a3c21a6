# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Loading configs: files and names, and one set of errors."""

from __future__ import annotations

import time

import pytest
import yaml
from detectron2.config import get_cfg

import mrcnn_ext.predict
from mrcnn_ext import add_mrcnn_ext_config, model_zoo
from mrcnn_ext.config.aliases import first_set
from mrcnn_ext.config.load import default_config, load_config
from mrcnn_ext.config.schedule import short_schedule
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
        ("a.yaml", "{}", ["MODEL.X", "1"], r"^overrides of .*a\.yaml: Non-existent key: MODEL\.X"),
        ("a.yaml", "{}", ["MODEL.X"], r"^overrides of .*a\.yaml: Override list has odd length"),
        ("a.yaml", "_BASE_: none.yaml\n", [], r"a\.yaml: its _BASE_ .*none\.yaml: No such file"),
        *[
            ("a.yaml", f"_BASE_: {base}\n", [], r"a\.yaml: _BASE_ is not the name of a file")
            for base in ("", '""', "{a: 1}", "5", "[[a.yaml]]")
        ],
        ("a.yaml", "SEED: 1\nSEED: 2\n", [], r"a\.yaml, line 2: SEED is there twice"),
        ("a.yaml", "TEST:\n  AUG: {FLIP: 1, FLIP: 0}\n", [], r"a\.yaml, line 2: FLIP is there"),
        ("a.yaml", "1: 2\n", [], r"a\.yaml, line 1: a key is '1', expected a text"),
        ("a.yaml", "MODEL:\n", [], r"a\.yaml: TypeError: .*\(is a section empty\?\)"),
        ("a.yaml", "MODEL: rcnn\n", [], r"a\.yaml: Type mismatch .*…$"),
        ("a" * 300 + ".yaml", None, [], r"no file '.*aaa\.yaml', and mrcnn_ext has no config"),
        ("a.yaml", "{}", ["SOLVER.BASE_LR", "1"], r" SOLVER\.BASE_LR \(write 1\.0, not 1\)$"),
        ("a.py", "x = {}", ["x.y.z"], r"^overrides of .*a\.py: "),
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


def test_a_folder_is_no_config(tmp_path):
    with pytest.raises(ConfigError, match=r": is no file, but a folder, pipe or device\.$"):
        load_config(tmp_path)


def test_a_name_of_detectron2s_zoo_gets_its_path():
    name = "COCO-InstanceSegmentation/mask_rcnn_R_101_FPN_3x.yaml"
    with pytest.raises(ConfigError, match=rf"mrcnn_ext has no .* Detectron2 has it: /.*{name}"):
        load_config(name)


def test_this_packages_errors_stay_what_they_are(tmp_path):
    file = tmp_path / "a.py"
    file.write_text("from mrcnn_ext.errors import DataError\nraise DataError('a.json: empty.')\n")
    with pytest.raises(DataError, match=r"^a\.json: empty\.$"):
        load_config(file)


def test_short_schedules_fit_the_config():
    name = "Shapes/mask_rcnn_Lite0_FPN.yaml"
    solver = load_config(name, short_schedule(10, warmup=100)).SOLVER
    assert (solver.MAX_ITER, tuple(solver.STEPS), solver.WARMUP_ITERS) == (10, (8,), 2)
    solver = load_config(name, short_schedule(1)).SOLVER
    assert (solver.MAX_ITER, tuple(solver.STEPS)) == (1, ())
    assert solver.WARMUP_ITERS == load_config(name).SOLVER.WARMUP_ITERS


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


_CODE = "!!python/object/apply:os.mkdir ['{}']"


@pytest.mark.parametrize(
    "text",
    [
        _CODE,
        "MODEL: {}\nOUTPUT_DIR: " + _CODE,
        "A: [1, [2, " + _CODE + "]]",
        "? " + _CODE + "\n: 1",
        "OUTPUT_DIR: !!python/name:os.system",
        "OUTPUT_DIR: !!python/module:antigravity",
        "OUTPUT_DIR: !!python/object/new:os.mkdir ['{}']",
        "%TAG ! tag:yaml.org,2002:python/\n---\nOUTPUT_DIR: !object/apply:os.mkdir ['{}']",
        "OUTPUT_DIR: !<tag:yaml.org,2002:python/object/apply:os.mkdir> ['{}']",
    ],
)
@pytest.mark.parametrize("where", ["itself", "base", "base of base", "list of bases"])
def test_tags_that_run_code_are_refused(tmp_path, text, where):
    mark = tmp_path / "ran"
    (tmp_path / "bad.yaml").write_text(text.replace("'{}'", repr(str(mark))))
    (tmp_path / "base.yaml").write_text("_BASE_: bad.yaml\n")
    (tmp_path / "two.yaml").write_text("_BASE_: base.yaml\n")
    (tmp_path / "list.yaml").write_text("_BASE_: [good.yaml, bad.yaml]\n")
    (tmp_path / "good.yaml").write_text("SOLVER: {MAX_ITER: 3}\n")
    name = {"itself": "bad", "base": "base", "base of base": "two", "list of bases": "list"}[where]
    with pytest.raises(ConfigError, match=r"bad\.yaml, line \d+: the tag .*python/") as error:
        load_config(tmp_path / f"{name}.yaml")
    assert "\n" not in str(error.value)
    assert not mark.exists()


def test_aliases_and_merges_are_plain_values(tmp_path):
    text = "SOLVER: &s {MAX_ITER: 3}\nMODEL: {WEIGHTS: &w 'x'}\nOUTPUT_DIR: *w\n"
    (tmp_path / "base.yaml").write_text(text)
    (tmp_path / "a.yaml").write_text("_BASE_: base.yaml\nTEST: {<<: {EVAL_PERIOD: 4}}\n")
    cfg = load_config(tmp_path / "a.yaml")
    assert (cfg.SOLVER.MAX_ITER, cfg.OUTPUT_DIR, cfg.TEST.EVAL_PERIOD) == (3, "x", 4)


def test_hostile_yaml_ends_soon_with_one_line(tmp_path):
    laughs = "a0: &a0 [x, x]\n" + "".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 30)
    )
    cases = {
        "aliases repeat": laughs,
        "part of itself": "a: &a [*a]\n",
        "brackets in each other": "a: " + "[" * 20000 + "]" * 20000,
        "RecursionError": "- " * 20000,
        "RecursionError: .*depth": "? " * 20000,
        "longer than": "# " + "x" * 2**21,
        "name each other": "_BASE_: a.yaml\n",
        "is no yaml config": "- 1\n- 2\n",
        "is no file": "_BASE_: /dev/zero\n",
        "unacceptable character": "a: \x00\n",
    }
    for message, text in cases.items():
        (tmp_path / "a.yaml").write_text(text)
        start = time.monotonic()
        with pytest.raises(ConfigError, match=message) as error:
            load_config(tmp_path / "a.yaml")
        assert time.monotonic() - start < 2, message
        assert "a.yaml" in str(error.value) or "/dev/zero" in str(error.value)


def test_a_program_that_was_only_found_is_not_run(tmp_path):
    mark = tmp_path / "ran"
    (tmp_path / "config.py").write_text(f"import os; os.mkdir({str(mark)!r}); train = dict()\n")
    with pytest.raises(ConfigError, match=r"config\.py: is no yaml config, but may be a program"):
        load_config(tmp_path / "config.py", found=True)
    assert not mark.exists()
    load_config(tmp_path / "config.py")  # named by the user
    assert mark.exists()
