"""The published forms of preferences: each becomes the right pairs, and nothing is left out in silence."""

from collections import Counter
from io import BytesIO
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.form_samples import SAMPLES, Sample, Triple

from realm_lib.data.forms import FORMS
from realm_lib.data.pairs import chosen_and_rejected
from realm_lib.data.reading import normalised

Row = dict[str, Any]


def as_read(rows: list[Row]) -> pd.DataFrame:
    """Rows as a reader hands them over."""
    columns = dict.fromkeys(column for row in rows for column in row)
    frame = pd.DataFrame({column: [row.get(column) for row in rows] for column in columns}, dtype=object)
    return frame.assign(_file="rows.jsonl", _row=range(1, len(frame) + 1))


def triples(pairs: pd.DataFrame) -> list[Triple]:
    """(prompt, preferred, other) of the pairs that can be used."""
    used = pairs[pairs["_reason"].isna()]
    return list(zip(used["history"], *chosen_and_rejected(used), strict=True))


def reasons(pairs: pd.DataFrame) -> dict[str, int]:
    return dict(Counter(pairs["_reason"].dropna()))


def test_every_form_has_a_sample() -> None:
    assert [form.name for form in FORMS] == list(SAMPLES)


@pytest.mark.parametrize(("name", "sample"), SAMPLES.items(), ids=list(SAMPLES))
def test_a_form_is_read(name: str, sample: Sample) -> None:
    pairs = normalised(as_read(sample.rows), name)
    assert triples(pairs) == sample.pairs
    assert reasons(pairs) == sample.left_out


ODD: list[Any] = [
    None,
    0,
    -7.5,
    True,
    float("nan"),
    float("inf"),
    "",
    "x",
    "[",
    "[1]",
    '["\\ud83d"]',
    [],
    [None],
    [[]],
    {},
]
ODD += [{"a": 1}, [{"role": "user"}], [{"from": "human", "value": None}], [{"role": [], "content": []}], {"replies": 3}]


def cells(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where the parts of a row stand, at every depth."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] * bool(path) + [place for key, part in inner for place in cells(part, (*path, key))]


def changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """A copy with ``new`` at a place."""
    if not path:
        return new
    copied = value.copy()
    copied[path[0]] = changed(value[path[0]], path[1:], new)
    return copied


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_an_odd_cell_costs_its_own_pairs_and_no_others(data: st.DataObject) -> None:
    name, sample = data.draw(st.sampled_from(list(SAMPLES.items())))
    place = data.draw(st.sampled_from(range(len(sample.rows))))
    path = data.draw(st.sampled_from(cells(sample.rows[place])))
    rows = [*sample.rows, changed(sample.rows[place], path, data.draw(st.sampled_from(ODD)))]
    if name.startswith(("Open Assistant", "HelpSteer ratings")):
        normalised(as_read(rows), name, 1.0)  # its rows have to do with each other
        return
    pairs = normalised(as_read(rows), name, 1.0)
    assert triples(pairs)[: len(sample.pairs)] == sample.pairs
    assert pairs["_row"].max() == len(rows), "the odd row is counted"
    pairs.to_parquet(BytesIO())
