# Copyright (c) The mrcnn_ext authors. SPDX-License-Identifier: Apache-2.0
"""Threads before and behind the model: order, what is in flight, errors, early ends."""

from __future__ import annotations

import threading
import time
from contextlib import closing

import pytest

from mrcnn_ext.predict.ahead import Behind, ahead


def _numbers(count: int, made: list, closed: list):
    try:
        for number in range(count):
            made.append(number)
            yield number
    finally:
        closed.append(threading.current_thread().name)


@pytest.mark.parametrize(("size", "most"), [(0, 4), (1 << 24, 4), (1 << 25, 2), (1 << 28, 1)])
def test_some_items_are_made_ahead_and_no_more(size, most):
    made, closed = [], []
    with closing(ahead(_numbers(20, made, closed), lambda _: size)) as items:
        for number in items:
            time.sleep(0.005)
            assert number < len(made) <= number + 1 + most
            if number == 5:
                break
    assert len(closed) == 1
    before = len(made)
    time.sleep(0.02)
    assert len(made) == before <= 6 + most


def test_items_come_in_order_from_another_thread():
    threads = set()

    def items():
        for number in range(50):
            threads.add(threading.current_thread().name)
            yield number

    assert list(ahead(items(), lambda _: 1)) == list(range(50))
    assert len(threads) == 1
    assert threading.current_thread().name not in threads


def test_an_error_of_the_reader_comes_where_its_item_would_be():
    def items():
        yield 1
        raise ValueError("cannot be read")

    got = ahead(items(), lambda _: 1)
    assert next(got) == 1
    with pytest.raises(ValueError, match="cannot be read"):
        next(got)


@pytest.mark.parametrize(("size", "most"), [(1, 4), (1 << 25, 2), (1 << 28, 1)])
def test_what_is_in_flight_behind_is_bounded(size, most):
    done, started = [], []

    def work(number):
        started.append(number)
        time.sleep(0.002)
        return number

    with Behind(done.append) as behind:
        for number in range(30):
            behind.submit(work, number, size=size)
            assert number + 1 - len(done) <= most
    assert done == started == list(range(30))


def test_what_was_submitted_is_done_whatever_ends_the_block():
    done = []

    def interrupted():
        with Behind(done.append) as behind:
            for number in range(3):
                behind.submit(lambda n: time.sleep(0.01) or n, number)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert done == [0, 1, 2]


def test_nothing_is_called_after_an_error_which_is_raised_once():
    done, called = [], []

    def work(number):
        called.append(number)
        if number == 2:
            raise OSError("full")
        return number

    def run():
        with Behind(done.append) as behind:
            for number in range(10):
                behind.submit(work, number)

    with pytest.raises(OSError, match="full"):
        run()
    assert called == [0, 1, 2]
    assert done == [0, 1]


def test_a_signal_while_the_last_ones_are_written_waits_for_them():
    done = []

    def slow(number):
        time.sleep(0.05)
        done.append(number)

    def interrupted():
        with Behind(lambda _: None) as behind:
            shutdown, calls = behind._pool.shutdown, []

            def signalled(**kwargs):
                calls.append(1)
                if len(calls) == 1:
                    raise KeyboardInterrupt
                shutdown(**kwargs)

            behind._pool.shutdown = signalled
            for number in range(2):
                behind.submit(slow, number)

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert done == [0, 1]
