"""Batches made ahead: the same, in order, and nothing left behind."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from worker.data.images import in_memory
from worker.data.prefetch import prefetch

LABELS = torch.zeros(40, dtype=torch.int64)
IMAGES = in_memory(torch.randint(0, 256, (40, 3, 8, 8)).to(torch.uint8), LABELS, LABELS)
ORDER = torch.randperm(40).split(7)


def ours() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("prefetch")}


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_batches_come_in_order(threads: int) -> None:
    made = list(prefetch(IMAGES.batch, ORDER, threads))
    assert len(made) == len(ORDER)
    for batch, indices in zip(made, ORDER, strict=True):
        assert torch.equal(batch, IMAGES.batch(indices))
    assert not ours()


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_order_does_not_depend_on_who_is_quick(threads: int) -> None:
    def batch(indices: Tensor) -> Tensor:
        time.sleep(0.002 * (int(indices) % 3))
        return indices

    assert [int(i) for i in prefetch(batch, torch.arange(12).split(1), threads)] == [*range(12)]


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_nothing_to_do(threads: int) -> None:
    assert list(prefetch(IMAGES.batch, [], threads)) == []
    assert not ours()


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_an_error_appears_in_its_place(threads: int) -> None:
    def batch(indices: Tensor) -> Tensor:
        if int(indices) == 4:
            raise RuntimeError("damaged")
        return indices

    made = prefetch(batch, torch.arange(9).split(1), threads)
    assert [int(next(made)) for _ in range(4)] == [0, 1, 2, 3]
    with pytest.raises(RuntimeError, match="damaged"):
        next(made)
    assert not ours()


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_so_does_an_error_of_the_order(threads: int) -> None:
    def order() -> Iterator[Tensor]:
        yield from torch.arange(3).split(1)
        raise RuntimeError("no more")

    made = prefetch(lambda indices: indices, order(), threads)
    assert [int(next(made)) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(RuntimeError, match="no more"):
        next(made)


@pytest.mark.parametrize("threads", [1, 3])
def test_it_looks_ahead_within_bounds(threads: int) -> None:
    asked: list[int] = []

    def order() -> Iterator[Tensor]:
        for number in range(50):
            asked.append(number)
            yield torch.tensor([number])

    made = prefetch(lambda indices: indices, order(), threads)
    assert not asked
    for number in range(5):
        assert int(next(made)) == number
        assert len(asked) == number + 1 + 2 * threads
    made.close()  # type: ignore[attr-defined]


def test_nothing_is_made_ahead_without_threads() -> None:
    asked: list[int] = []

    def batch(indices: Tensor) -> Tensor:
        asked.append(int(indices))
        assert threading.current_thread() is threading.main_thread()
        return indices

    made = prefetch(batch, torch.arange(9).split(1), 0)
    next(made)
    assert asked == [0]


def test_a_consumer_that_stops_early_leaves_no_thread() -> None:
    def broken() -> None:
        for _ in prefetch(IMAGES.batch, ORDER, 3):
            assert ours()
            break

    broken()
    gc.collect()
    assert not ours()


def test_workers_use_one_torch_thread_and_the_rest_as_many_as_before() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        seen: list[int] = []

        def batch(indices: Tensor) -> Tensor:
            seen.append(torch.get_num_threads())
            return indices

        list(prefetch(batch, torch.arange(8).split(1), 2))
        assert set(seen) == {1}
        assert torch.get_num_threads() == 3
        later: list[int] = []
        thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert later == [3]
    finally:
        torch.set_num_threads(before)
