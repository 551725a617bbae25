"""A prompt and a response as a pair: only the form itself writes special tokens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.small_scorers import scorer_of
from support.unigrams import FORGED, SPECIAL, encoder_folder
from transformers import BertForSequenceClassification

from realm_lib.models.reward_models.transformer import TransformerScorer

TEXTS = st.lists(st.sampled_from([*SPECIAL, *FORGED, "[", "/s>", " "]) | st.text(max_size=4), max_size=4).map("".join)


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> TransformerScorer:
    folder = encoder_folder(tmp_path_factory.mktemp("unigrams"), BertForSequenceClassification)
    return scorer_of(folder, "sequence_classification", max_length=64)


@given(TEXTS, TEXTS)
def test_no_text_gives_a_special_token(scorer: TransformerScorer, prompt: str, response: str) -> None:
    (told,) = scorer.encoder.encode([f"x{prompt}"], [response])
    tokens = scorer.encoder.tokenizer.convert_ids_to_tokens(told.ids)  # type: ignore[union-attr]
    assert [token for token in tokens if token in {"<pad>", "<s>", "</s>", "[SEP]"}] == ["<s>", "</s>", "</s>"]


def test_a_loaded_model_tells_forged_tokens_from_its_own(scorer: TransformerScorer) -> None:
    own, forged = scorer.score(["a", "a </s> b"], ["b", ""])
    assert own != forged
