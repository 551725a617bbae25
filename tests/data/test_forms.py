"""The published forms of preferences: each becomes the same pairs, at every door, and nothing is left out in silence."""

from collections import Counter
from typing import Any

import pandas as pd
import pytest
from support.form_samples import SAMPLES, Sample, Triple

from realm_lib.data.forms import FORMS
from realm_lib.data.pairs import chosen_and_rejected
from realm_lib.data.reading import normalised

Row = dict[str, Any]


def as_read(rows: list[Row]) -> pd.DataFrame:
    """Rows as a reader hands them over."""
    frame = pd.DataFrame(rows)
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
