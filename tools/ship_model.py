#!/usr/bin/env python3
# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Write a trained model into the package: float16 safetensors, tensors only.

    python tools/ship_model.py --weights output/…/model_final.pth --name person_pose_lite0

The name must be in mrcnn_ext/checkpoint/shipped_weights.py; put the sha256 that is printed there.
"""

from __future__ import annotations

import argparse
import sys

from detectron2.modeling import build_model

from mrcnn_ext.checkpoint import load_weights, shipped_model, write_shipped
from mrcnn_ext.config.load import load_config
from mrcnn_ext.errors import ConfigError, WeightsError

_LARGEST = 16 * 2**20


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", required=True, help="checkpoint of the training")
    parser.add_argument("--name", required=True)
    args = parser.parse_args()
    try:
        shipped = shipped_model(args.name)
        cfg = load_config(shipped.config)
        cfg.MODEL.DEVICE = "cpu"
        model = build_model(cfg)
        load_weights(model, args.weights, complete=True)
        found = write_shipped(model.state_dict(), shipped.file)
    except (ConfigError, WeightsError) as error:
        print(f"ship_model: {error}", file=sys.stderr)
        return 2
    size = shipped.file.stat().st_size
    print(f"{shipped.file}: {size / 2**20:.1f} MiB\nsha256 {found}")
    if size > _LARGEST:
        print(f"ship_model: larger than {_LARGEST / 2**20:.0f} MiB", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
