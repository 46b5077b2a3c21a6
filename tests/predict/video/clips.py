# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Small videos, and what a model might find in them."""

from __future__ import annotations

import struct
from fractions import Fraction

import cv2
import numpy as np
import torch
from detectron2.structures import Boxes, Instances

TICKS = 90000


def numbered(index: int, height: int = 64, width: int = 96) -> np.ndarray:
    """A frame that tells its number: 8 bits as black and white blocks; its corners have colours."""
    image = np.full((height, width, 3), 90, dtype=np.uint8)
    for bit in range(8):
        image[24:40, 8 + 10 * bit : 16 + 10 * bit] = 255 * (index >> bit & 1)
    image[:16, :24] = 255, 0, 0
    image[-16:, :24] = 0, 255, 0
    image[:16, -24:] = 0, 0, 255
    return image


def number_of(image: np.ndarray) -> int:
    scale = image.shape[1] / 96
    places = [(round(32 * scale), round((12 + 10 * bit) * scale)) for bit in range(8)]
    return sum((int(image[place].mean()) > 128) << bit for bit, place in enumerate(places))


def write_h264(file, times, *, options=None, shape=(64, 96), container=None) -> None:
    """Frames :func:`numbered` at ``times``, in seconds."""
    import av

    with av.open(str(file), "w", options=container or {}) as out:
        stream = out.add_stream("libx264", rate=25, options=options or {})
        stream.height, stream.width = shape
        stream.pix_fmt = "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, TICKS)
        for index, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(numbered(index, *shape), format="bgr24")
            frame.pts, frame.time_base = round(time * TICKS), Fraction(1, TICKS)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))


def set_matrix(file, a: int, b: int, c: int, d: int) -> None:
    """Write a display matrix into an mp4, as phones do."""
    data = bytearray(file.read_bytes())
    start = data.index(b"tkhd") + 4 + 40
    one = 1 << 16
    matrix = a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30
    data[start : start + 36] = struct.pack(">9i", *matrix)
    file.write_bytes(data)


def packets(file) -> list[tuple[int, int, float]]:
    """Place, size in bytes and time of the packets of a video, in the order of the file."""
    import av

    with av.open(str(file)) as opened:
        found = [p for p in opened.demux(opened.streams.video[0]) if p.size]
        return [(p.pos, p.size, float(p.pts * p.time_base)) for p in found]


def overwrite(file, place: int, size: int) -> None:
    data = bytearray(file.read_bytes())
    data[place : place + size] = bytes(size)
    file.write_bytes(data)


def read_times(file) -> list[float]:
    import av

    with av.open(str(file)) as opened:
        return [float(frame.time) for frame in opened.decode(video=0)]


def count(file) -> int:
    """Frames that can be decoded."""
    capture, frames = cv2.VideoCapture(str(file)), 0
    while capture.grab():
        frames += 1
    capture.release()
    return frames


def instances(shape, boxes, scores=None, classes=None, keypoints=None) -> Instances:
    """As a model gives them."""
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    scores = [0.9] * len(boxes) if scores is None else scores
    classes = [0] * len(boxes) if classes is None else classes
    fields = {
        "pred_boxes": Boxes(boxes),
        "scores": torch.tensor(scores, dtype=torch.float32),
        "pred_classes": torch.tensor(classes, dtype=torch.int64),
    }
    if keypoints is not None:
        fields["pred_keypoints"] = torch.tensor(keypoints, dtype=torch.float32)
    return Instances(shape[:2], **fields)
