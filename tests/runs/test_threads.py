"""Threads: as many as asked, here and in what is started from here; side by side, one each."""

import os
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch

from realm_lib.runs.threads import cores, one_thread_each, side_by_side, take_threads, workers


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


@pytest.mark.parametrize("number", [1, 2, 5])
def test_what_is_done_side_by_side_comes_in_its_order(number: int) -> None:
    def work(item: int) -> tuple[int, str]:
        time.sleep(0.01 * (4 - item))  # the first takes longest
        return item, threading.current_thread().name

    found = list(side_by_side(work, range(4), number))
    assert [item for item, _ in found] == [0, 1, 2, 3]
    assert ({name for _, name in found} == {threading.current_thread().name}) == (number == 1)


def test_as_many_as_asked_are_at_work_at_once_with_one_thread_each() -> None:
    meeting = threading.Barrier(3, timeout=60)

    def work(_: int) -> int:
        meeting.wait()
        return torch.get_num_threads()

    assert list(side_by_side(work, range(6), 3)) == [1] * 6


def test_a_failure_is_raised_in_its_place_and_who_stops_listening_leaves_the_rest_undone() -> None:
    done: list[int] = []

    def work(item: int) -> int:
        if item == 1:
            raise ValueError("one")
        done.append(item)
        return item

    found = side_by_side(work, range(100), 2)
    assert next(found) == 0
    with pytest.raises(ValueError, match="one"):
        next(found)
    assert len(done) < 10
    done.clear()
    found = side_by_side(work, range(2, 100), 2)
    assert next(found) == 2
    found.close()
    assert len(done) < 10


@pytest.mark.parametrize(
    ("weights", "device", "several"), [(1000, "cpu", True), (400_000_000, "cpu", False), (1000, "cuda", False)]
)
def test_small_models_on_a_processor_are_passed_through_several_times_at_once(
    weights: int, device: str, several: bool
) -> None:
    held = [torch.empty(weights, device="meta")]
    model = SimpleNamespace(parameters=lambda: held, device=torch.device(device))
    assert workers(model) == (min(cores(), 8) if several else 1)
