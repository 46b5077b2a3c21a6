# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Find persons in photos; then train, evaluate and picture a Mask R-CNN on the synthetic set.

    python -m mrcnn_ext.demo [--output output/demo] [--iterations 1500]

The model that comes with the package finds the persons, within seconds. Detectron2's own, unmodified
train_net.py trains and evaluates; this script starts it, shows its progress and draws the results. An
interrupted demo resumes from its last checkpoint that is whole; --fresh starts again. Ending the demo
ends its training, too. One process works in the output folder.

Exit code 0: done; 1: it failed, the message says where and what to do; 130, 143, 129: ended by
SIGINT, SIGTERM, SIGHUP.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from contextlib import suppress
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.detection_utils import read_image
from detectron2.structures import Boxes, BoxMode, Instances
from pycocotools import mask as mask_util
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from .checkpoint import last_checkpoint, prune_checkpoints
from .child_processes import end_children, start_child
from .coco.results import read_records
from .command_line import add_output_option, open_standard_files, run_until_stopped
from .config.load import get_config_file, load_config
from .config.schedule import short_schedule
from .data import register_datasets
from .errors import ConfigError, DataError, WeightsError
from .evaluation.check_keys import check_whole_config
from .files import (
    LOCK,
    drop_torn_line,
    only_process,
    remove_leftovers,
    temporary_folder,
    write_text,
)
from .stop_signals import StopSignals
from .visualization import contact_sheet, draw_comparison, plot_training_curves

__all__ = ["main"]

_KEPT = 2  # checkpoints: one to go on from if the last is damaged
_CONFIG = "Shapes/mask_rcnn_Lite0_FPN.yaml"
_ITERATION = re.compile(r"\biter: (\d+)\s+total_loss: (\S+)")
_SCORES = ("bbox/", "segm/")
_INFERENCE = re.compile(r"Inference done (\d+)/(\d+)")


class DemoError(RuntimeError):
    """The demo cannot go on; the message says what to do."""


def find_tool(name: str, folder: str | None = None) -> Path:
    """Path of one of Detectron2's tools.

    Raises:
        DemoError: it is neither in ``folder`` nor where tools/build_detectron2.py's wheel puts it.
    """
    path = Path(folder or Path(sys.prefix) / "share" / "detectron2" / "tools") / name
    if not path.is_file():
        raise DemoError(
            f"there is no {path}. Pass --tools FOLDER: the folder tools/ of a Detectron2 checkout, or "
            "install Detectron2 with tools/build_detectron2.py, whose wheel holds it."
        )
    return path


def train(
    args: argparse.Namespace,
    config_file: str,
    console,
    signals: StopSignals | None = None,
    temporary: Path | None = None,
) -> None:
    """Run train_net.py to its end, with a progress bar; its output goes to OUTPUT/train.log.

    Args:
        temporary: its folder for temporary files; None: the system's.

    Raises:
        DemoError: train_net.py failed; quotes the end of its output.
    """
    overrides = ["OUTPUT_DIR", str(args.output), "SEED", str(args.seed), *args.opts]
    overrides += ["MODEL.DEVICE", args.device]
    if args.iterations:
        overrides += short_schedule(args.iterations)
    command = [sys.executable, str(find_tool("train_net.py", args.tools)), "--resume"]
    command += ["--config-file", config_file, *overrides]
    typed = [_shown(part) if os.path.isabs(part) else part for part in command]
    env = {**os.environ, "DETECTRON2_ENV_MODULE": "mrcnn_ext.d2_env", "PYTHONUNBUFFERED": "1"}
    if temporary is not None:
        env["TMPDIR"] = str(temporary)
    console.print("[bold]1. Training and evaluation[/], with Detectron2's own tool:")
    console.print(f"  DETECTRON2_ENV_MODULE=mrcnn_ext.d2_env {shlex.join(typed)}", markup=False)
    log = args.output / "train.log"
    total = load_config(config_file, overrides).SOLVER.MAX_ITER
    signals = signals or StopSignals()
    process = None
    try:
        with signals.held():  # a process that is started is in ``process``
            process = start_child(
                command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                text=True, bufsize=1, errors="replace",
            )  # fmt: skip
        with open(log, "a", encoding="utf-8") as file:
            _follow(process, file, total, console, signals)
            process.wait()
    finally:
        with signals.held():
            if process is not None:
                end_children([process])
    if process.returncode:
        tail = "".join(
            log.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)[-12:]
        )
        raise DemoError(f"train_net.py failed; the end of {log}:\n{tail}")


def _follow(process: subprocess.Popen, log, total: int, console, signals: StopSignals) -> None:
    columns = (
        TextColumn("{task.description:<46}"),
        BarColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    text = "starting"
    try:
        with Progress(*columns, console=console) as progress:
            task = progress.add_task(f"{text} (the first time, the data set is made)", total=total)
            assert process.stdout is not None
            for line in process.stdout:
                log.write(line)
                log.flush()
                signals.check()
                if match := _ITERATION.search(line):
                    done = int(match[1]) + 1
                    text = f"training: step {done}/{total}, loss {match[2]}"
                    progress.update(task, completed=done, description=text)
                elif match := _INFERENCE.search(line):
                    text = f"evaluating: image {match[1]}/{match[2]}"
                    progress.update(task, description=text)
    except KeyboardInterrupt:
        console.print(f"ended {text}", markup=False)
        raise


def _checked_config(args: argparse.Namespace) -> str:
    """Find mistakes in the arguments before anything is deleted or started."""
    if args.iterations is not None and args.iterations < 1:
        raise DemoError(f"--iterations is {args.iterations}; expected 1 or more.")
    if args.pictures < 0:
        raise DemoError(f"--pictures is {args.pictures}; expected 0 or more.")
    find_tool("train_net.py", args.tools)
    try:
        config_file = get_config_file(args.config)
        cfg = load_config(config_file, args.opts)
        register_datasets(cfg)
        check_whole_config(cfg, training=True)
    except ConfigError as error:
        raise DemoError(f"config {args.config} {' '.join(args.opts)}: {error}") from error
    return config_file


def _prepare_output(output: Path, fresh: bool, console) -> None:
    """Delete what is to be deleted; this process must hold ``output``.

    What killed demos left is: temporary files, half a line, damaged and old checkpoints.
    """
    if fresh:
        there = [path for path in output.iterdir() if path.name != LOCK]
        if there and not (output / "train.log").is_file():
            raise DemoError(f"--fresh: {output} was not made by this demo; delete it yourself.")
        # The log comes last: what an interrupted call leaves is still known to be a demo's.
        for path in sorted(there, key=lambda path: path.name == "train.log"):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
    remove_leftovers(output)
    drop_torn_line(output / "metrics.json")
    last = last_checkpoint(output)
    for line in last.warnings:
        console.print(f"warning: {line}", markup=False)
    tag = output / "last_checkpoint"
    if last.file is None:
        tag.unlink(missing_ok=True)
    elif last.warnings or not tag.is_file():
        write_text(tag, last.file.name)
    prune_checkpoints(output, _KEPT, below=last.start)


def show_photos(output: Path, console) -> None:
    """Draw what the package's own model finds in photos, unless an earlier call did."""
    from .predict.photos import draw_photos, example_photos

    photos, folder = example_photos(), output / "persons"
    if not photos or all((folder / photo.name).is_file() for photo in photos):
        return
    console.print("[bold]Persons[/] in photos, found by the model that comes with the package:")
    (output / "train.log").touch()  # by which --fresh knows a demo's folder
    try:
        for file, number in draw_photos(photos, folder):
            console.print(f"  {file}  {number} found", markup=False)
    except (ImportError, WeightsError, DataError, OSError) as error:
        console.print(f"  left out: {error}", markup=False)
    else:
        command = f"{_shown(sys.executable)} -m mrcnn_ext.predict YOUR_PHOTO.jpg"
        console.print(f"  The same with yours: {command}\n", markup=False)


def _shown(path: str) -> str:
    """A path as a person would type it."""
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else relative


def _image_folder(dataset: str) -> str:
    return str(Path(DatasetCatalog.get(dataset)[0]["file_name"]).parent)


def show_results(output: Path, console) -> dict[str, float]:
    """Print the table of APs that Detectron2's evaluator wrote; return it."""
    results: dict[str, float] = {}
    text = (output / "metrics.json").read_text(encoding="utf-8", errors="replace")
    for line in text.splitlines():
        try:
            scores = {k: float(v) for k, v in json.loads(line).items() if k.startswith(_SCORES)}
        except (ValueError, TypeError, AttributeError):  # what a power failure left
            continue
        results.update(scores)
    table = Table(title="Average precision on mrcnn_ext_shapes_val, %", title_justify="left")
    names = ["AP", "AP50", "AP75", "APs", "APm", "APl"]
    for name in ["", *names]:
        table.add_column(name, justify="right")
    for kind, title in (("bbox", "boxes"), ("segm", "masks")):
        cells = [f"{results.get(f'{kind}/{name}', float('nan')):.1f}" for name in names]
        table.add_row(title, *cells)
    console.print("\n[bold]2. Result[/], by Detectron2's COCOEvaluator")
    console.print(table)
    classes = {k[len("segm/AP-") :]: v for k, v in results.items() if k.startswith("segm/AP-")}
    console.print("mask AP per class: " + ", ".join(f"{k} {v:.1f}" for k, v in classes.items()))
    return results


def _predictions(
    output: Path, records: list[dict], metadata, score_threshold: float
) -> dict[int, list[dict]]:
    """What the last evaluation found in some images, by their id, with contiguous class indices."""
    file = output / "inference" / "coco_instances_results.json"
    by_image = defaultdict(list)
    contiguous = metadata.thing_dataset_id_to_contiguous_id
    for result in read_records(file, {r["image_id"]: (r["height"], r["width"]) for r in records}):
        if result["score"] >= score_threshold:
            by_image[result["image_id"]].append(
                {**result, "category_id": contiguous[result["category_id"]]}
            )
    return by_image


def _to_instances(results: list[dict], height: int, width: int):
    instances = Instances((height, width))
    boxes = [BoxMode.convert(r["bbox"], BoxMode.XYWH_ABS, BoxMode.XYXY_ABS) for r in results]
    masks = [mask_util.decode(r["segmentation"]).astype(bool) for r in results]
    instances.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    instances.scores = torch.tensor([r["score"] for r in results])
    instances.pred_classes = torch.tensor([r["category_id"] for r in results], dtype=torch.int64)
    stacked = np.stack(masks) if masks else np.zeros((0, height, width), dtype=bool)
    instances.pred_masks = torch.from_numpy(stacked)
    return instances


def draw(output: Path, dataset: str, number: int, score_threshold: float) -> dict[Path, str]:
    """Write pictures of ground truth beside prediction, and the training curves.

    Args:
        output: folder of the finished training.
        dataset: registered name of the set that was evaluated last.
        number: of images to draw; 0 draws the curves only.
        score_threshold: predictions below it are not drawn.

    Returns:
        each file or folder, with what it is.
    """
    files: dict[Path, str] = {}
    if number:
        records, metadata = DatasetCatalog.get(dataset)[:number], MetadataCatalog.get(dataset)
        predictions = _predictions(output, records, metadata, score_threshold)
        folder = output / "pictures"
        folder.mkdir(parents=True, exist_ok=True)
        pictures = []
        for record in records:
            results = predictions.get(record["image_id"], [])
            pictures.append(_draw_one(record, results, metadata, score_threshold))
            _save(folder / f"{Path(record['file_name']).stem}.png", pictures[-1])
        sheet = output / "truth_and_prediction.png"
        _save(sheet, contact_sheet(pictures, columns=2))
        files = {sheet: "ground truth beside prediction", folder: "the same, one by one"}
    curves = output / "training_curves.png"
    plot_training_curves(output / "metrics.json", curves)
    return {**files, curves: "losses and AP over the steps"}


def _draw_one(record: dict, results: list[dict], metadata, score_threshold: float):
    # Keypoints are left out: this model does not predict any.
    annotations = [{k: v for k, v in a.items() if k != "keypoints"} for a in record["annotations"]]
    return draw_comparison(
        {**record, "annotations": annotations},
        _to_instances(results, record["height"], record["width"]),
        metadata,
        image=read_image(record["file_name"], "RGB"),
        score_threshold=score_threshold,
    )


def _save(file: Path, picture) -> None:
    if not cv2.imwrite(str(file), picture[:, :, ::-1]):
        raise DemoError(f"{file} cannot be written.")


def main(argv: list[str] | None = None) -> int:
    open_standard_files()
    parser = argparse.ArgumentParser(prog="python -m mrcnn_ext.demo", description=__doc__)
    add_output_option(parser, type=Path, default=Path("output/demo"))
    parser.add_argument("--config", default=_CONFIG, help="a yaml config of mrcnn_ext.model_zoo")
    parser.add_argument("--iterations", type=int, help="training steps (default: the config's)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto")
    parser.add_argument("--pictures", type=int, default=8, help="number of images to draw")
    parser.add_argument("--score-threshold", type=float, default=0.5, help="for the pictures")
    parser.add_argument("--tools", help="folder with Detectron2's train_net.py")
    parser.add_argument("--fresh", action="store_true", help="delete --output and start again")
    parser.add_argument("opts", nargs="*", help="config overrides, KEY VALUE …")
    args = parser.parse_args(argv)

    def ended(stop: KeyboardInterrupt) -> str:
        where = _last_saved(args.output)
        return f"\nEnded by {stop or 'SIGINT'}; the same command goes on {where}."

    errors = (DataError, DemoError)
    return run_until_stopped("demo", partial(_run, args), errors=errors, ended=ended)


def _last_saved(output: Path) -> str:
    """Where the next call goes on."""
    with suppress(OSError):
        name = (output / "last_checkpoint").read_text(encoding="utf-8", errors="replace")
        return f"from the last checkpoint, {name}"
    return "from the beginning, since no checkpoint was saved yet"


def _run(args: argparse.Namespace, signals: StopSignals) -> int:
    console = Console(highlight=False, soft_wrap=True)
    if args.device == "auto":
        args.device = "cuda" if torch.cuda.is_available() else "cpu"
    config_file = _checked_config(args)
    with only_process(args.output):
        return _run_in_folder(args, config_file, console, signals)


def _run_in_folder(
    args: argparse.Namespace, config_file: str, console, signals: StopSignals
) -> int:
    _prepare_output(args.output, args.fresh, console)
    start = time.monotonic()
    show_photos(args.output, console)
    with temporary_folder(args.output) as temporary:
        train(args, config_file, console, signals, temporary)
    prune_checkpoints(args.output, _KEPT - 1)  # and model_final.pth
    show_results(args.output, console)
    cfg = load_config(args.output / "config.yaml", found=True)
    register_datasets(cfg)
    dataset = cfg.DATASETS.TEST[0]
    files = draw(args.output, dataset, args.pictures, args.score_threshold)
    console.print(f"\n[bold]3. Files[/] (after {(time.monotonic() - start) / 60:.1f} minutes)")
    for file, text in files.items():
        console.print(f"  {file}  {text}")
    console.print(f"  {args.output / 'model_final.pth'}  the model")
    console.print(f"  {args.output / 'train.log'}  all that train_net.py printed")
    console.print(
        f"\n[bold]Next[/]: more pictures through this model (put your own files or folders there):\n"
        f"  {_shown(sys.executable)} -m mrcnn_ext.predict --config-file {args.output}/config.yaml "
        f"--weights {args.output}/model_final.pth {_image_folder(dataset)} "
        "--output output/predictions"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
