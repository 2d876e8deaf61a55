"""Batches made ahead of their use, by threads: decoding and copying leave the interpreter free."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor

import torch
from torch import Tensor

from worker.data.images import Batch


def prefetch(
    batch: Batch, indices: Iterable[Tensor], threads: int
) -> Generator[Tensor, None, None]:
    """The batches in their order, at most 2 × `threads` of them ahead of the consumer.

    An error appears where its batch would have. With `threads` 0 nothing is made ahead. A consumer
    that stops early closes the generator, or lets go of it, and no thread stays behind.
    """
    if threads == 0:
        yield from map(batch, indices)
        return
    pool = ThreadPoolExecutor(threads, thread_name_prefix="prefetch")
    waiting: deque[Future[Tensor]] = deque()
    rest = iter(indices)
    try:
        _one_torch_thread_each(pool, threads)
        for _ in range(2 * threads):
            _order(pool, batch, rest, waiting)
        while waiting:
            yield _serve(pool, batch, rest, waiting)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _order(
    pool: Executor, batch: Batch, rest: Iterator[Tensor], waiting: deque[Future[Tensor]]
) -> None:
    """Have one more batch made; what goes wrong in naming it is told in its place, too."""
    try:
        waiting.append(pool.submit(batch, next(rest)))
    except StopIteration:
        return
    except Exception as error:
        waiting.append(Future())
        waiting[-1].set_exception(error)


def _serve(
    pool: Executor, batch: Batch, rest: Iterator[Tensor], waiting: deque[Future[Tensor]]
) -> Tensor:
    # A function of its own: a name in the generator would keep the tensor alive for one turn more.
    made = waiting.popleft().result()
    _order(pool, batch, rest, waiting)
    return made


def _one_torch_thread_each(pool: ThreadPoolExecutor, threads: int) -> None:
    """Start all the pool's threads and let torch use no others in them.

    torch's number of threads belongs to the thread that sets it, and is what threads that come
    later start from; so the caller's is set again at the end.
    """
    barrier = threading.Barrier(threads)

    def settle() -> None:
        torch.get_num_threads()  # a thread's first question to torch sets it back to the common one
        torch.set_num_threads(1)
        barrier.wait()  # keeps this thread busy until the others are there as well

    for started in [pool.submit(settle) for _ in range(threads)]:
        started.result()
    torch.set_num_threads(torch.get_num_threads())
