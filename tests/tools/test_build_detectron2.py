# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The script that builds Detectron2: what it changes, and how it fails."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import REPO, load_script

script = load_script(REPO / "tools" / "build_detectron2.py")


def _tree(root: Path) -> Path:
    """What the fixes touch, in small, with the lines of Detectron2 0.6."""
    files = {
        "detectron2/__init__.py": '__version__ = "0.6"\n',
        "detectron2/layers/__init__.py": "",
        "detectron2/model_zoo/__init__.py": "",
        "detectron2/layers/rotated_boxes.py": "import torch\nfrom detectron2 import _C\n",
        "detectron2/layers/deform_conv.py": "from detectron2 import _C\n",
        "detectron2/layers/roi_align_rotated.py": "from detectron2 import _C\n",
        "detectron2/evaluation/fast_eval_api.py": "import numpy as np\n"
        "from detectron2 import _C\n\nclass COCOeval_opt:\n    pass\n",
        "detectron2/data/transforms/transform.py": "x = Image.LINEAR\n",
        "detectron2/structures/masks.py": "a = np.bool\nb = np.bool_\nc = np.float32\nd = np.object\n",
        "detectron2/model_zoo/model_zoo.py": "import pkg_resources\n\ndef f(config_path):\n"
        "    return pkg_resources.resource_filename(\n"
        '        "detectron2.model_zoo", os.path.join("configs", config_path)\n    )\n',
        "detectron2/export/__init__.py": "from .api import *\n",
        "tools/train_net.py": "print('train')\n",
        "configs/Base.yaml": "VERSION: 2\n",
        "LICENSE": "Apache\n",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    for source in script.PROJECTS.values():
        (root / source).mkdir(parents=True)
        (root / source / "__init__.py").write_text("")
    return root


def test_every_fix_applies_to_the_lines_of_0_6(tmp_path):
    tree = _tree(tmp_path)
    patch, applied = script.apply_fixes(tree)
    assert applied == len(script.FIXES)
    assert (tree / "detectron2/structures/masks.py").read_text() == (
        "a = bool\nb = np.bool_\nc = np.float32\nd = object\n"
    )
    zoo = (tree / "detectron2/model_zoo/model_zoo.py").read_text()
    assert "pkg_resources" not in zoo
    compile(zoo, "model_zoo.py", "exec")
    fast = (tree / "detectron2/evaluation/fast_eval_api.py").read_text()
    namespace = {"COCOeval": "pycocotools"}
    lines = fast.replace("import numpy as np\n", "").replace(
        "from detectron2 import _C", "raise ImportError"
    )
    exec(lines, namespace)
    assert namespace["COCOeval_opt"] == "pycocotools"
    changed = {line[6:] for line in patch.splitlines() if line.startswith("+++ b/")}
    assert "tools/train_net.py" not in changed
    # Applied to the result, nothing changes again: main has some of these lines already.
    assert script.apply_fixes(tree)[0] == ""


def test_the_patch_is_all_that_differs(tmp_path):
    before, after = _tree(tmp_path / "a"), _tree(tmp_path / "b")
    patch, _ = script.apply_fixes(after)
    (tmp_path / "compat.patch").write_text(patch)
    subprocess.run(
        ["git", "apply", str(tmp_path / "compat.patch")],
        cwd=before,
        check=True,
        capture_output=True,
    )
    for path in after.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (before / path.relative_to(after)).read_bytes()


def test_a_checkout_becomes_a_wheel_with_its_tools(tmp_path):
    import zipfile

    wheel = script.build(tmp_path / "out", source=str(_tree(tmp_path / "source")))
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (tool,) = (n for n in names if n.endswith("share/detectron2/tools/train_net.py"))
        assert archive.read(tool) == b"print('train')\n"
        assert any(n.endswith("share/detectron2/compat.patch") for n in names)
        assert "detectron2/model_zoo/configs/Base.yaml" in names
        assert "detectron2/projects/point_rend/__init__.py" in names
    # The checkout itself stays as it was.
    text = (tmp_path / "source/detectron2/structures/masks.py").read_text()
    assert text.startswith("a = np.bool\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--source", "/no/such/checkout"],
            "neither a folder with detectron2/__init__.py nor a git",
        ),
        (["--archive", "/no/such/archive.tar.gz"], "/no/such/archive.tar.gz"),
    ],
)
def test_a_bad_source_is_named(arguments, message, tmp_path, capsys):
    assert script.main([*arguments, "--out", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("build_detectron2: ")
    assert message in error


def test_an_archive_with_another_checksum_is_refused(tmp_path, capsys):
    (tmp_path / "other.tar.gz").write_bytes(b"not Detectron2")
    code = script.main(["--archive", str(tmp_path / "other.tar.gz"), "--out", str(tmp_path)])
    assert code == 1
    assert "sha256" in capsys.readouterr().err


def test_installed_detectron2_has_the_tools_and_the_list_of_changes():
    share = Path(sys.prefix) / "share" / "detectron2"
    if not share.is_dir():
        pytest.skip("Detectron2 was not installed from this script's wheel")
    patch = (share / "compat.patch").read_text()
    changed = {line[6:] for line in patch.splitlines() if line.startswith("+++ b/")}
    assert not any(name.startswith("tools/") for name in changed)
    removed = [x[1:] for x in patch.splitlines() if x.startswith("-") and not x.startswith("---")]
    known = (
        "from detectron2 import _C",
        "Image.LINEAR",
        "np.",
        "pkg_resources",
        "from .api import",
    )
    known += ('"detectron2.model_zoo", os.path.join("configs", config_path)', "    )")
    assert all(any(part in line for part in known) for line in removed)
