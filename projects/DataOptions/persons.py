#!/usr/bin/env python3
# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Paired trainings on photos of persons: the two options that changed most on the synthetic set.

    python projects/DataOptions/persons.py [--output output/data_options_persons] [--seeds 3]
        [--iterations 600] [--jobs 2] [--only train|report] [KEY VALUE …]

Needs COCO's person keypoint files, or others of their names, where Detectron2 expects them
(DETECTRON2_DATASETS). Trains on 120 of its images, evaluates on all of keypoints_coco_2017_val.
Written to the folder: as study.py does.

Exit code 0: done; 1: it failed, the message says where and what to do; 130: interrupted.
"""

from __future__ import annotations

import sys
from pathlib import Path

from study_data import write_person_data

from mrcnn_ext.compare.paired_study import Study, study_main

STUDY = Study(
    configs=Path(__file__).resolve().parent / "configs" / "persons",
    trainings=("baseline", "scale_jitter", "copy_paste"),
    measures={"segm/AP": "mask AP", "segm/AP50": "mask AP50", "bbox/AP": "box AP"},
    rows={
        "baseline": ("baseline", ""),
        "scale jitter": ("scale_jitter", ""),
        "scale jitter, copy-paste": ("copy_paste", ""),
    },
    pairs=(
        ("scale jitter", "baseline"),
        ("scale jitter, copy-paste", "baseline"),
        ("scale jitter, copy-paste", "scale jitter"),
    ),
    prepare=write_person_data,
)


if __name__ == "__main__":
    sys.exit(study_main(STUDY, __doc__, "output/data_options_persons", 600))
