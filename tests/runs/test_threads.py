"""Threads: as many as asked, here and in what is started from here; side by side, one each."""

import os
import threading
from collections.abc import Iterator

import pytest
import torch

from realm_lib.runs.threads import cores, one_thread_each, take_threads


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("count", [1, 3])
def test_torch_takes_as_many_as_it_is_told(count: int) -> None:
    take_threads(count)
    assert torch.get_num_threads() == count
    assert os.environ["OMP_NUM_THREADS"] == str(count)


def test_workers_have_one_thread_each_and_the_others_keep_theirs() -> None:
    torch.set_num_threads(3)
    with one_thread_each(2) as pool:
        meeting = threading.Barrier(2, timeout=60)

        def work(_: int) -> int:
            meeting.wait()
            return torch.get_num_threads()

        assert list(pool.map(work, range(2))) == [1, 1]
    assert torch.get_num_threads() == 3
    found: list[int] = []
    later = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert found == [3]


def test_there_is_a_core() -> None:
    assert 1 <= cores() <= (os.cpu_count() or 1)
