#!/usr/bin/env python3
# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Paired trainings: what moving average, AdamW and accumulation change on the synthetic set.

    python projects/TrainingOptions/study.py [--output output/training_options] [--seeds 3]
        [--iterations 400] [--jobs 2] [--only train|report] [KEY VALUE …]

Written to the folder: tables.md, results.json, runs/. Trainings that are there are not repeated, and
interrupted ones go on where they were; --only report makes tables of what is there so far.

Exit code 0: done; 1: it failed, the message says where and what to do; 130: interrupted.
"""

from __future__ import annotations

import sys
from pathlib import Path

from mrcnn_ext.compare.paired_study import Study, study_main

STUDY = Study(
    configs=Path(__file__).resolve().parent / "configs",
    trainings=("sgd", "adamw_cosine", "batch_of_4", "accumulated", "accumulated_whole_batch"),
    last=("accumulated_whole_batch",),
    measures={"segm/AP": "mask AP", "segm/AP50": "mask AP50", "bbox/AP": "box AP"},
    rows={
        "SGD, batch of 2": ("sgd", ""),
        "its moving average": ("sgd", "ema/"),
        "AdamW, cosine, batch of 2": ("adamw_cosine", ""),
        "AdamW's moving average": ("adamw_cosine", "ema/"),
        "SGD, batch of 4": ("batch_of_4", ""),
        "2 parts of 2": ("accumulated", ""),
        "2 parts of 2, whole_batch": ("accumulated_whole_batch", ""),
    },
    pairs=(
        ("its moving average", "SGD, batch of 2"),
        ("AdamW, cosine, batch of 2", "SGD, batch of 2"),
        ("AdamW's moving average", "AdamW, cosine, batch of 2"),
        ("2 parts of 2", "SGD, batch of 4"),
        ("2 parts of 2, whole_batch", "SGD, batch of 4"),
    ),
)


if __name__ == "__main__":
    sys.exit(study_main(STUDY, __doc__, "output/training_options", 400))
