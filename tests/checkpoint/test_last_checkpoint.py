# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The checkpoint that a training goes on from: the last one that is whole."""

from __future__ import annotations

import os

import pytest
import torch
from torch import nn

from mrcnn_ext.checkpoint import SafeCheckpointer, last_checkpoint, prune_checkpoints


def _model(value: float = 0.0) -> nn.Module:
    model = nn.Linear(50, 40)
    nn.init.constant_(model.weight, value)
    return model


@pytest.fixture
def folder(tmp_path):
    """Checkpoints after 2, 4 and 6 iterations, whose weights are 2, 4 and 6."""
    for done in (2, 4, 6):
        checkpointer = SafeCheckpointer(_model(done), str(tmp_path))
        checkpointer.save(f"model_{done - 1:07d}", iteration=done - 1)
    return tmp_path


def _torn(file):
    file.write_bytes(file.read_bytes()[:-100])


def _zeros(file):
    """In the midst of the weights, where torch does not see them."""
    content = bytearray(file.read_bytes())
    place = content.index(torch.full((50,), 6.0).numpy().tobytes())
    content[place : place + 200] = bytes(200)
    file.write_bytes(content)
    assert torch.load(file, weights_only=True)["model"]["weight"].min() == 0


def _nan(file):
    content = torch.load(file, weights_only=True)
    content["model"]["weight"][3, 3] = float("nan")
    torch.save(content, file)


def _pipe(file):
    file.unlink()
    os.mkfifo(file)


def _folder(file):
    file.unlink()
    file.mkdir()


def _other_model(file):
    torch.save({"model": nn.Linear(3, 3).state_dict(), "iteration": 5}, file)


def _odd(*keys, value):
    """Put a value into a checkpoint that a trainer does not write."""

    def damage(file):
        content = torch.load(file, weights_only=True)
        place = content
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = value
        torch.save(content, file)

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_odd("model", "weight", value=5), "'weight' is no tensor"),
        (_odd("model", 5, value=torch.zeros(1)), "'5' is no tensor"),
        (_odd("iteration", value=-7), "its 'iteration' is -7"),
        (_odd("iteration", value=True), "lacks 'model' or 'iteration'"),
        (_torn, "is no whole zip file"),
        (lambda file: file.write_bytes(b""), "is no whole zip file"),
        (_zeros, "checksum"),
        (_nan, "'weight' is NaN"),
        (_other_model, "of another model: 'weight'"),
        (lambda file: torch.save([1], file), "lacks 'model'"),
        (_pipe, "it is no file"),
        (_folder, "names 'model_0000005.pth', which is no checkpoint there"),
        (lambda file: file.unlink(), "names 'model_0000005.pth', which is no checkpoint there"),
    ],
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(folder, damage, message):
    last = last_checkpoint(folder, like=_model().state_dict())
    assert (last.file, last.start, last.warnings) == (folder / "model_0000005.pth", 6, ())
    damage(folder / "model_0000005.pth")
    last = last_checkpoint(folder, like=_model().state_dict())
    assert (last.file, last.start) == (folder / "model_0000003.pth", 4)
    assert str(folder) in last.warnings[0]
    assert message in last.warnings[0]
    assert last.warnings[1] == f"going on from the checkpoint before: {last.file}"


@pytest.mark.parametrize("tag", ["", "\n", "model_0000009.pth", "../model_0000001.pth", "."])
def test_a_damaged_tag_costs_no_checkpoint(folder, tag):
    (folder / "last_checkpoint").write_text(tag)
    last = last_checkpoint(folder)
    assert last.file == folder / "model_0000005.pth"
    assert f"{folder / 'last_checkpoint'}" in last.warnings[0]


def test_without_a_tag_the_newest_is_taken_and_a_tag_decides(folder):
    (folder / "last_checkpoint").unlink()
    assert last_checkpoint(folder).start == 6
    (folder / "last_checkpoint").write_text("model_0000001.pth")
    assert last_checkpoint(folder).start == 2


def test_with_none_left_a_training_starts_from_the_beginning(folder, tmp_path_factory):
    for file in folder.glob("*.pth"):
        _torn(file)
    last = last_checkpoint(folder)
    assert (last.file, last.start) == (None, 0)
    assert [f"model_{n:07d}" in text for n, text in zip((5, 3, 1), last.warnings)] == [True] * 3
    assert "starting from the beginning" in last.warnings[3]
    empty = last_checkpoint(tmp_path_factory.mktemp("new"))
    assert (empty.file, empty.start, empty.warnings) == (None, 0, ())


def test_a_final_checkpoint_counts_by_its_time(folder):
    checkpointer = SafeCheckpointer(_model(6), str(folder))
    checkpointer.save("model_final", iteration=5)
    _torn(folder / "model_final.pth")
    assert last_checkpoint(folder).file == folder / "model_0000005.pth"
    checkpointer.save("model_final", iteration=2)  # then a longer training went on from it
    (folder / "last_checkpoint").write_text("model_0000005.pth")
    for index, name in enumerate(("model_0000001", "model_final", "model_0000003"), 1):
        os.utime(folder / f"{name}.pth", (index, index))
    _torn(folder / "model_0000005.pth")
    assert last_checkpoint(folder).file == folder / "model_0000003.pth"
    _torn(folder / "model_0000003.pth")
    assert last_checkpoint(folder).start == 3


def test_parts_that_a_training_needs_must_be_there(folder):
    last = last_checkpoint(folder, parts=["optimizer"])
    assert last.file is None
    assert "lacks 'optimizer'" in last.warnings[0]


def test_old_checkpoints_are_deleted_and_nothing_else(folder):
    for name in ("model_best.pth", "model_1.pth", "my_model_0000001.pth", "model_final.pth"):
        (folder / name).write_bytes(b"")
    left = prune_checkpoints(folder, 1, below=4)
    assert left == [str(folder / "model_0000003.pth")]
    assert not (folder / "model_0000001.pth").exists()
    assert (folder / "model_0000005.pth").exists()
    prune_checkpoints(folder, 0)
    assert sorted(file.name for file in folder.iterdir()) == sorted(
        ["last_checkpoint", "model_1.pth", "model_best.pth", "model_final.pth"]
        + ["my_model_0000001.pth"]
    )


def test_a_checkpoint_is_written_whole_or_not_at_all(folder, monkeypatch):
    before = (folder / "model_0000005.pth").read_bytes()

    def killed(content, file):
        file.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        SafeCheckpointer(_model(8), str(folder)).save("model_0000005", iteration=5)
    assert (folder / "model_0000005.pth").read_bytes() == before
    assert not list(folder.glob(".*"))


def test_the_trainer_in_a_checkpoint_is_of_its_step(folder):
    for name, state in ((5, {"iteration": 5}), (3, {"iteration": 2}), (1, [])):
        _odd("trainer", value=state)(folder / f"model_000000{name}.pth")
    assert last_checkpoint(folder, parts=("trainer",)).start == 6
    (folder / "model_0000005.pth").unlink()
    last = last_checkpoint(folder, parts=("trainer",))
    assert last.file is None
    assert sum("its trainer is of another step" in warning for warning in last.warnings) == 2


def test_later_checkpoints_of_an_earlier_training_come_last(folder):
    """The file last_checkpoint says where the training was that went on."""
    (folder / "last_checkpoint").write_text("model_0000003.pth")
    assert last_checkpoint(folder).start == 4
    _torn(folder / "model_0000003.pth")
    assert last_checkpoint(folder).start == 2
    _torn(folder / "model_0000001.pth")
    assert last_checkpoint(folder).start == 6


def test_a_folder_in_the_place_of_last_checkpoint(folder):
    (folder / "last_checkpoint").unlink()
    (folder / "last_checkpoint").mkdir()
    last = last_checkpoint(folder)
    assert last.start == 6
    assert "last_checkpoint names no file" in last.warnings[0]
