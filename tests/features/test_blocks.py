"""Pieces and answers as Ray carries them: what goes in comes out, errors as they were said."""

import numpy as np
import pyarrow as pa
import pytest

from realm_lib.features.ray.blocks import pack_fault, pack_texts, pack_values, unpack_answer, unpack_texts
from realm_lib.models.embedders import EmbedderError
from realm_lib.models.reward_models import LongResponseError, ScorerError

PIECE = [("Why?\n\x00", "Because \ud800."), ("Why?\n\x00", ""), ("Wie geht’s? 😀", "Gut.")]


def test_texts_come_back_as_they_were() -> None:
    (row,) = pack_texts(7, PIECE).to_pylist()
    assert row["piece"] == 7
    assert unpack_texts(row["texts"]) == [[prompt for prompt, _ in PIECE], [response for _, response in PIECE]]
    (alone,) = pack_texts(0, [("one",), ("two",)]).to_pylist()
    assert unpack_texts(alone["texts"]) == [["one", "two"]]


def test_a_prompt_travels_once() -> None:
    prompt = "".join(chr(33 + number * number % 90) for number in range(20_000))
    once, often = (
        len(pack_texts(0, [(prompt, f"{n}") for n in range(count)])["texts"][0].as_py()) for count in (1, 50)
    )
    assert often < once + 1000


def test_values_come_back_bit_for_bit() -> None:
    values = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    block = pa.concat_tables([pack_values(2, values), pack_values(5, values[:, 0])])
    (first, told), (second, single) = unpack_answer(block)
    assert (first, second) == (2, 5)
    assert told.tobytes() == values.tobytes()
    assert single.shape == (3, 1)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ScorerError("text 1 ('no'): its score is nan", [1]), ScorerError),
        (LongResponseError("text 0: takes 9 tokens", {0: 9}, 8), ScorerError),
        (EmbedderError("text 2 has a vector that is zero", [2]), EmbedderError),
    ],
)
def test_an_error_arrives_as_it_was_said(error: ScorerError | EmbedderError, kind: type[Exception]) -> None:
    with pytest.raises(kind) as caught:
        unpack_answer(pack_fault(3, error))
    assert str(caught.value) == str(error)
    assert caught.value.places == error.places  # type: ignore[attr-defined]
