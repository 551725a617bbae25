"""Texts over an embedding model's limit: whole in windows, or cut as said."""

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from realm_lib.config.embedding import EmbeddingParams
from realm_lib.data.chats import as_text
from realm_lib.models.embedders import PACKAGED_MODEL, build_embedder
from realm_lib.models.embedders.windows import _spans, _weights

PREFACE = "The bread rises because yeast makes gas. " * 40


def test_what_lies_after_the_limit_changes_the_vector(minilm: Any) -> None:
    one, other = minilm.embed([PREFACE + "Why do cats purr?", PREFACE + "The court adjourned until Monday."])
    assert one @ other < 0.9999


def test_cut_reads_the_last_turn_of_a_dialogue() -> None:
    params = EmbeddingParams(backend="sentence_transformers", model_id=PACKAGED_MODEL, long_texts="cut")
    embedder = build_embedder(params)
    assert np.array_equal(*embedder.embed([PREFACE + "one", PREFACE + "other"]))
    turns = [("user", PREFACE), ("assistant", "Yes."), ("user", "Why do cats purr?")]
    (shown,) = embedder.as_read([as_text([{"role": role, "content": text} for role, text in turns])])
    assert "Why do cats purr?" in shown
    assert PREFACE not in shown


def test_chinese_is_counted_as_unknown(minilm: Any) -> None:
    counts = minilm.count_pieces(["我们今天去北京吃烤鸭", "hello world"])
    assert counts.unknown[0] > 3
    assert counts.unknown[1] == 0


@given(st.lists(st.booleans(), min_size=41, max_size=400), st.integers(8, 40))
def test_every_piece_is_in_a_window_and_counts_once(begins: list[bool], room: int) -> None:
    spans = _spans(np.array(begins), room)
    assert {piece for start, end in spans for piece in range(start, end)} == set(range(len(begins)))
    assert max(end - start for start, end in spans) <= room
    np.testing.assert_allclose(sum(_weights(spans)), len(begins))
