"""Tables in files as they come: one reader for every door, so that a row is read, or refused, alike at each."""

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from realm_lib.config.base import resolve_path
from realm_lib.data.chats import PairsError
from realm_lib.data.rows import Row, csv_rows, json_file, json_lines

SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".csv", ".csv.gz", ".parquet")
SCORES = "realm_scores"
"""Where a file's attributes name the columns that ``realm score`` wrote: they are nobody's votes or ratings."""
PLACE = ("_file", "_row", "_reason")
"""The columns of a row's place, and of the reason why it cannot be read."""
_OF_DATASETS = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
"""What ``datasets`` writes beside the rows."""
NAMED_ROWS = 5
"""Rows of each fault that are named."""


def is_table(path: Path) -> bool:
    """Whether ``path`` is named as a file of rows, or is a folder that a ``datasets.Dataset`` was saved to."""
    if path.is_dir():
        return (path / "state.json").is_file()
    name = path.name.lower()
    return name.endswith(SUFFIXES) and not name.startswith(".") and name not in _OF_DATASETS


def without_suffix(name: str) -> str:
    """The name of a file of rows without its ending."""
    return re.sub(rf"({'|'.join(map(re.escape, SUFFIXES))})$", "", name, flags=re.IGNORECASE)


def local_files(where: str) -> list[Path]:
    """The files of rows at ``where``: a file, those of a folder, or what ``datasets`` saved there, a folder a split.

    Raises :class:`PairsError` where there are none.
    """
    path = resolve_path(where)
    if not path.exists():
        raise PairsError(f"data.path: {path} does not exist (relative paths start at the project's root)")
    files = [path] if is_table(path) or not path.is_dir() else sorted(path.iterdir())
    files = [file for file in files if is_table(file)]
    if not files:
        raise PairsError(f"data.path: {path} holds no {', '.join(SUFFIXES)} file, and nothing saved by `datasets`")
    return files


def read_table(file: Path) -> pd.DataFrame:
    """The rows of a file as they are, columns of objects: text, numbers, lists, dictionaries, None for what is missing.

    ``_file`` and ``_row`` say where a row stands, ``_reason`` why it cannot be read, which is None for most.
    Raises :class:`PairsError` naming the file that cannot be read, or holds no row that can.
    """
    if _is_arrow(file):
        frame = _arrow_frame(file)
        frame = frame.assign(_file=file.name, _row=range(1, len(frame) + 1), _reason=None)
    else:
        rows = list(read_rows(file))
        columns = dict.fromkeys(name for row in rows for name in row.values)
        _check_names(columns, file)
        frame = pd.DataFrame({name: [row.values.get(name) for row in rows] for name in columns}, dtype=object)
        reasons = pd.Series([row.reason for row in rows], dtype=object)
        frame = frame.reindex(range(len(rows)))  # where no row has a column
        frame = frame.assign(_file=file.name, _row=[row.number for row in rows], _reason=reasons)
    if frame.empty:
        raise PairsError(f"{file}: holds no rows: fill it, or take it away")
    if frame["_reason"].notna().all():
        raise PairsError(f"{file}: none of its rows can be read: {told(frame)}")
    return frame


def told(frame: pd.DataFrame) -> str:
    """All reasons in ``_reason`` with the first of their rows, as ``row 2, 7: not JSON; row 3: duplicate keys``."""
    parts = []
    for reason, rows in frame.groupby("_reason", sort=False)["_row"]:
        more = f" and {len(rows) - NAMED_ROWS:,} more" if len(rows) > NAMED_ROWS else ""
        parts.append(f"row {', '.join(map(str, rows[:NAMED_ROWS]))}{more}: {reason}")
    return "; ".join(parts)


def read_rows(file: Path) -> Iterator[Row]:
    """The rows of a file, of lines as they are needed.

    A name without an ending of ``SUFFIXES`` is taken for lines of JSON.
    Raises :class:`PairsError` naming the file and the last row that was read before it could not be read on.
    """
    if _is_arrow(file):
        records = _arrow_frame(file).to_dict("records")
        for place, values in enumerate(records, start=1):
            yield Row(place, {str(name): value for name, value in values.items()})
        return
    name = file.name.lower()
    opened: Any = gzip.open if name.endswith(".gz") else open
    parse = {".json": json_file, ".csv": csv_rows}.get(Path(name.removesuffix(".gz")).suffix, json_lines)
    number: int | None = None
    try:
        with opened(file, "rb") as content:
            number = 0
            for row in parse(content):
                number = row.number
                yield row
    except (OSError, EOFError, zlib.error, UnicodeError, csv.Error, json.JSONDecodeError, RecursionError) as error:
        where = str(file) if number is None else f"{file} after row {number}"
        raise PairsError(f"{where}: cannot be read: {getattr(error, 'strerror', None) or error}") from error


def storable(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame as Parquet can hold it, a type a column: where there are several, what is no text becomes its JSON."""
    columns = [str(name) for name in frame if pd.api.types.is_object_dtype(frame[name])]
    return frame.assign(**{name: _storable(frame[name]) for name in columns})


def _storable(column: "pd.Series[Any]") -> "pd.Series[Any]":
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        pq.ParquetWriter(io.BytesIO(), pa.schema([("", pa.array(column, from_pandas=True).type)])).close()
    except (pa.ArrowException, OverflowError):
        texts = [part if part is None or isinstance(part, str) else json.dumps(part, default=str) for part in column]
        return pd.Series(texts, column.index, dtype=object)
    return column


def _is_arrow(file: Path) -> bool:
    return file.is_dir() or file.name.lower().endswith(".parquet")


def _arrow_frame(file: Path) -> pd.DataFrame:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if file.is_dir():
            import datasets

            if not is_table(file):
                raise PairsError(f"{file}: `datasets.Dataset.save_to_disk` saved nothing here; of splits name one")
            table = datasets.load_from_disk(str(file)).with_format("arrow")[:]
        else:
            table = pq.ParquetFile(file).read()  # read_table would take folders' names as columns
        table.validate(full=True)
    except (OSError, ValueError, pa.ArrowException) as error:
        what = "a folder of `datasets`" if file.is_dir() else "parquet"
        raise PairsError(f"{file}: cannot be read as {what}: {error}") from error
    return arrow_frame(table, file)


def arrow_frame(table: Any, where: object) -> pd.DataFrame:
    """The columns of an Arrow table as :func:`read_table` has them. Raises :class:`PairsError` naming ``where``."""
    names = [name for name in table.column_names if not re.fullmatch(r"__index_level_\d+__", name)]  # pandas' own
    if twice := [name for name in names if names.count(name) > 1]:
        raise PairsError(f"{where}: two columns have the name {twice[0]!r}: rename one")
    _check_names(names, where)
    if b'"Json"' in (table.schema.metadata or {}).get(b"huggingface", b""):  # a column of mixed types is JSON there
        import datasets

        return pd.DataFrame(datasets.Dataset(table).to_list(), columns=names, dtype=object)
    frame = pd.DataFrame({name: pd.Series(table[name].to_pylist(), dtype=object) for name in names})
    frame.attrs = json.loads((table.schema.metadata or {}).get(b"PANDAS_ATTRS", "{}"))  # as pandas writes them
    return frame


def _check_names(names: Iterable[str], where: object) -> None:
    if own := sorted(set(PLACE).intersection(names)):
        raise PairsError(f"{where}: has a column {own[0]}, a name that is used here: rename it")
