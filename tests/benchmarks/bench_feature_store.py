"""What the feature store costs beside two other layouts: ``python tests/benchmarks/bench_feature_store.py``, by hand.

700,000 scores in commits of 256, three rounds, the layouts taking turns so that a busy machine slows each alike:
this store; SQLite with the hash as primary key of a table WITHOUT ROWID; parquet shards written to a temporary name,
synced and renamed. Each writes everything, then a fresh handle reads everything in another order. Median seconds, MB
on disk, and ratios to this store.
"""

import os
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from realm_lib.features.store import FeatureStore, text_key

BATCH = 256
ROUNDS = 3

Keys = list[bytes]
Values = NDArray[np.float32]


def batches(keys: Keys, values: Values) -> list[tuple[Keys, Values]]:
    """The commits."""
    return [(keys[start : start + BATCH], values[start : start + BATCH]) for start in range(0, len(keys), BATCH)]


def write_store(folder: Path, keys: Keys, values: Values) -> None:
    """This project's store."""
    table = FeatureStore(folder).table("score", {}, 1)
    for some, numbers in batches(keys, values):
        table.put(some, numbers)
    table.close()


def read_store(folder: Path, keys: Keys) -> Values:
    """This project's store."""
    table = FeatureStore(folder).table("score", {}, 1)
    found = table.get(keys)
    table.close()
    return found


def write_primary_key(folder: Path, keys: Keys, values: Values) -> None:
    """SQLite, the hash as primary key."""
    connection = sqlite3.connect(folder / "scores.sqlite", isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("CREATE TABLE entries (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID")
    for some, numbers in batches(keys, values):
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(
            "INSERT OR IGNORE INTO entries VALUES (?, ?)", zip(some, map(bytes, numbers), strict=True)
        )
        connection.execute("COMMIT")
    connection.close()


def read_primary_key(folder: Path, keys: Keys) -> Values:
    """SQLite, the hash as primary key, by one scan (a lookup a key is slower)."""
    connection = sqlite3.connect(folder / "scores.sqlite")
    stored = dict(connection.execute("SELECT key, value FROM entries"))
    connection.close()
    return np.frombuffer(b"".join(stored[key] for key in keys), dtype="<f4")[:, None]


def write_shards(folder: Path, keys: Keys, values: Values) -> None:
    """A parquet file a commit."""
    for number, (some, numbers) in enumerate(batches(keys, values)):
        temporary = folder / f".{number}.tmp"
        table = pa.table({"key": pa.array(some, pa.binary(16)), "value": pa.array(numbers[:, 0])})
        with temporary.open("wb") as file:
            pq.write_table(table, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(folder / f"{number:06}.parquet")


def read_shards(folder: Path, keys: Keys) -> Values:
    """All parquet files into one dict."""
    stored: dict[bytes, float] = {}
    for path in sorted(folder.glob("*.parquet")):
        table = pq.ParquetFile(path).read()
        stored.update(zip(table["key"].to_pylist(), table["value"].to_pylist(), strict=True))
    return np.array([stored[key] for key in keys], dtype=np.float32)[:, None]


Layout = tuple[Callable[[Path, Keys, Values], None], Callable[[Path, Keys], Values]]
LAYOUTS: dict[str, Layout] = {
    "this store": (write_store, read_store),
    "primary key": (write_primary_key, read_primary_key),
    "parquet shards": (write_shards, read_shards),
}


def timed(layout: Layout, keys: Keys, values: Values, order: NDArray[np.int64]) -> tuple[float, float, float, int]:
    """Seconds to write and to read, megabytes and files of one layout."""
    write, read = layout
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        start = time.perf_counter()
        write(folder, keys, values)
        written = time.perf_counter() - start
        wanted = [keys[n] for n in order]
        start = time.perf_counter()
        found = read(folder, wanted)
        seconds = time.perf_counter() - start
        if not np.array_equal(found, values[order]):
            raise SystemExit("a layout gave back other values")
        files = [file for file in folder.iterdir() if file.is_file()]
        return written, seconds, sum(file.stat().st_size for file in files) / 1e6, len(files)


def main(count: int) -> None:
    """Run the rounds and print the table."""
    keys = [text_key("prompt", str(n)) for n in range(count)]
    rng = np.random.default_rng(0)
    values = rng.normal(size=(count, 1)).astype(np.float32)
    order = rng.permutation(count)
    figures: dict[str, list[tuple[float, float, float, int]]] = {name: [] for name in LAYOUTS}
    for round_number in range(ROUNDS):
        for name in sorted(LAYOUTS, key=lambda name: hash((name, round_number))):
            figures[name].append(timed(LAYOUTS[name], keys, values, order))
    print(f"{count:,} scores in commits of {BATCH}, median of {ROUNDS}")
    own = [statistics.median(column) for column in zip(*figures["this store"], strict=True)]
    for name, rows in figures.items():
        write, read, size, files = (statistics.median(column) for column in zip(*rows, strict=True))
        print(
            f"{name:15} write {write:6.2f} s ({write / own[0]:4.1f}x)  read {read:6.2f} s ({read / own[1]:4.1f}x)"
            f"  {size:6.1f} MB ({size / own[2]:4.1f}x)  {files:,.0f} files"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 700_000)
