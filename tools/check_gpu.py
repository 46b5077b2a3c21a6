#!/usr/bin/env python3
# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Everything that can be checked and measured on a GPU, in one command.

    python tools/check_gpu.py --out output/gpu [--minutes 8] [--parts build tests …] [--demo]

For a machine with a CUDA GPU, from a checkout, with the packages of requirements.txt, without network.
What is installed stays as it is: kernels are built for this GPU, into the folder. The parts:

- device: GPU, driver, versions
- build: both kernel libraries, for this GPU's architecture
- tests: every test marked "gpu"
- sanitizer: the CUDA kernels under compute-sanitizer, while the tests run (sanitize_cuda.py)
- roi_align: benchmarks/bm_roi_align.py
- end_to_end: benchmarks/bm_end_to_end.py
- demo (with --demo): python -m mrcnn_ext.demo

Each part is a process with a time limit and leaves a log in the folder. check_gpu.json and check_gpu.md
there are rewritten when a part ends, so that a run that is stopped leaves what it has. Ends with 1 if a
part failed, and with 2 if there is no GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]

# Prints what is to be known of the device; the last line is the json.
DEVICE_CODE = """
import json, platform, torch
facts = {"python": platform.python_version(), "torch": torch.__version__, "CUDA": torch.version.cuda}
facts["gpu"] = torch.cuda.get_device_name() if torch.cuda.is_available() else None
if facts["gpu"]:
    p = torch.cuda.get_device_properties(0)
    facts["architecture"] = f"{p.major}.{p.minor}"
    facts["multiprocessors"] = p.multi_processor_count
    facts["memory, GiB"] = round(p.total_memory / 2**30, 1)
    facts["L2 cache, MiB"] = round(getattr(p, "L2_cache_size", 0) / 2**20)
import torchvision, detectron2
facts |= {"torchvision": torchvision.__version__, "detectron2": detectron2.__version__}
print(json.dumps(facts))
"""


@dataclass
class Part:
    """A command, and what came of it.

    Attributes:
        name: also of its log.
        command: run in the checkout.
        limit: seconds.
        read: gives a summary from the log's text and whether all is well, after the command ended
            with 0 or not; None: the last line, and whether the command ended with 0.
        status: "passed", "failed", "timed out", "not reached" or "waiting".
    """

    name: str
    command: list[str]
    limit: float
    read: Callable[[str, int], tuple[str, bool]] | None = None
    status: str = "waiting"
    seconds: float = 0.0
    summary: str = ""
    details: list[str] = field(default_factory=list)

    def as_dict(self) -> dict:
        kept = asdict(self)
        return {k: kept[k] for k in ("name", "status", "seconds", "summary", "details", "limit")}


class Run:
    """The parts, their environment, and the two files that are written."""

    def __init__(self, out: Path, seconds: float) -> None:
        self.out = out
        self.end = time.monotonic() + seconds
        self.device: dict = {}
        self.parts: list[Part] = []
        self.lock = threading.Lock()
        self.env = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(REPO), os.environ.get("PYTHONPATH", "")]),
            "PYTHONUNBUFFERED": "1",
        }

    def do(self, part: Part) -> None:
        """Run a part to its end or its limit."""
        start = time.monotonic()
        limit = min(part.limit, self.end - start)
        log = self.out / f"{part.name}.log"
        if limit < 5:
            part.status = "not reached"
        else:
            with log.open("w") as output:
                # A session of its own, so that what it started ends with it.
                process = subprocess.Popen(
                    part.command, cwd=REPO, env=self.env, stdout=output, stderr=subprocess.STDOUT,
                    start_new_session=True,
                )  # fmt: skip
                try:
                    code = process.wait(limit)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
                    code = 124
            text = log.read_text(errors="replace")
            last = next((line for line in reversed(text.splitlines()) if line.strip()), "")
            part.summary, good = part.read(text, code) if part.read else (last, code == 0)
            part.status = "timed out" if code == 124 else "passed" if good else "failed"
            if part.status != "passed":
                part.details = part.details or text.splitlines()[-40:]
        part.seconds = round(time.monotonic() - start, 1)
        print(f"{part.name}: {part.status}, {part.seconds:.0f} s. {part.summary}", flush=True)
        self.write()

    def write(self) -> None:
        report = {"device": self.device, "parts": [part.as_dict() for part in self.parts]}
        with self.lock:
            _write(self.out / "check_gpu.json", json.dumps(report, indent=1) + "\n")
            _write(self.out / "check_gpu.md", page(self.device, self.parts, self.out))


def _write(path: Path, text: str) -> None:
    """Whole or not at all."""
    partial = path.with_suffix(path.suffix + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def page(device: dict, parts: list[Part], out: Path) -> str:
    lines = [f"# mrcnn_ext on {device.get('gpu') or 'no GPU'}", ""]
    lines += ["| | |", "|---|---|", *(f"| {k} | {v} |" for k, v in device.items()), ""]
    lines += ["| part | | seconds | |", "|---|---|---|---|"]
    for part in parts:
        summary = part.summary.replace("|", "/")
        lines.append(f"| {part.name} | {part.status} | {part.seconds:.0f} | {summary} |")
    for part in parts:
        if part.details:
            lines += ["", f"## {part.name}: {part.status}", "", "```", *part.details, "```"]
    for name, title in (("roi_align", "RoIAlign"), ("end_to_end", "Mask R-CNN R50-FPN")):
        table = out / f"{name}.md"
        if table.is_file():
            lines += ["", f"## {title}", "", table.read_text(encoding="utf-8").rstrip()]
    return "\n".join(lines) + "\n"


# ---- What logs say -----------------------------------------------------------------------------------


def read_tests(report: Path) -> tuple[str, list[str]]:
    """Counts, and each failure in a few lines, from pytest's JUnit file."""
    if not report.is_file():
        return "pytest wrote no report", []
    counts = dict.fromkeys(("passed", "failed", "skipped"), 0)
    failures = []
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        problem = next((c for c in case if c.tag in ("failure", "error")), None)
        kind = "failed" if problem is not None else "passed"
        if problem is None and case.find("skipped") is not None:
            kind = "skipped"
        counts[kind] += 1
        if problem is not None:
            name = f"{case.get('classname', '')}::{case.get('name', '')}"
            message = (problem.get("message") or "").splitlines()[:3]
            failures += [name, *(f"    {line[:300]}" for line in message)]
    return ", ".join(f"{count} {kind}" for kind, count in counts.items()), failures


def tests_with_a_gpu_mark() -> list[str]:
    """Files, so that pytest need not import all the others."""
    marked = re.compile(r"\bneeds_(gpu|kernels)\b|\bmark\.gpu\b")
    found = sorted((REPO / "tests").rglob("test_*.py"))
    return [str(p.relative_to(REPO)) for p in found if marked.search(p.read_text(encoding="utf-8"))]


def _has(module: str) -> bool:
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec('{module}') is None)"
    return subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


# ---- The parts ---------------------------------------------------------------------------------------


def make_parts(run: Run, demo: bool) -> dict[str, Part]:
    python, out = [sys.executable, "-W", "ignore"], run.out
    kernels = out / "kernels"
    tests = Part("tests", [*python, "-m", "pytest", "-m", "gpu", "-q"], 240)
    tests.command += ["-p", "no:cacheprovider", f"--junitxml={out / 'tests.xml'}"]
    if _has("pytest_timeout"):
        tests.command += ["--timeout=120"]
    if _has("xdist"):  # Python is what takes the time
        tests.command += ["-n", str(min(6, max(1, (os.cpu_count() or 1) // 2)))]
    tests.command += tests_with_a_gpu_mark()

    def summarize(text: str, code: int) -> tuple[str, bool]:
        summary, tests.details = read_tests(out / "tests.xml")
        return summary, code == 0

    def built(text: str, code: int) -> tuple[str, bool]:
        names = [name for name in ("_C_cpu", "_C_cuda") if (kernels / f"{name}.so").is_file()]
        return " and ".join(names) or "nothing was built", code == 0 and "_C_cuda" in names

    def sanitized(text: str, code: int) -> tuple[str, bool]:
        lines = [
            line for line in text.splitlines() if re.match(r"(mem|race|init|sync)check:", line)
        ]
        return "; ".join(lines) or text.strip()[-300:], code == 0

    tests.read = summarize
    build = [*python, "mrcnn_ext/layers/build_kernels.py", "--out", str(kernels)]
    sanitizer = [*python, "tools/sanitize_cuda.py", "--limit", "170"]
    on_gpu = ["--device", "cuda", "--threads", str(min(8, os.cpu_count() or 1)), "--out", str(out)]
    parts = [
        Part("build", build, 180, built),
        tests,
        Part("sanitizer", sanitizer, 180, sanitized),
        Part("roi_align", [*python, "benchmarks/bm_roi_align.py", *on_gpu, "--budget", "0.3"], 120),
        Part("end_to_end", [*python, "benchmarks/bm_end_to_end.py", *on_gpu], 100),
    ]
    if demo:
        command = [*python, "-m", "mrcnn_ext.demo", "--device", "cuda"]
        parts.append(Part("demo", [*command, "--output", str(out / "demo")], 240))
    return {part.name: part for part in parts}


def look_at_device(run: Run) -> str | None:
    """Fill in ``run.device``; returns what is wrong, or None."""
    asked = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", DEVICE_CODE], capture_output=True, text=True,
        env=run.env, cwd=REPO,
    )  # fmt: skip
    if asked.returncode:
        return f"torch, torchvision and detectron2 must be there: {asked.stderr.strip()[-300:]}"
    run.device = json.loads(asked.stdout.splitlines()[-1])
    if not run.device["gpu"]:
        return (
            f"there is no GPU that PyTorch {run.device['torch']} can use, so nothing was checked."
        )
    try:
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        answer = subprocess.run(query, capture_output=True, text=True, timeout=30)
        run.device["driver"] = answer.stdout.splitlines()[0].strip()
    except (OSError, subprocess.TimeoutExpired, IndexError):
        run.device["driver"] = "unknown: nvidia-smi does not answer"
    run.env.setdefault("TORCH_CUDA_ARCH_LIST", run.device["architecture"])
    return None


def main(argv: list[str] | None = None) -> int:
    names = ("build", "tests", "sanitizer", "roi_align", "end_to_end")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("output/gpu"), help="where results go")
    parser.add_argument("--minutes", type=float, default=8, help="for all parts together")
    parser.add_argument("--parts", nargs="+", choices=names, default=list(names))
    parser.add_argument("--demo", action="store_true", help="also train the demo, if time allows")
    args = parser.parse_args(argv)
    out = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    run = Run(out, 60 * args.minutes)
    problem = look_at_device(run)
    if problem:
        print(f"check_gpu: {problem}", file=sys.stderr)
        return 2
    print(", ".join(f"{key} {value}" for key, value in run.device.items()), flush=True)
    parts = make_parts(run, args.demo)
    chosen = [*args.parts, *(["demo"] if args.demo else [])]
    run.parts = [part for name, part in parts.items() if name in chosen]
    if "build" in chosen:
        run.do(parts["build"])
    if (out / "kernels" / "_C_cuda.so").is_file():
        run.env["MRCNN_EXT_KERNEL_FOLDER"] = str(out / "kernels")
    # Nothing is timed here, so that these may share the GPU.
    with ThreadPoolExecutor() as pool:
        list(pool.map(run.do, [parts[n] for n in ("tests", "sanitizer") if n in chosen]))
    for name in ("roi_align", "end_to_end", "demo"):
        if name in chosen:
            run.do(parts[name])
    print(f"written to {out / 'check_gpu.md'}")
    return 0 if all(part.status == "passed" for part in run.parts) else 1


if __name__ == "__main__":
    sys.exit(main())
