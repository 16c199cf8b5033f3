import os
import signal

import faiss
import pytest

from hercules_scale.clustering.parallel_blocks import map_blocks


@pytest.mark.parametrize("threads", [1, 2])
def test_blocks_cover_all_rows_in_order(threads: int) -> None:
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(threads)
    try:
        found = map_blocks(lambda rows: list(range(10))[rows], 10, 4)
        assert found == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
        assert map_blocks(lambda rows: rows, 0, 4) == []
        with pytest.raises(ZeroDivisionError):
            map_blocks(lambda rows: 1 // rows.start, 10, 4)
    finally:
        faiss.omp_set_num_threads(before)


def test_a_forked_process_has_threads_of_its_own() -> None:
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(2)
    try:
        map_blocks(lambda rows: rows.start, 10, 1)
        child = os.fork()
        if child == 0:
            # Ended by itself if it waits for threads that are not there.
            signal.alarm(20)
            os._exit(0 if map_blocks(lambda rows: rows.start, 3, 1) == [0, 1, 2] else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        faiss.omp_set_num_threads(before)
