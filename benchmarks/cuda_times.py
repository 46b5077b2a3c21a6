# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Device times that launches do not hide: what the benchmarks share on CUDA.

A RoIAlign takes a tenth of a millisecond on a large GPU, about as long as Python takes to ask for it.
Between two synchronizations one would measure Python. So several calls are recorded into a CUDA graph,
whose replay needs nothing of the host. What looks at results on the host, as Detectron2's pooler does,
cannot be recorded: such calls are queued one behind the other, and the waiting counts, since it is part
of what they cost.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch

__all__ = ["graph_ms", "l2_bandwidth", "queued_ms"]


def _between_events(function: Callable[[], object]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    function()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def _counts(milliseconds: float) -> tuple[int, int]:
    """Calls in a row and rounds of them, for a call of that length: about half a second in all."""
    calls = max(1, min(10, int(20 / milliseconds)))
    return calls, max(3, min(15, int(500 / milliseconds / calls)))


def queued_ms(function: Callable[[], object]) -> float:
    """Median over rounds of the time of a call, with several in the queue behind each other."""
    function()
    calls, rounds = _counts(_between_events(function))

    def many() -> None:
        for _ in range(calls):
            function()

    return statistics.median(_between_events(many) for _ in range(rounds)) / calls


def graph_ms(function: Callable[[], object], stream: torch.cuda.Stream) -> float:
    """Median over replays of the time of a call, from a graph of several of them.

    Args:
        function: what is recorded; it must not wait for the device.
        stream: where it is recorded. For a backward pass, the stream of its forward pass.
    """
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        for _ in range(2):
            function()
        calls, rounds = _counts(_between_events(function))
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for _ in range(calls):
            function()
    graph.replay()
    median = statistics.median(_between_events(graph.replay) for _ in range(rounds)) / calls
    del graph
    torch.cuda.synchronize()
    return median


def l2_bandwidth() -> float:
    """Bytes a second that a copy reads and writes between two blocks that stay in the L2 cache."""
    size = min(torch.cuda.get_device_properties(0).L2_cache_size // 8, 8 * 2**20)
    source = torch.randn(size // 4, device="cuda")
    target = torch.empty_like(source)

    def copy_often() -> None:  # one copy is too short for an event to measure
        for _ in range(50):
            target.copy_(source)

    return 50 * 2 * source.numel() * 4 / (graph_ms(copy_often, torch.cuda.Stream()) / 1e3)
