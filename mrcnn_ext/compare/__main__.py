# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Compare mask heads, or keypoint heads: paired trainings, one table, one page.

    python -m mrcnn_ext.compare --base configs/Shapes/mask_rcnn_Lite0_FPN.yaml \\
        --heads MrcnnExtFCNMaskHead wide:"MODEL.ROI_MASK_HEAD.CONV_DIM 128" \\
        --seeds 3 --iterations 600 --mode frozen --output output/compare [KEY VALUE …]

The first head is the baseline. A head is a registered name (HEAD), NAME=HEAD or NAME=FILE.yaml, each
perhaps with keys of its own (:"KEY VALUE …"), or NAME:"KEY VALUE …" for the base config's head. What
is there is not repeated: an interrupted comparison goes on, and another head or seed costs only its
own runs. KEY VALUE … at the end hold for all trainings.

Ending it ends its trainings, too. One process works in the output folder.

Exit code 0: done; 1: it failed, the message says where and what to do; 130, 143, 129: ended by
SIGINT, SIGTERM, SIGHUP.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.console import Console

from ..command_line import (
    TRUST_PICKLE,
    add_import_option,
    add_output_option,
    command_parser,
    import_all,
    open_standard_files,
    run_until_stopped,
)
from ..errors import ConfigError, DataError, WeightsError
from ..files import only_process, remove_leftovers, temporary_folder
from ..job_runner import JobError
from ..stop_signals import StopSignals
from .checks import check_plan, open_folder
from .forms import as_rich
from .kinds import HEAD_KINDS
from .plan import MODES, Plan, parse_variant
from .report import update_tables, write_report
from .schedule import evaluate_only, train_all

__all__ = ["main"]

STEPS = ("train", "evaluate", "report")


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("mrcnn_ext.compare", __doc__)
    add = parser.add_argument
    add("--base", required=True, help="yaml config of everything but the heads")
    add("--heads", required=True, nargs="+", metavar="HEAD", help="see above")
    add("--part", choices=sorted(HEAD_KINDS), default="mask",
        help="what is compared (default: mask)")  # fmt: skip
    add_output_option(parser, type=Path, default=Path("output/compare"))
    add("--seeds", type=int, default=3, help="trainings of each head")
    add("--iterations", type=int, help="of each training (default: the config's)")
    add("--mode", choices=MODES, default="frozen",
        help="frozen: heads on one detector; end_to_end: whole models")  # fmt: skip
    add("--detector", default="", help="weights to freeze (default: trained first)")
    add("--detector-iterations", type=int, help="(default: the config's)")
    add("--held-out", default="", metavar="CLASSES",
        help="names or ids, with commas: masks of these classes train no head")  # fmt: skip
    add("--jobs", type=int, default=1, help="trainings at a time")
    add("--only", choices=STEPS, help="one step (default: all)")
    add_import_option(parser, "heads or data sets", several=True)
    add("--trust-pickle", action="store_true", help=TRUST_PICKLE)
    add("--no-optimize", action="store_true", help="evaluate models as trained: slower, see "
        "docs/deployment.md")  # fmt: skip
    add("--set", dest="opts", nargs="+", default=[], metavar="KEY VALUE",
        help="config overrides for all trainings; may also stand at the end")  # fmt: skip
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    open_standard_files()
    args, rest = _parser().parse_known_args(argv)
    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = 120  # of a file nobody knows the width

    def run(signals: StopSignals) -> int:
        plan = _plan(args, rest)
        check_plan(plan)
        with only_process(plan.output):
            open_folder(plan)
            _run(plan, args.only, console, signals)
        return 0

    def ended(stop: KeyboardInterrupt) -> str:
        return f"\nEnded by {stop or 'SIGINT'}; the same command goes on with what is missing."

    errors = (ConfigError, DataError, WeightsError, JobError)
    return run_until_stopped("compare", run, errors=errors, ended=ended)


def _plan(args: argparse.Namespace, rest: list[str]) -> Plan:
    imports = tuple(str(Path(n).resolve()) if n.endswith(".py") else n for n in args.imports)
    import_all(imports)
    heads, opts = _split(args.heads)
    opts += [*args.opts, *rest]
    if len(opts) % 2 or any(o.startswith("--") for o in opts[::2]):
        raise ConfigError(f"arguments {opts} are no KEY VALUE pairs, and no options: see --help.")
    return Plan(
        base=args.base,
        variants=tuple(parse_variant(text, HEAD_KINDS[args.part]) for text in heads),
        output=args.output,
        seeds=args.seeds,
        iterations=args.iterations,
        mode=args.mode,
        detector=str(Path(args.detector).resolve()) if args.detector else "",
        detector_iterations=args.detector_iterations,
        held_out=tuple(x.strip() for x in args.held_out.split(",") if x.strip()),
        opts=tuple(opts),
        imports=imports,
        jobs=args.jobs,
        kind=HEAD_KINDS[args.part],
        trust_pickle=args.trust_pickle,
        optimized=not args.no_optimize,
    )


def _split(heads: list[str]) -> tuple[list[str], list[str]]:
    """KEY VALUE … after the heads is not a head: keys are in capitals and have dots."""
    for place, text in enumerate(heads):
        if ":" not in text and "=" not in text and "." in text and text.upper() == text:
            return heads[:place], heads[place:]
    return heads, []


def _run(plan: Plan, only: str | None, console: Console, signals: StopSignals) -> None:
    for folder in (plan.output, plan.output / "pictures"):
        remove_leftovers(folder)
    with temporary_folder(plan.output) as temporary:
        how = {"signals": signals, "env": {"TMPDIR": str(temporary)}}
        if only in (None, "train"):
            done = partial(_partial, plan, console)
            train_all(plan, evaluate=only is None, console=console, on_done=done, **how)
        if only == "evaluate":
            missing = evaluate_only(plan, console=console, **how)
            if missing:
                console.print(f"not trained yet: {', '.join(missing)}", markup=False)
    if only == "train":
        return
    made = write_report(plan, check=signals.check)
    for named in made:
        console.print()
        console.print(as_rich(named), soft_wrap=False)
        console.print(named.note, style="dim", markup=False, soft_wrap=False)
    console.print(f"\n{plan.output / 'report.html'}: the same with pictures", markup=False)
    console.print(f"{plan.output / 'results.md'}, results.json, pictures/", markup=False)


def _partial(plan: Plan, console: Console) -> None:
    """Tables of what is there so far; the first is shown."""
    made = update_tables(plan)
    console.print(as_rich(made[0]), soft_wrap=False)


if __name__ == "__main__":
    sys.exit(main())
