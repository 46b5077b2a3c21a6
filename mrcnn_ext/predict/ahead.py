# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Read ahead of the model and write behind it: threads with little in flight between them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Generic, TypeVar

__all__ = ["Behind", "ahead"]

Item = TypeVar("Item")
Result = TypeVar("Result")

_MOST = 4  # items
_LARGE = 1 << 26  # bytes in flight on one side; a single item may be larger


def ahead(
    items: Generator[Item, None, None], size: Callable[[Item], int]
) -> Generator[Item, None, None]:
    """Run a generator in a thread, some items ahead; their order stays.

    Args:
        items: is closed when this is.
        size: of an item in bytes. As many are made ahead as are of about the size of the last one
            within 64 MiB: 1 to 4.

    Yields:
        the items.
    """
    end = object()
    with ThreadPoolExecutor(1, "read") as pool:
        waiting: deque[Future] = deque([pool.submit(next, items, end)])
        try:
            while (item := waiting[0].result()) is not end:
                waiting.popleft()
                wanted = min(_MOST, max(1, _LARGE // max(1, size(item))))
                while len(waiting) < wanted:
                    waiting.append(pool.submit(next, items, end))
                yield item
        finally:
            pool.shutdown(cancel_futures=True)
            items.close()


class Behind(Generic[Result]):
    """Call functions in a thread, one after another. Leaving the block waits for them.

    If one raises, those after it are not called any more, and its error is raised here.
    """

    def __init__(self, done: Callable[[Result], None]) -> None:
        """
        Args:
            done: gets the results in their order, in the thread that submits.
        """
        self._done = done
        self._pool = ThreadPoolExecutor(1, "write")
        self._waiting: deque[tuple[Future, int]] = deque()
        self._in_flight = 0
        self._failed = False

    def submit(self, function: Callable[..., Result], *arguments, size: int = 0) -> None:
        """Have ``function(*arguments)`` called; wait first while too much is in flight.

        Args:
            size: of what the arguments hold, in bytes.
        """
        while self._waiting and (
            self._waiting[0][0].done()
            or len(self._waiting) >= _MOST
            or self._in_flight + size > _LARGE
        ):
            self._take()
        self._waiting.append((self._pool.submit(self._call, function, arguments), size))
        self._in_flight += size

    def _call(self, function: Callable[..., Result], arguments: tuple) -> Result:
        if self._failed:
            raise CancelledError
        try:
            return function(*arguments)
        except BaseException:
            self._failed = True
            raise

    def _take(self) -> None:
        future, size = self._waiting[0]
        result = future.result()  # an interruption while waiting loses nothing
        self._waiting.popleft()
        self._in_flight -= size
        self._done(result)

    def __enter__(self) -> Behind[Result]:
        return self

    def __exit__(self, kind, error, trace) -> None:
        # Whatever ended the block, what was submitted is done: that is what is not to be lost.
        try:
            self._pool.shutdown(wait=True)
        except BaseException:  # a signal; nobody else may write while the thread does
            self._pool.shutdown(wait=True)
            raise
        while self._waiting and (kind is None or self._waiting[0][0].exception() is None):
            self._take()
