# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Compiling the kernels: what is built when, and what is said when it cannot be."""

from __future__ import annotations

import os

import pytest

from mrcnn_ext.layers import build_kernels
from tests.helpers import REPO, run_python


@pytest.fixture
def builders(monkeypatch):
    """Builders that write an empty file, and the names of those that ran."""
    ran = []

    def make(name):
        def build(out):
            ran.append(name)
            (out / f"_C_{name}.so").touch()
            return out / f"_C_{name}.so"

        return build

    monkeypatch.setattr(build_kernels, "BUILDERS", {n: make(n) for n in ("cpu", "cuda")})
    return ran


def test_only_what_changed_is_built_again(builders, tmp_path):
    assert len(build_kernels.build_all(tmp_path)) == 2
    assert build_kernels.build_all(tmp_path) == [tmp_path / "_C_cpu.so", tmp_path / "_C_cuda.so"]
    assert builders == ["cpu", "cuda"]
    os.utime(tmp_path / "_C_cpu.so", (0, 0))
    build_kernels.build_all(tmp_path)
    assert builders == ["cpu", "cuda", "cpu"]
    build_kernels.build_all(tmp_path, only="cuda", force=True)
    assert builders == ["cpu", "cuda", "cpu", "cuda"]


def test_what_cannot_be_built_is_said_and_the_rest_goes_on(builders, tmp_path, monkeypatch, capsys):
    def fail(out):
        raise build_kernels.BuildError("there is no C++ compiler")

    monkeypatch.setitem(build_kernels.BUILDERS, "cpu", fail)
    assert build_kernels.build_all(tmp_path) == [tmp_path / "_C_cuda.so"]
    message = capsys.readouterr().err
    assert "no compiled CPU kernels" in message
    assert "there is no C++ compiler" in message


def test_cuda_may_be_demanded(builders, tmp_path, monkeypatch):
    def fail(out):
        raise build_kernels.BuildError("there is no nvcc")

    monkeypatch.setitem(build_kernels.BUILDERS, "cuda", fail)
    monkeypatch.setenv("FORCE_CUDA", "1")
    with pytest.raises(build_kernels.BuildError, match="no nvcc"):
        build_kernels.build_all(tmp_path)


def test_building_may_be_switched_off(builders, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MRCNN_EXT_BUILD", "0")
    assert build_kernels.build_all(tmp_path) == []
    assert builders == []
    assert "MRCNN_EXT_BUILD=0" in capsys.readouterr().err


def test_architectures():
    flags = build_kernels.architecture_flags("8.0;9.0a 12.0+PTX")
    assert flags == [
        "-gencode=arch=compute_80,code=sm_80",
        "-gencode=arch=compute_90a,code=sm_90a",
        "-gencode=arch=compute_120,code=sm_120",
        "-gencode=arch=compute_120,code=compute_120",
    ]
    for wrong in ("Hopper", "9.0+SASS"):
        with pytest.raises(build_kernels.BuildError, match="TORCH_CUDA_ARCH_LIST"):
            build_kernels.architecture_flags(wrong)


def test_a_compiler_that_fails_shows_its_words_and_leaves_no_library(tmp_path, monkeypatch):
    compiler = tmp_path / "c++"
    compiler.write_text("#!/bin/sh\necho 'error: no such header' >&2; exit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    with pytest.raises(build_kernels.BuildError, match="no such header"):
        build_kernels.build_cpu(tmp_path)
    assert not (tmp_path / "_C_cpu.so").exists()


@pytest.mark.slow
def test_a_library_that_cannot_be_loaded_is_reported_and_replaced(tmp_path):
    (tmp_path / "_C_cpu.so").write_bytes(b"no library")
    code = (
        "import torch\n"
        "from mrcnn_ext.layers import kernel_status, roi_align_pyramid\n"
        "print(kernel_status()[0].loaded, kernel_status()[0].reason)\n"
        "print(roi_align_pyramid([torch.ones(1, 1, 8, 8)], torch.tensor([[0., 1, 1, 5, 5]]), [1], 1))"
    )
    env = {"MRCNN_EXT_KERNEL_FOLDER": str(tmp_path), "MRCNN_EXT_KERNELS": "1"}
    result = run_python(["-W", "ignore", "-c", code], env=env, cwd=REPO)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"False {tmp_path / '_C_cpu.so'} cannot be loaded")
    assert "1." in result.stdout.splitlines()[-1]


@pytest.mark.slow
def test_an_instruction_set_that_does_not_exist_is_an_error_at_once():
    from mrcnn_ext.layers import kernel_status

    if not kernel_status()[0].loaded:
        pytest.skip("needs the compiled library")
    env = {"MRCNN_EXT_CPU_CAPABILITY": "mmx"}
    result = run_python(["-W", "ignore", "-c", "import mrcnn_ext.layers"], env=env, cwd=REPO)
    assert result.returncode == 1
    assert "MRCNN_EXT_CPU_CAPABILITY is 'mmx'" in result.stderr
