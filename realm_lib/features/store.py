"""The feature store: scores and embeddings on disk, found again by what they were computed from.

One SQLite file a model: its name and its first row are the identity of everything that changes a value besides the
text (model, weights, quantization, dtype, template, lengths). Inside, an append-only table of (hash of the text,
float32 values); the index from hash to row is a dict in memory.

Why so. Measured for 700,000 scores committed 256 at a time, the layouts taking turns on two busy cores
(tests/benchmarks/bench_feature_store.py): this layout 3 to 6 s to write, a primary key on the hash 28 to 33 s (random
inserts into a B-tree), parquet shards 11 to 14 s (each synced and renamed), one file an item minutes. Reading all back
takes each of the first three a few seconds, and each holds about 20 MB; but parquet leaves 2,735 small files that
someone must merge while another process reads.
SQLite's write-ahead log gives the rest: a commit is whole or absent after a kill at any instant, and several processes
append at once. Two processes that store the same text append it twice; the values are equal, and the first counts.
WAL needs shared memory: keep ``cache_dir`` on a local disk, not on a network mount.
"""

import hashlib
import json
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_ROWS_PER_SELECT = 500  # below SQLite's smallest limit on bound variables, 999
_LOCK_SECONDS = 60.0  # how long to wait for another process's commit, which takes milliseconds


class FeatureStoreError(RuntimeError):
    """The store cannot be opened, read or written; the message names the file and says what is safe."""


def text_key(*texts: str) -> bytes:
    """The key of one text, or of a (prompt, response): 16 bytes of SHA-256."""
    return hashlib.sha256(json.dumps(texts).encode()).digest()[:16]


class FeatureStore:
    """The folder of all tables; runs and processes share it."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def table(self, kind: str, identity: Mapping[str, Any], width: int) -> "FeatureTable":
        """The table of ``kind`` ("score", "tokens", "embedding") of one ``identity``, rows of ``width`` float32."""
        canonical = json.dumps(identity, sort_keys=True)
        return FeatureTable(self._path(kind, canonical), canonical, width)

    def has_table(self, kind: str, identity: Mapping[str, Any]) -> bool:
        """Whether anything was ever stored for this model; :meth:`table` would make an empty file."""
        return self._path(kind, json.dumps(identity, sort_keys=True)).exists()

    def _path(self, kind: str, canonical: str) -> Path:
        return self.folder / f"{kind}-{hashlib.sha256(canonical.encode()).hexdigest()[:16]}.sqlite"


class FeatureTable:
    """Values of one model by text key. Only finite values of the right width get in."""

    def __init__(self, path: Path, identity: str, width: int) -> None:
        self.path = path
        self.width = width
        self._rows: dict[bytes, int] = {}
        self._last_row = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(path, isolation_level=None, timeout=_LOCK_SECONDS)
            self._use_write_ahead_log()
            self._connection.execute("PRAGMA synchronous = NORMAL")
            self._connection.execute("CREATE TABLE IF NOT EXISTS identity (text TEXT PRIMARY KEY, width INTEGER)")
            self._connection.execute("CREATE TABLE IF NOT EXISTS entries (key BLOB NOT NULL, value BLOB NOT NULL)")
            self._connection.execute("INSERT OR IGNORE INTO identity VALUES (?, ?)", (identity, width))
            stored = self._connection.execute("SELECT text, width FROM identity").fetchall()
        except (OSError, sqlite3.Error) as error:
            if hasattr(self, "_connection"):
                self.close()
            raise FeatureStoreError(
                f"{path}: the feature store cannot be opened: {error}. If the file is damaged, delete it: "
                "its values are computed again"
            ) from error
        if stored != [(identity, width)]:
            self.close()
            raise FeatureStoreError(f"{path}: belongs to another model or width: {stored}")
        self.refresh()

    def _use_write_ahead_log(self) -> None:
        """Switch to WAL. When processes open a new file at once SQLite refuses without waiting, so wait here."""
        patience = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                self._connection.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > patience:
                    raise
            time.sleep(0.01)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise FeatureStoreError(
                f"{self.path}: cannot be read: {error}. Delete the file: its values are computed again"
            ) from error

    def refresh(self) -> None:
        """Take notice of what other processes have committed since the last look."""
        with self._reading():
            rows = self._connection.execute("SELECT rowid, key FROM entries WHERE rowid > ?", (self._last_row,))
            for row, key in rows:
                self._rows.setdefault(key, row)
                self._last_row = row

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, key: bytes) -> bool:
        return key in self._rows

    def get(self, keys: Sequence[bytes]) -> NDArray[np.float32]:
        """The values of ``keys``, float32 [n, width].

        Raises KeyError for a key that is not in the table, and :class:`FeatureStoreError` for a damaged file.
        """
        rows = np.array([self._rows[key] for key in keys], dtype=np.int64)
        distinct, inverse = np.unique(rows, return_inverse=True)
        values = np.empty((len(distinct), self.width), dtype=np.float32)
        with self._reading():
            for start in range(0, len(distinct), _ROWS_PER_SELECT):
                chunk = distinct[start : start + _ROWS_PER_SELECT].tolist()
                marks = ",".join("?" * len(chunk))
                query = f"SELECT value FROM entries WHERE rowid IN ({marks}) ORDER BY rowid"
                blobs = [blob for (blob,) in self._connection.execute(query, chunk)]
                if len(blobs) != len(chunk) or any(len(blob) != 4 * self.width for blob in blobs):
                    raise sqlite3.DatabaseError("values are missing or of another width")
                values[start : start + len(chunk)] = np.frombuffer(b"".join(blobs), "<f4").reshape(-1, self.width)
        return values[inverse]

    def put(self, keys: Sequence[bytes], values: NDArray[np.float32]) -> None:
        """Commit values, float32 [n, width], in one transaction: all are there afterwards, or none.

        Raises ValueError for a wrong shape and for NaN or infinity (the cache never holds a failure), and
        :class:`FeatureStoreError` when the disk refuses; what was committed before is safe.
        """
        values = np.asarray(values, dtype="<f4")
        if values.shape != (len(keys), self.width):
            raise ValueError(f"expected values of shape {(len(keys), self.width)}, got {values.shape}")
        finite = np.isfinite(values).all(axis=1)
        if not finite.all():
            raise ValueError(f"{int((~finite).sum())} of {len(keys)} values are NaN or infinite; nothing was stored")
        try:
            with self._connection:  # commits what was begun, or rolls it back
                self._connection.execute("BEGIN IMMEDIATE")
                rows = zip(keys, map(bytes, values), strict=True)
                self._connection.executemany("INSERT INTO entries VALUES (?, ?)", rows)
        except sqlite3.Error as error:
            raise FeatureStoreError(
                f"{self.path}: cannot be written: {error}. {len(self)} values are safe; free space and rerun, "
                "and the work goes on from there"
            ) from error
        self.refresh()

    def close(self) -> None:
        """Close the file."""
        self._connection.close()
