"""The pieces in which texts are computed, here and by a pool: each committed as it comes back."""

from collections.abc import Generator, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from realm_lib.features.filling import OverPool, Piece, _pieces, fill
from realm_lib.features.store import FeatureStore, text_key
from realm_lib.models.reward_models import ScorerError

PROMPTS = st.lists(st.sampled_from("abcdefgh"), max_size=40).map(sorted)


@given(prompts=PROMPTS, size=st.integers(1, 12))
def test_a_prompts_texts_are_in_one_piece_where_they_fit(prompts: list[str], size: int) -> None:
    pieces = _pieces(range(len(prompts)), prompts, size)
    assert [index for piece in pieces for index in piece] == list(range(len(prompts))), "each once, in order"
    assert all(0 < len(piece) <= size for piece in pieces)
    held = {prompt: len(list(run)) for prompt, run in groupby(prompts)}
    for prompt, count in held.items():
        of_prompt = [[prompts[index] for index in piece].count(prompt) for piece in pieces]
        assert sum(number > 0 for number in of_prompt) == -(-count // size)


TEXTS = [(f"post {number // 3}", f"comment {number}") for number in range(12)]
KEYS = [text_key(*text) for text in TEXTS]


class Backwards:
    """A pool that is done with the last piece first, and fails before the one of index ``fails_at``."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.fails_at = fails_at
        self.asked: list[Piece] = []

    def compute_pieces(self, pieces: Sequence[Piece]) -> Generator[tuple[int, NDArray[np.float32]]]:
        for number in reversed(range(len(pieces))):
            if number == self.fails_at:
                raise ScorerError("text 1: refused", [1])
            self.asked.append(pieces[number])
            yield number, np.array([[float(text.split()[1])] for _, text in pieces[number]], dtype=np.float32)


def filled(folder: Path, pool: Backwards) -> list[int]:
    table = FeatureStore(folder).table("score", {"model": "any"}, 1)
    try:
        return fill(
            table,
            KEYS,
            OverPool(pool, TEXTS),
            order=range(len(TEXTS)),
            groups=[prompt for prompt, _ in TEXTS],
            sizes=np.ones(len(TEXTS), dtype=np.int64),
            unit="tok",
            batch_size=4,
            label=None,
        )
    finally:
        table.close()


def stored(folder: Path) -> dict[str, float]:
    table = FeatureStore(folder).table("score", {"model": "any"}, 1)
    there = [(text, key) for (_, text), key in zip(TEXTS, KEYS, strict=True) if key in table]
    values = table.get([key for _, key in there])[:, 0] if there else []
    return {text: float(value) for (text, _), value in zip(there, values, strict=True)}


def test_each_text_gets_its_own_number_and_responses_to_a_post_stay_together(tmp_path: Path) -> None:
    pool = Backwards()
    assert sorted(filled(tmp_path, pool)) == list(range(12))
    assert stored(tmp_path) == {f"comment {number}": number for number in range(12)}
    assert [len({prompt for prompt, _ in piece}) for piece in pool.asked] == [1, 1, 1, 1]
    assert filled(tmp_path, pool) == []


def test_what_came_back_before_an_error_is_kept_and_only_the_rest_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ScorerError, match="text 1: refused"):
        filled(tmp_path, Backwards(fails_at=1))
    assert stored(tmp_path) == {f"comment {number}": number for number in range(6, 12)}
    pool = Backwards()
    assert sorted(filled(tmp_path, pool)) == list(range(6))
    assert sum(map(len, pool.asked)) == 6
