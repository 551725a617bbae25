"""Columns as Parquet holds them: one type each, in which every value is what it was, or text."""

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from realm_lib.data.chats import PairsError

if TYPE_CHECKING:
    import pyarrow as pa


def arrow_column(values: Sequence[Any]) -> "pa.Array | pa.ChunkedArray":
    """The values, each exactly, as one type that Parquet has; where there is none, what is no text becomes its JSON.

    There is none for values of several types, for whole numbers beyond 64 bits, for objects that are all empty and for
    what is nested deeper than readers of Parquet go. A key that some objects of a column have is null in the others.
    """
    import pyarrow as pa

    held = _exactly(values)
    return pa.array(_as_texts(values), pa.string()) if held is None else held


def storable(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame as Parquet can hold it: its columns of objects as :func:`arrow_column` has them."""
    columns = {str(name): frame[name] for name in frame if pd.api.types.is_object_dtype(frame[name])}
    texts = {name: _as_texts(column) for name, column in columns.items() if _exactly(column) is None}
    return frame.assign(**{name: pd.Series(column, frame.index, dtype=object) for name, column in texts.items()})


def refuse_unwritable(schema: "pa.Schema", where: object) -> None:
    """Raises :class:`PairsError` naming ``where`` and the first column of a type that Parquet does not have."""
    for field in schema:
        if reason := _unwritable(field):
            raise PairsError(
                f"{where}: the column {field.name!r} cannot be written as parquet ({reason}): "
                "give it another type, or leave it out"
            )


def _exactly(values: "Sequence[Any] | pd.Series[Any]") -> "pa.Array | pa.ChunkedArray | None":
    import pyarrow as pa

    try:
        held = pa.array(values, from_pandas=True)
    except (pa.ArrowException, OverflowError):
        return None
    if _unwritable(pa.field("", held.type)):
        return None
    if "double" in str(held.type) and not all(map(_as_true, values, held.to_pylist())):
        return None
    return held


def _as_true(value: Any, held: Any) -> bool:
    """Whether no truth value has become a number, which Arrow lets happen where the first number is a fraction."""
    if isinstance(value, Mapping):
        return all(_as_true(value.get(name), part) for name, part in held.items())
    if isinstance(value, list):
        return all(map(_as_true, value, held))
    return isinstance(value, bool) == isinstance(held, bool)


def _unwritable(field: "pa.Field") -> str | None:
    """Why Parquet cannot hold a column, or its readers not read it; None where all is well."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    place = io.BytesIO()
    try:
        pq.ParquetWriter(place, pa.schema([field])).close()
        pq.read_schema(place)
    except (pa.ArrowException, OSError) as error:
        return str(error)
    return None


def _as_texts(values: Iterable[Any]) -> list[str | None]:
    return [part if part is None or isinstance(part, str) else json.dumps(part, default=str) for part in values]
