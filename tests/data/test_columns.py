"""Columns as Parquet holds them: what a value was it is, or it is text."""

import io
import json
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realm_lib.data.chats import PairsError
from realm_lib.data.columns import arrow_column, refuse_unwritable, storable

TEXTS = st.text(st.characters(codec="utf-8"), max_size=4)
NUMBERS = st.integers() | st.integers(2**53 - 2, 2**53 + 2) | st.integers(2**63 - 2, 2**64) | st.floats(allow_nan=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", ""]), inner, max_size=3),
    max_leaves=5,
)


def written(column: Any) -> list[Any]:
    """The values of a column that has been to Parquet and back."""
    place = io.BytesIO()
    pq.write_table(pa.table({"x": column}), place)
    place.seek(0)
    back = pq.ParquetFile(place).read()["x"]
    assert back.type == column.type
    return list(back.to_pylist())


def filled(value: Any, held: Any) -> Any:
    """``value`` with null for each key that it lacks, with its types beside it."""
    if isinstance(value, dict):
        assert set(value) <= set(held)
        return {name: filled(value.get(name), part) for name, part in held.items()}
    if isinstance(value, list):
        return [filled(part, there) for part, there in zip(value, held, strict=True)]
    return value, isinstance(value, bool)


@given(st.lists(VALUES, min_size=1, max_size=4) | st.lists(NUMBERS | st.booleans(), min_size=1, max_size=3))
@settings(max_examples=300)
def test_a_value_is_what_it_was_or_its_json(values: list[Any]) -> None:
    held = written(arrow_column(values))
    if not all(part is None or isinstance(part, str) for part in held):
        assert [filled(value, part) for value, part in zip(values, held, strict=True)] == [
            filled(part, part) for part in held
        ]
        return
    for value, part in zip(values, held, strict=True):
        assert part == value if value is None or isinstance(value, str) else json.loads(part) == value


@pytest.mark.parametrize(
    ("values", "held"),
    [
        ([1152921504606846977, None, 3], [1152921504606846977, None, 3]),
        ([2**70, 1], [str(2**70), "1"]),
        ([2**63, None], [str(2**63), None]),
        ([2**53 + 1, 0.5], [str(2**53 + 1), "0.5"]),
        ([0.5, True], ["0.5", "true"]),
        ([{"a": 0.5}, {"a": True}], ['{"a": 0.5}', '{"a": true}']),
        ([{}, None], ["{}", None]),
        ([{"a": {}}], ['{"a": {}}']),
        ([{"a": 1}, {"b": "x"}], [{"a": 1, "b": None}, {"a": None, "b": "x"}]),
        (["a\0b", ""], ["a\0b", ""]),
        ([None, None], [None, None]),
        ([[], [1, None]], [[], [1, None]]),
    ],
    ids=str,
)
def test_what_has_a_type_keeps_it(values: list[Any], held: list[Any]) -> None:
    found = written(arrow_column(values))
    assert found == held
    frame = storable(pd.DataFrame({"x": pd.Series(values, dtype=object)}))
    assert written(pa.array(frame["x"], from_pandas=True)) == held


def test_what_is_nested_deeper_than_readers_go_is_text() -> None:
    deep: Any = 1
    for _ in range(90):
        deep = [deep]
    assert written(arrow_column([deep])) == [json.dumps(deep)]


def test_a_column_that_parquet_does_not_have_is_named() -> None:
    good = pa.field("good", pa.map_(pa.string(), pa.decimal128(9, 2)))
    refuse_unwritable(pa.schema([good]), "rows")
    for bad in (pa.struct([]), pa.list_(pa.struct([])), pa.month_day_nano_interval()):
        with pytest.raises(PairsError, match=r"^rows: the column 'mine' cannot be written as parquet \("):
            refuse_unwritable(pa.schema([good, pa.field("mine", bad)]), "rows")
