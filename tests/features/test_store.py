"""The feature store: found again whatever the order, whole after a kill, shared by processes, honest about damage."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from realm_lib.features.store import FeatureStore, FeatureStoreError, FeatureTable, text_key

IDENTITY = {"model_id": "small", "revision": None, "max_length": 128}


def open_table(folder: Path, width: int = 1, **more: Any) -> FeatureTable:
    return FeatureStore(folder).table("score", {**IDENTITY, **more}, width)


def key(number: int) -> bytes:
    return text_key("a prompt", f"response {number}")


def value(numbers: Any, width: int = 1) -> NDArray[np.float32]:
    """The value that belongs to each number; no two rows and no two columns are equal."""
    column = np.asarray(numbers, dtype=np.float32)[:, None]
    return np.concatenate([column + np.float32(place) / 8 for place in range(width)], axis=1)


@pytest.mark.parametrize("width", [1, 3, 384])
def test_values_come_back_in_any_order_and_as_often_as_asked(tmp_path: Path, width: int) -> None:
    table = open_table(tmp_path, width)
    table.put([key(n) for n in range(1200)], value(range(1200), width))
    asked = np.random.default_rng(0).integers(0, 1200, size=3000)
    found = table.get([key(n) for n in asked])
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, value(asked, width))
    assert len(table) == 1200


def test_values_come_back_bit_for_bit(tmp_path: Path) -> None:
    values = np.array([[0.1], [-0.0], [1e-45], [3.4028235e38], [np.pi]], dtype=np.float32)
    open_table(tmp_path).put([key(n) for n in range(5)], values)
    assert open_table(tmp_path).get([key(n) for n in range(5)]).tobytes() == values.tobytes()


def test_nothing_asked_and_nothing_put(tmp_path: Path) -> None:
    table = open_table(tmp_path, 2)
    table.put([], np.empty((0, 2), dtype=np.float32))
    assert table.get([]).shape == (0, 2)
    assert len(table) == 0


def test_an_unknown_key_is_a_key_error(tmp_path: Path) -> None:
    table = open_table(tmp_path)
    table.put([key(1)], value([1]))
    assert key(1) in table
    assert key(2) not in table
    with pytest.raises(KeyError):
        table.get([key(1), key(2)])


def test_the_first_value_of_a_key_counts(tmp_path: Path) -> None:
    table = open_table(tmp_path)
    table.put([key(1), key(1)], value([1, 2]))
    table.put([key(1)], value([3]))
    for seen in (table, open_table(tmp_path)):
        assert seen.get([key(1)]) == 1
        assert len(seen) == 1


def test_keys_tell_texts_apart() -> None:
    texts = [("a", "b"), ("ab",), ("ab", ""), ("", "ab"), ("a", "b", ""), ("a\nb",), ('a","b',), ("\ud800",), ("é",)]
    assert len({text_key(*parts) for parts in texts}) == len(texts)
    assert all(len(text_key(*parts)) == 16 for parts in texts)
    # What is in users' caches is found by these bytes: a change would make it all useless.
    assert text_key("prompt", "response").hex() == "77908e07439661a13c24bcfbfebf36b3"


# What may not get in


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
def test_a_value_that_is_no_number_stores_nothing(tmp_path: Path, bad: float) -> None:
    table = open_table(tmp_path)
    values = np.array([[1.0], [bad], [3.0]])
    with np.errstate(over="ignore"), pytest.raises(ValueError, match="1 of 3 values are NaN or infinite; nothing was"):
        table.put([key(n) for n in range(3)], values)
    assert len(table) == 0
    assert len(open_table(tmp_path)) == 0


@pytest.mark.parametrize("shape", [(2,), (2, 2), (3, 1), (1, 1), (2, 1, 1)])
def test_a_wrong_shape_stores_nothing(tmp_path: Path, shape: tuple[int, ...]) -> None:
    table = open_table(tmp_path)
    with pytest.raises(ValueError, match=r"expected values of shape \(2, 1\), got"):
        table.put([key(1), key(2)], np.zeros(shape, dtype=np.float32))
    assert len(open_table(tmp_path)) == 0


def test_a_batch_that_fails_half_way_stores_nothing(tmp_path: Path) -> None:
    table = open_table(tmp_path)
    table.put([key(0)], value([0]))
    with pytest.raises(FeatureStoreError, match=r"cannot be written.*1 values are safe"):
        table.put([key(1), None], value([1, 2]))  # type: ignore[list-item]
    assert key(1) not in open_table(tmp_path)
    table.put([key(1)], value([1]))
    assert len(open_table(tmp_path)) == 2


# One file an identity


def test_another_identity_is_another_file(tmp_path: Path) -> None:
    first = open_table(tmp_path)
    first.put([key(1)], value([1]))
    others = [
        open_table(tmp_path, max_length=256),
        open_table(tmp_path, revision="abc"),
        open_table(tmp_path, quantization="4bit"),
        FeatureStore(tmp_path).table("embedding", IDENTITY, 1),
    ]
    assert len({table.path for table in [first, *others]}) == 5
    assert all(key(1) not in table for table in others)
    same = FeatureStore(tmp_path).table("score", dict(reversed(IDENTITY.items())), 1)
    assert same.path == first.path
    assert key(1) in same


def test_another_width_or_a_renamed_file_is_refused(tmp_path: Path) -> None:
    table = open_table(tmp_path)
    table.close()
    with pytest.raises(FeatureStoreError, match="belongs to another model or width"):
        open_table(tmp_path, width=2)
    other = open_table(tmp_path, max_length=1)
    other.close()
    shutil.copy(other.path, table.path)
    with pytest.raises(FeatureStoreError, match="belongs to another model or width"):
        open_table(tmp_path)


# Damage


def filled(folder: Path, count: int = 2000) -> Path:
    table = open_table(folder)
    table.put([key(n) for n in range(count)], value(range(count)))
    table.close()
    return table.path


def test_a_file_that_is_no_store_is_a_clear_error(tmp_path: Path) -> None:
    path = filled(tmp_path)
    path.write_bytes(b"these are not the scores that you are looking for" * 100)
    with pytest.raises(FeatureStoreError, match=r"\.sqlite: .*cannot be opened.*delete it: its values are computed"):
        open_table(tmp_path)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_truncated_file_is_a_clear_error(tmp_path: Path, share: float) -> None:
    path = filled(tmp_path)
    os.truncate(path, int(path.stat().st_size * share))
    with pytest.raises(FeatureStoreError, match=f"{path}.*[Dd]elete"):
        open_table(tmp_path).get([key(n) for n in range(2000)])


def test_overwritten_pages_are_a_clear_error(tmp_path: Path) -> None:
    path = filled(tmp_path)
    content = bytearray(path.read_bytes())
    content[12_288:28_672] = bytes(16_384)
    path.write_bytes(content)
    with pytest.raises(FeatureStoreError, match=f"{path}.*[Dd]elete"):
        open_table(tmp_path).get([key(n) for n in range(2000)])


@pytest.mark.parametrize(
    "harm", ["DELETE FROM entries WHERE rowid = 7", "UPDATE entries SET value = x'00' WHERE rowid = 7"]
)
def test_a_value_that_is_gone_is_never_made_up(tmp_path: Path, harm: str) -> None:
    path = filled(tmp_path)
    table = open_table(tmp_path)
    with sqlite3.connect(path) as connection:
        connection.execute(harm)
    with pytest.raises(FeatureStoreError, match="values are missing or of another width"):
        table.get([key(n) for n in range(2000)])


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("")
    with pytest.raises(FeatureStoreError, match="cannot be opened"):
        open_table(tmp_path / "cache")


# A full disk


def fill(table: FeatureTable, committed: list[int]) -> None:
    """Put batches of 100 until the table refuses, noting what went in."""
    for start in range(0, 100_000, 100):
        table.put([key(n) for n in range(start, start + 100)], value(range(start, start + 100)))
        committed.extend(range(start, start + 100))


def test_a_full_file_keeps_what_was_committed_and_goes_on_later(tmp_path: Path) -> None:
    table = open_table(tmp_path)
    table._connection.execute("PRAGMA max_page_count = 40")
    committed: list[int] = []
    with pytest.raises(FeatureStoreError, match=r"full\. \d+ values are safe; free space and rerun"):
        fill(table, committed)
    stored = len(committed)
    assert 0 < stored < 100_000
    table._connection.execute("PRAGMA max_page_count = 100000")
    table.put([key(-1)], value([-1]))
    for seen in (table, open_table(tmp_path)):
        assert len(seen) == stored + 1
        np.testing.assert_array_equal(seen.get([key(n) for n in range(stored)]), value(range(stored)))


def test_a_full_disk_keeps_what_was_committed_and_goes_on_later(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    made = subprocess.run([mount, "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], check=False, capture_output=True)
    if made.returncode != 0:
        pytest.skip(f"no small disk here: {made.stderr.decode().strip()}")
    try:
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(400_000))
        table = open_table(disk)
        committed: list[int] = []
        with pytest.raises(FeatureStoreError, match=r"cannot be written: .*; free space and rerun"):
            fill(table, committed)
        stored = len(committed)
        assert 0 < stored < 100_000
        np.testing.assert_array_equal(table.get([key(n) for n in range(stored)]), value(range(stored)))
        ballast.unlink()
        table.put([key(-1)], value([-1]))
        assert len(table) == stored + 1
        table.close()
        again = open_table(disk)
        assert len(again) == stored + 1
        np.testing.assert_array_equal(again.get([key(n) for n in range(stored)]), value(range(stored)))
        again.close()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


# Several processes


def write_range(folder: Path, start: int, stop: int) -> int:
    table = open_table(folder)
    for first in range(start, stop, 50):
        table.put([key(n) for n in range(first, first + 50)], value(range(first, first + 50)))
    found = len(table)
    table.close()
    return found


def open_once(folder: Path, _number: int) -> bool:
    table = open_table(folder)
    table.close()
    return True


def test_two_processes_write_at_once_and_both_complete(tmp_path: Path) -> None:
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(write_range, tmp_path, 0, 6000), pool.submit(write_range, tmp_path, 4000, 10_000)]
        assert all(job.result(timeout=60) >= 6000 for job in jobs)
    table = open_table(tmp_path)
    assert len(table) == 10_000
    np.testing.assert_array_equal(table.get([key(n) for n in range(10_000)]), value(range(10_000)))


@pytest.mark.slow
def test_many_processes_open_a_new_store_at_once(tmp_path: Path) -> None:
    with ProcessPoolExecutor(8, mp_context=get_context("spawn")) as pool:
        for attempt in range(40):
            jobs = [pool.submit(open_once, tmp_path / str(attempt), number) for number in range(8)]
            assert all(job.result(timeout=60) for job in jobs)


def test_refresh_sees_what_others_committed(tmp_path: Path) -> None:
    mine, other = open_table(tmp_path), open_table(tmp_path)
    other.put([key(1), key(2)], value([1, 2]))
    assert key(1) not in mine
    mine.refresh()
    assert mine.get([key(2), key(1)]).tolist() == [[2.0], [1.0]]
    other.put([key(3)], value([3]))
    mine.put([key(4)], value([4]))  # a put looks too
    assert mine.get([key(3), key(4)]).tolist() == [[3.0], [4.0]]
    assert key(4) not in other


KILLED = """
import sys
import numpy as np
from realm_lib.features.store import FeatureStore, text_key
folder, start = sys.argv[1], int(sys.argv[2])
table = FeatureStore(folder).table("score", {"model_id": "small", "revision": None, "max_length": 128}, 1)
while True:
    numbers = range(start, start + 64)
    table.put([text_key("a prompt", f"response {n}") for n in numbers], np.array(numbers, dtype=np.float32)[:, None])
    start += 64
    print(start, flush=True)
"""


@pytest.mark.slow
def test_kill_9_loses_at_most_the_batch_in_flight(tmp_path: Path) -> None:
    start = 0
    for round_number in range(6):
        with subprocess.Popen(
            [sys.executable, "-c", KILLED, str(tmp_path), str(start)], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            committed = int(process.stdout.readline())
            time.sleep(0.003 + 0.011 * round_number)
            process.send_signal(signal.SIGKILL)
            committed = max([committed, *map(int, process.stdout.read().split())])
        table = open_table(tmp_path)
        assert len(table) % 64 == 0  # whole batches only
        assert committed <= len(table) <= committed + 64
        np.testing.assert_array_equal(table.get([key(n) for n in range(len(table))]), value(range(len(table))))
        start = len(table)
        table.close()
    assert start >= 6 * 64


# Against a plain dict

NUMBERS = st.integers(0, 30)
OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(0, 1), st.lists(st.tuples(NUMBERS, st.floats(width=32)), max_size=8)),
        st.tuples(st.just("get"), st.integers(0, 1), st.lists(NUMBERS, max_size=8)),
        st.tuples(st.sampled_from(["refresh", "reopen"]), st.integers(0, 1), st.none()),
    ),
    max_size=15,
)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(operations=OPERATIONS)
def test_two_handles_behave_as_one_dict_each_knows_in_part(operations: list[tuple[str, int, Any]]) -> None:
    stored: dict[int, float] = {}  # what is on disk
    known: list[dict[int, float]] = [{}, {}]  # what each handle has seen
    with tempfile.TemporaryDirectory() as folder:
        handles = [open_table(Path(folder)), open_table(Path(folder))]
        for operation, which, argument in operations:
            if operation == "put":
                values = np.array([[number] for _, number in argument], dtype=np.float32).reshape(-1, 1)
                keys = [key(n) for n, _ in argument]
                if not np.isfinite(values).all():
                    with pytest.raises(ValueError, match="nothing was stored"):
                        handles[which].put(keys, values)
                    continue
                handles[which].put(keys, values)
                for n, number in argument:
                    stored.setdefault(n, number)
                known[which] = dict(stored)
            elif operation == "get":
                if set(argument) <= set(known[which]):
                    found = handles[which].get([key(n) for n in argument])
                    assert found[:, 0].tolist() == [known[which][n] for n in argument]
                else:
                    with pytest.raises(KeyError):
                        handles[which].get([key(n) for n in argument])
            else:
                if operation == "refresh":
                    handles[which].refresh()
                else:
                    handles[which].close()
                    handles[which] = open_table(Path(folder))
                known[which] = dict(stored)
            assert [len(handle) for handle in handles] == list(map(len, known))
        for handle in handles:
            handle.close()


def test_a_hundred_thousand_entries(tmp_path: Path) -> None:
    table = open_table(tmp_path)
    keys = [key(n) for n in range(100_000)]
    values = value(range(100_000))
    for start in range(0, 100_000, 1000):
        table.put(keys[start : start + 1000], values[start : start + 1000])
    again = open_table(tmp_path)
    order = np.random.default_rng(1).permutation(100_000)
    np.testing.assert_array_equal(again.get([keys[n] for n in order]), values[order])
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 100_000 * 80
