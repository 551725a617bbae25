"""Tables in files as they come: one reader for every door, so that a row is read, or refused, alike at each."""

import csv
import gzip
import json
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from realm_lib.config.base import resolve_path
from realm_lib.data.chats import PairsError
from realm_lib.data.columns import arrow_column
from realm_lib.data.rows import Row, csv_rows, json_file, json_lines

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".csv", ".csv.gz", ".parquet")
SCORES = "realm_scores"
"""Where a file's attributes name the columns that ``realm score`` wrote: they are nobody's votes or ratings."""
PLACE = ("_file", "_row", "_reason")
"""The columns of a row's place, and of the reason why it cannot be read."""
_ATTRIBUTES = b"PANDAS_ATTRS"
"""Where pandas keeps a frame's attributes in a file."""
_OF_DATASETS = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
"""What ``datasets`` writes beside the rows."""
NAMED_ROWS = 5
"""Rows of each fault that are named."""
_AT_ONCE = 4096
"""Rows of Arrow that are Python's at a time."""


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
    name = os.fsencode(file.name).decode(errors="replace")  # a table holds Unicode only
    if _is_arrow(file):
        frame = _frame(_read_arrow(file), file)
        frame = frame.assign(_file=name, _row=range(1, len(frame) + 1), _reason=None)
    else:
        places: list[tuple[int, str | None]] = []
        frame = frame_of(_placed(read_rows(file), places))
        _check_names(frame, file)
        reasons = pd.Series([reason for _, reason in places], dtype=object)
        frame = frame.assign(_file=name, _row=[number for number, _ in places], _reason=reasons)
    if frame.empty:
        raise _no_rows(file)
    if frame["_reason"].notna().all():
        raise PairsError(f"{file}: none of its rows can be read: {told(frame)}")
    return frame


def frame_of(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Rows as columns of objects, None where a row has none of a column; equal texts are one object.

    A post of SHP stands in each of its pairs: all of them would take a gigabyte, and the rows as dictionaries another.
    """
    columns: dict[str, list[Any]] = {}
    texts: dict[str, str] = {}
    count = 0
    for row in rows:
        for name, value in row.items():
            column = columns.setdefault(name, [])
            column.extend([None] * (count - len(column)))
            column.append(texts.setdefault(value, value) if type(value) is str else value)
        count += 1
    for column in columns.values():
        column.extend([None] * (count - len(column)))
    return pd.DataFrame(columns, index=range(count), dtype=object)


def _placed(rows: Iterable[Row], places: list[tuple[int, str | None]]) -> Iterator[dict[str, Any]]:
    """The values of ``rows``, whose numbers and reasons are added to ``places``."""
    for row in rows:
        places.append((row.number, row.reason))
        yield row.values


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
        yield from arrow_rows(_read_arrow(file), file)
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


def read_exactly(file: Path) -> "tuple[pa.Table, list[Row] | None]":
    """All columns of a file as Arrow holds their values exactly, for whoever only adds to them.

    Of Parquet and of ``datasets`` it is the table that is there, with its types, its metadata and the index that pandas
    keeps in it. Of texts each column is as :func:`arrow_column` has it, with nulls where a row cannot be read; their
    rows come beside it.
    Raises :class:`PairsError` naming the file that cannot be read, or holds no rows.
    """
    import pyarrow as pa

    rows = None
    if _is_arrow(file):
        table = _read_arrow(file)
    else:
        rows = list(read_rows(file))
        names = dict.fromkeys(name for row in rows for name in row.values)
        table = pa.table({name: arrow_column([row.values.get(name) for row in rows]) for name in names})
    if not (table.num_rows if rows is None else rows):
        raise _no_rows(file)
    return table, rows


def arrow_rows(table: "pa.Table", file: Path) -> Iterator[Row]:
    """The rows of the table of a ``file`` as plain values, some at a time.

    Raises :class:`PairsError` naming the file and the column that Python has no values for.
    """
    import pyarrow as pa

    batches = table.select(_names(table)).to_batches(max_chunksize=_AT_ONCE)
    parts = (_values(pa.Table.from_batches([batch]), file) for batch in batches)
    records = (dict(zip(part, row, strict=True)) for part in parts for row in zip(*part.values(), strict=True))
    return (Row(place, values) for place, values in enumerate(records, start=1))


def renamed(table: "pa.Table", names: Mapping[str, str]) -> "pa.Table":
    """The table with new ``names`` of columns, in what pandas and ``datasets`` note of them too."""
    import pyarrow as pa

    metadata = dict(table.schema.metadata or {})
    for note in {b"pandas", b"huggingface"} & set(metadata):
        for old, new in names.items():
            metadata[note] = metadata[note].replace(json.dumps(old).encode(), json.dumps(new).encode())
    fields = [field.with_name(names.get(field.name, field.name)) for field in table.schema]
    return pa.Table.from_arrays(table.columns, schema=pa.schema(fields, metadata))


def with_scores(table: "pa.Table", scores: Mapping[str, NDArray[np.float32]]) -> "pa.Table":
    """The table with the columns of ``realm score`` after its own, and a note of their names for its readers."""
    import pyarrow as pa

    for name, values in scores.items():
        table = table.append_column(name, pa.array(values))
    attributes = _attributes(table)
    attributes[SCORES] = list(dict.fromkeys([*attributes.get(SCORES, []), *scores]))
    return table.replace_schema_metadata({**(table.schema.metadata or {}), _ATTRIBUTES: json.dumps(attributes)})


def _no_rows(file: Path) -> PairsError:
    return PairsError(f"{file}: holds no rows: fill it, or take it away")


def _is_arrow(file: Path) -> bool:
    return file.is_dir() or file.name.lower().endswith(".parquet")


def _read_arrow(file: Path) -> "pa.Table":
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if file.is_dir():
            import datasets

            if not is_table(file):
                raise PairsError(f"{file}: `datasets.Dataset.save_to_disk` saved nothing here; of splits name one")
            table = datasets.load_from_disk(str(file)).with_format("arrow")[:]
        else:
            with file.open("rb") as content:  # pyarrow would take a name as file:x.parquet for an address
                table = pq.ParquetFile(content).read()  # read_table would take folders' names as columns
        table.validate(full=True)
        _attributes(table)
    except (OSError, ValueError, RecursionError, pa.ArrowException) as error:
        what = "a folder of `datasets`" if file.is_dir() else "parquet"
        raise PairsError(f"{file}: cannot be read as {what}: {error}") from error
    names = table.column_names
    if twice := [name for name in names if names.count(name) > 1]:
        raise PairsError(f"{file}: two columns have the name {twice[0]!r}: rename one")
    return table


def _frame(table: "pa.Table", file: Path) -> pd.DataFrame:
    """The columns of an Arrow table as :func:`read_table` has them."""
    names = _names(table)
    _check_names(names, file)
    frame = pd.DataFrame(_values(table.select(names), file), columns=names, dtype=object)
    frame.attrs.update(_attributes(table))
    return frame


def _names(table: "pa.Table") -> list[str]:
    """The names of its columns, without the index that pandas adds."""
    return [name for name in table.column_names if not re.fullmatch(r"__index_level_\d+__", name)]


def _values(table: "pa.Table", file: Path) -> dict[str, list[Any]]:
    """Plain values by column. Raises :class:`PairsError` for those that Python does not have, as the year 10,000."""
    is_mixed = b'"Json"' in (table.schema.metadata or {}).get(b"huggingface", b"")  # there a column's values are JSON
    found = {}
    for name in table.column_names:
        try:
            found[name] = _mixed_values(table, name) if is_mixed else table[name].to_pylist()
        except (ValueError, OverflowError) as error:
            raise PairsError(f"{file}: the column {name!r} cannot be read ({error}): leave it out") from error
    return found


def _mixed_values(table: "pa.Table", name: str) -> list[Any]:
    import datasets

    return list(datasets.Dataset(table.select([name])).to_dict()[name])


def _attributes(table: "pa.Table") -> dict[str, Any]:
    """What pandas keeps of a frame's attributes. Raises ValueError for what neither it nor ``realm score`` writes."""
    found = json.loads((table.schema.metadata or {}).get(_ATTRIBUTES, b"{}"))
    scores = found.get(SCORES, []) if isinstance(found, dict) else None
    if not isinstance(scores, list) or not all(isinstance(name, str) for name in scores):
        raise ValueError(f"its metadata's {_ATTRIBUTES.decode()} is not what pandas writes")
    return dict(found)


def _check_names(names: Iterable[str], where: object) -> None:
    if own := sorted(set(PLACE).intersection(names)):
        raise PairsError(f"{where}: has a column {own[0]}, a name that is used here: rename it")
