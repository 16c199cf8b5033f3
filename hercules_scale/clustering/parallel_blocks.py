"""Work on blocks of rows, shared by the threads that this process may use."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache, partial
from typing import TypeVar

from threadpoolctl import threadpool_limits

from hercules_scale.clustering.faiss_import import faiss

T = TypeVar("T")


def map_blocks(work: Callable[[slice], T], n_rows: int, block_rows: int) -> list[T]:
    """Return the results of a function over blocks of rows, in their order.

    As many threads as faiss would use share the blocks, and faiss uses one thread in each. So the
    work between searches of faiss runs in parallel too.

    Args:
        work: Function of one block, independent of the results of other blocks.
        n_rows: Number of rows.
        block_rows: Rows of a block; the last block may have fewer.
    """
    blocks = [slice(start, start + block_rows) for start in range(0, n_rows, block_rows)]
    n_threads = faiss.omp_get_max_threads()
    if n_threads == 1 or len(blocks) <= 1:
        return [work(block) for block in blocks]
    return list(_pool(n_threads).map(work, blocks))


@contextmanager
def threads(n_threads: int) -> Iterator[None]:
    """Use ``n_threads`` threads in ``map_blocks``, faiss and numpy's products, within the
    context."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(n_threads)
    try:
        with threadpool_limits(n_threads, "blas"):
            yield
    finally:
        faiss.omp_set_num_threads(before)


def one_product_thread() -> threadpool_limits:
    """Use one thread in each of numpy's products within the context.

    The last digits of a product depend on the number of its threads.
    """
    return threadpool_limits(1, "blas")


@cache
def _pool(n_threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(n_threads, "blocks", partial(faiss.omp_set_num_threads, 1))


# A forked process has none of its parent's threads, and would wait for them forever.
os.register_at_fork(after_in_child=_pool.cache_clear)
