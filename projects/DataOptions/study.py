#!/usr/bin/env python3
# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Paired trainings: what augmentation, boxes instead of masks, and repeated images change.

    python projects/DataOptions/study.py [--output output/data_options] [--seeds 3]
        [--iterations 600] [--jobs 2] [--only train|report] [KEY VALUE …]

Written to the folder: tables.md, results.json, runs/, data/. Trainings that are there are not
repeated, and interrupted ones go on where they were; --only report makes tables of what is there so
far.

Exit code 0: done; 1: it failed, the message says where and what to do; 130: interrupted.
"""

from __future__ import annotations

import sys
from pathlib import Path

from study_data import write_data

from mrcnn_ext.compare.paired_study import Study, study_main

STUDY = Study(
    configs=Path(__file__).resolve().parent / "configs",
    trainings=("baseline", "scale_jitter", "copy_paste", "half_boxes", "repeat_factor"),
    measures={
        "segm/AP": "mask AP",
        "segm/AP50": "mask AP50",
        "bbox/AP": "box AP",
        "bbox/AP-crane": "box AP of the rare class",
    },
    rows={
        "baseline": ("baseline", ""),
        "scale jitter": ("scale_jitter", ""),
        "scale jitter, copy-paste": ("copy_paste", ""),
        "half of the masks": ("half_boxes", ""),
        "repeat factor": ("repeat_factor", ""),
    },
    pairs=(
        ("scale jitter", "baseline"),
        ("scale jitter, copy-paste", "baseline"),
        ("scale jitter, copy-paste", "scale jitter"),
        ("half of the masks", "baseline"),
        ("repeat factor", "baseline"),
    ),
    prepare=write_data,
)


if __name__ == "__main__":
    sys.exit(study_main(STUDY, __doc__, "output/data_options", 600))
