# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""The options of ``python -m mrcnn_ext.predict`` for videos."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence

from ...errors import ConfigError
from ..sources import Source
from .clip import TrackOptions
from .smooth import BETA, MIN_CUTOFF
from .track import check_tracker

__all__ = ["add_video_options", "check_smoothed_model", "check_video_options"]
__all__ += ["named_video_options", "track_options"]


def add_video_options(add: Callable[..., object]) -> None:
    """
    Args:
        add: the parser's ``add_argument``.
    """
    add("--every", type=int, default=1, metavar="N", help="of a video take every Nth frame")
    add("--track", action="store_true", help="follow objects over the frames of videos: each keeps "
        "its id and colour (needs mrcnn_ext[track])")  # fmt: skip
    add("--smooth-keypoints", action="store_true", help="steady the keypoints of tracked objects "
        "with the One Euro filter (needs --track)")  # fmt: skip
    add("--smoothing", nargs=2, type=float, metavar=("HZ", "BETA"),
        help="settings of that filter: the frequency below which a keypoint at rest may move, and by "
        "how many Hz that rises for a speed of one object's side a second "
        f"(default: {MIN_CUTOFF:g} {BETA:g})")  # fmt: skip


def check_video_options(args: argparse.Namespace, sources: Sequence[Source]) -> None:
    """
    Raises:
        ConfigError: names the option, and what was expected.
    """
    if args.smooth_keypoints and not args.track:
        raise ConfigError("--smooth-keypoints needs --track: it must know which object is which.")
    if args.smoothing is not None:
        if not args.smooth_keypoints:
            raise ConfigError("--smoothing is of --smooth-keypoints, which is not given.")
        cutoff, beta = args.smoothing
        if not (0 < cutoff < math.inf and 0 <= beta < math.inf):
            raise ConfigError(
                f"--smoothing is {cutoff:g} {beta:g}; expected HZ above 0, and BETA of 0 or more."
            )
    if args.track:
        if not any(source.is_video for source in sources):
            raise ConfigError("--track is for videos, but there is none among INPUT.")
        check_tracker()


def check_smoothed_model(args: argparse.Namespace, model: object) -> None:
    """
    Args:
        model: that was loaded; of one that does not say whether it has keypoints nothing is known.

    Raises:
        ConfigError: there are no keypoints to smooth.
    """
    heads = getattr(model, "roi_heads", None)
    if args.smooth_keypoints and not getattr(heads, "keypoint_on", True):
        raise ConfigError("--smooth-keypoints: the model has no keypoints (MODEL.KEYPOINT_ON).")


def track_options(args: argparse.Namespace) -> TrackOptions | None:
    """What they ask for."""
    if not args.track:
        return None
    cutoff, beta = args.smoothing or (MIN_CUTOFF, BETA)
    return TrackOptions(args.smooth_keypoints, cutoff, beta)


def named_video_options(args: argparse.Namespace) -> dict[str, str]:
    """What run.json says of them, beside --every; nothing where nothing is asked for."""
    track = track_options(args)
    if track is None:
        return {}
    smooth = f"{track.min_cutoff:g} {track.beta:g}" if track.smooth else "None"
    return {"--track": "True", "--smooth-keypoints": smooth}
