#!/usr/bin/env python3
# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Run the CPU kernels on random small cases under AddressSanitizer and UBSan.

    python tools/sanitize_kernels.py [--cases 100000] [--seed 0] [--capability generic|avx2|avx512]

Builds the library with sanitizers in a temporary folder and runs the cases in a process with the
sanitizers preloaded, which also guards torch's tensors. Needs GCC. Every 20th case runs without the
compiled ops, too, and the results are compared, also with pycocotools and Detectron2. Every 20th has
arguments that do not fit: it must end with the same error with and without the compiled ops. Stops at
the first finding with the sanitizer's report and an error.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]


def run_cases(count: int, seed: int) -> None:
    """Forward and backward of ``count`` random cases, in this process."""
    import torch

    from mrcnn_ext.layers import kernel_status

    assert kernel_status()[0].loaded, kernel_status()[0].reason
    print(kernel_status()[0].reason, flush=True)
    torch.set_num_threads(2)
    torch.manual_seed(seed)
    generator = random.Random(seed)
    start = time.monotonic()
    for index in range(count):
        compare = index % 20 == 0
        run_case(generator, compare)
        masks_case(generator, compare)
        mask_targets_case(generator, compare)
        heatmap_peaks_case(generator, compare)
        if index % 20 == 10:
            bad_arguments_case(generator)
        if (index + 1) % max(count // 10, 1) == 0:
            print(f"{index + 1} cases, {time.monotonic() - start:.0f} s", flush=True)


def run_case(generator: random.Random, compare: bool) -> None:
    import torch

    from mrcnn_ext.layers import roi_align_pyramid
    from mrcnn_ext.layers.kernels import without_kernels

    pick = generator.choice
    dtype = pick([torch.float32, torch.float64, torch.float16, torch.bfloat16])
    layout = pick([torch.contiguous_format, torch.channels_last])
    images, channels = pick([1, 2, 3]), pick([1, 2, 7, 8, 16, 17, 31, 64, 65, 130])
    num_levels = pick([1, 1, 2, 3])
    height, width = generator.randint(1, 24), generator.randint(1, 24)
    features = [
        torch.randn(images, channels, max(height >> i, 1), max(width >> i, 1))
        .to(dtype=dtype, memory_format=layout)
        .requires_grad_()
        for i in range(num_levels)
    ]
    rois = make_rois(generator, images, height, width)
    if dtype == torch.float64:
        rois = rois.double()
    scales = [0.25 / 2**i for i in range(num_levels)]
    size = (generator.randint(1, 9), generator.randint(1, 9))
    ratio, aligned, box_size = pick([0, 0, 1, 2, 3, 40]), pick([False, True]), pick([16.0, 224.0])
    output = roi_align_pyramid(features, rois, scales, size, ratio, aligned, box_size)
    grad = torch.randn(output.shape).to(dtype)
    grads = torch.autograd.grad(output, features, grad)
    # With 40 x 40 samples a cell, torchvision's float32 sums are off by more than the tolerance.
    if compare and ratio < 40:
        with without_kernels():
            expected = roi_align_pyramid(features, rois, scales, size, ratio, aligned, box_size)
            expected_grads = torch.autograd.grad(expected, features, grad)
        tolerance = 0.06 if dtype in (torch.float16, torch.bfloat16) else 1e-3
        for a, b in zip([output, *grads], [expected, *expected_grads]):
            torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def masks_case(generator: random.Random, compare: bool) -> None:
    """Encode and paste masks of any size and value, in boxes anywhere."""
    import torch

    from mrcnn_ext.layers import masks_to_rle, paste_masks
    from mrcnn_ext.layers.kernels import without_kernels

    pick = generator.choice
    height, width = generator.randint(0, 40), generator.randint(0, 40)
    boxes = make_rois(generator, 1, height // 4, width // 4)[:, 1:]
    shape = (len(boxes), pick([1, 2, 7, 28, 31]), pick([1, 3, 14, 28, 33]))
    masks = torch.rand(shape) * pick([1, 1, 1, 1e-30, 1e30])
    if masks.numel() and generator.random() < 0.2:
        masks.view(-1)[generator.randrange(masks.numel())] = pick(
            [float("nan"), float("inf"), 3e38]
        )
    threshold = pick([0.0, 0.1, 0.5, 0.5, 0.9, 1.5, float("inf")])
    images = paste_masks(masks, boxes, (height, width), threshold)
    rles = masks_to_rle(masks, boxes, (height, width), threshold)
    assert len(images) == len(rles) == len(boxes)
    if compare and images.numel():
        import numpy as np
        from pycocotools import mask as mask_util

        with without_kernels():
            expected = paste_masks(masks, boxes, (height, width), threshold)
            assert masks_to_rle(masks, boxes, (height, width), threshold) == rles
        assert torch.equal(images, expected), (boxes, threshold)
        for rle, image in zip(rles, expected.numpy()):
            assert rle == mask_util.encode(np.asfortranarray(image, dtype=np.uint8))


def heatmap_peaks_case(generator: random.Random, compare: bool) -> None:
    """Find peaks of maps of any size, resized to any size, with NaN, infinities and extreme values."""
    import torch

    from mrcnn_ext.layers import bicubic_peaks
    from mrcnn_ext.layers.kernels import without_kernels

    pick = generator.choice
    shape = (pick([0, 1, 3]), pick([1, 2]), generator.randint(1, 20), generator.randint(1, 40))
    maps = torch.randn(shape) * pick([1, 1, 1e-30, 1e30])
    maps = maps.round() if generator.random() < 0.2 else maps
    odd = maps.numel() and generator.random() < 0.2
    if odd:
        number = generator.randrange(maps.numel())
        maps.view(-1)[number] = pick([float("nan"), float("inf"), -float("inf"), 3e38])
    sizes = torch.randint(1, pick([2, 30, 200]), (2, shape[0]))
    x, y, value = bicubic_peaks(maps, *sizes)
    for pixels, size in ((x, sizes[0]), (y, sizes[1])):
        assert ((pixels >= 0) & (pixels < size[:, None])).all()
    if compare:
        with without_kernels():
            other = bicubic_peaks(maps, *sizes)[2]
        # Infinities give NaN where they meet, which depends on what is computed.
        finite = maps.abs().flatten(2).amax(dim=2) < 1e38
        tolerance = 2e-5 * float(maps[finite].abs().max()) if finite.any() else 0.0
        torch.testing.assert_close(value[finite], other[finite], rtol=0, atol=tolerance)
        nan = maps.isnan().flatten(2).any(dim=2)
        assert bool(value[nan].isnan().all() and other[nan].isnan().all())
    if compare and not odd:
        for r, (width, height) in enumerate(sizes.T.tolist()):
            resized = torch.nn.functional.interpolate(
                maps[r : r + 1].double(), (height, width), mode="bicubic"
            )
            highest = resized[0].flatten(1).amax(dim=1).float()
            torch.testing.assert_close(
                value[r], highest, rtol=0, atol=1e-5 * float(maps[r].abs().max())
            )


def mask_targets_case(generator: random.Random, compare: bool) -> None:
    """Mask targets of random polygons and masks; with ``compare``, against Detectron2's."""
    import numpy as np
    import torch
    from detectron2.structures import BitMasks, PolygonMasks

    from mrcnn_ext.layers import PackedPolygons, bitmask_targets, polygon_mask_targets
    from mrcnn_ext.layers.kernels import without_kernels

    rng = np.random.default_rng(generator.getrandbits(32))
    count = generator.randint(1, 6)
    side = (generator.randint(1, 40), generator.randint(1, 40))
    detectron2s = compare and generator.random() < 0.5
    if detectron2s:
        side = (side[0], side[0])
    spread = 50.0 if detectron2s else generator.choice([0.1, 50.0, 1e4, 1e12, 1e300])
    polygons = [
        [spread * rng.uniform(-1, 1, 2 * rng.integers(3, 12)) for _ in range(rng.integers(0, 4))]
        for _ in range(count)
    ]
    corner, extent = rng.uniform(-60, 60, (count, 2)), rng.uniform(1, 90, (count, 2))
    boxes = torch.tensor(np.concatenate([corner, corner + extent], 1), dtype=torch.float32)
    if not detectron2s:
        kind = generator.random()
        if kind < 0.2:
            boxes[generator.randrange(count), generator.randrange(4)] = generator.choice(
                [float("nan"), float("inf"), -1e38]
            )
        elif kind < 0.4:
            boxes *= generator.choice([0.0, -1.0, 1e3, 1e30])
    index = torch.tensor(rng.integers(0, count, count))
    masks = torch.tensor(rng.random((count, *rng.integers(1, 60, 2))) < 0.5)
    packed = PackedPolygons.from_lists(polygons)
    from_polygons = polygon_mask_targets(packed, boxes, side, index)
    from_masks = bitmask_targets(masks, boxes, side, index)
    assert int(from_polygons.view(torch.uint8).max()) <= 1
    if compare:
        with without_kernels():
            assert torch.equal(polygon_mask_targets(packed, boxes, side, index), from_polygons)
            assert torch.equal(bitmask_targets(masks, boxes, side, index), from_masks)
    if detectron2s:
        expected = PolygonMasks(polygons)[index].crop_and_resize(boxes, side[0])
        assert torch.equal(from_polygons, expected)
        assert torch.equal(from_masks, BitMasks(masks)[index].crop_and_resize(boxes, side[0]))


def bad_arguments_case(generator: random.Random) -> None:
    """Hand an op something out of range: the same error, with and without the compiled ops."""
    import torch

    from mrcnn_ext import layers
    from mrcnn_ext.layers.kernels import without_kernels

    number = generator.choice([-(2**63), -(2**31), -1, 0, 3, 2**24, 2**31, 2**62])
    maps, rois = (
        torch.rand(3, 2, 9, 7),
        torch.tensor([[generator.choice([0.0, -1, 3]), 1, 1, 5, 5]]),
    )
    boxes, numbers = rois[:, 1:], torch.tensor([number])
    packed = layers.PackedPolygons.from_lists([[torch.rand(8).numpy() * 9]] * 3)
    wrong = layers.PackedPolygons(packed.points, packed.part_begin, torch.tensor([0, number]))
    calls = [
        lambda: layers.bitmask_targets(maps[:, 0] > 0.5, boxes, 7, numbers),
        lambda: layers.polygon_mask_targets(packed, boxes, 7, numbers),
        lambda: layers.polygon_mask_targets(wrong, boxes, 7),
        lambda: layers.bicubic_peaks(maps[:1], numbers, numbers),
        lambda: layers.roi_align_pyramid([maps], rois, [0.25], 2, number),
        lambda: layers.roi_align_pyramid([maps], rois, [0.25], min(abs(number), 2**40)),
        lambda: layers.paste_masks(maps[:1, 0], boxes, (9, number)),
        lambda: layers.masks_to_rle(maps[:1, 0], boxes, (number, 9)),
    ]
    if number in (0, 3):  # a good size, and a good instance
        calls = calls[:-2]
    call = generator.choice(calls)
    with without_kernels():
        expected = outcome(call)
    actual = outcome(call)
    assert type(actual) is type(expected), (actual, expected)
    if isinstance(actual, Exception):
        # Errors of the compiled ops begin with where they were raised.
        assert str(actual).endswith(str(expected)), (actual, expected)


def outcome(call):
    """What a function raises, or None."""
    try:
        call()
    except (RuntimeError, TypeError, ValueError) as error:
        return error
    return None


def make_rois(generator: random.Random, images: int, height: int, width: int):
    import torch

    rows = []
    for _ in range(generator.choice([0, 1, 2, 5, 12])):
        image = float(generator.randrange(images))
        box = [generator.uniform(-20, 4 * side + 20) for side in (width, height) * 2]
        kind = generator.random()
        if kind < 0.6:
            box = [
                min(box[0], box[2]),
                min(box[1], box[3]),
                max(box[0], box[2]),
                max(box[1], box[3]),
            ]
        elif kind < 0.65:
            box = [box[0], box[1], box[0], box[1]]
        elif kind < 0.7:
            box = [float(round(value)) for value in box]
        elif kind < 0.75:
            box = [value * generator.choice([1e2, 1e5, 1e12, 1e37]) for value in box]
        elif kind < 0.8:
            box[generator.randrange(4)] = generator.choice([float("nan"), float("inf"), -1e38])
        rows.append([image, *box])
    return torch.tensor(rows).reshape(-1, 5)


def runtime(name: str) -> str:
    command = [os.environ.get("CXX") or "g++", f"-print-file-name={name}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--capability", default="", choices=("", "generic", "avx2", "avx512"))
    parser.add_argument("--in-process", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.in_process:
        run_cases(args.cases, args.seed)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        build = [sys.executable, "mrcnn_ext/layers/build_kernels.py", "--sanitize", "--out", folder]
        subprocess.run(build, cwd=REPO, check=True)
        env = {
            **os.environ,
            "MRCNN_EXT_KERNEL_FOLDER": folder,
            "MRCNN_EXT_CPU_CAPABILITY": args.capability,
            "LD_PRELOAD": f"{runtime('libasan.so')} {runtime('libubsan.so')}",
            # Python and torch keep memory until the end, which is not a leak.
            "ASAN_OPTIONS": "detect_leaks=0,abort_on_error=0",
            "UBSAN_OPTIONS": "halt_on_error=1,print_stacktrace=1",
            "PYTHONPATH": str(REPO),
        }
        command = [sys.executable, "-W", "ignore", __file__, "--in-process"]
        command += ["--cases", str(args.cases), "--seed", str(args.seed)]
        result = subprocess.run(command, env=env, cwd=REPO)
    print("no findings" if result.returncode == 0 else f"failed with {result.returncode}")
    return result.returncode


if __name__ == "__main__":
    sys.exit(main())
