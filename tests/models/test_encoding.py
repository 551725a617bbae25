"""What a reward model knows without its weights is what it knows with them."""

from pathlib import Path

import pytest

from realm_lib.config.reward_model import RewardModelParams
from realm_lib.models.reward_models import ScorerError, build_scorer
from realm_lib.models.reward_models.encoding import EncodingScorer
from realm_lib.models.reward_models.outline import outlined_encoder, read_outline, weights_version
from realm_lib.models.reward_models.transformer import TransformerScorer


def test_identity_and_tokens_are_those_of_the_scorer(inform_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = RewardModelParams(backend="inform", model_id=str(inform_folder), max_length=64)
    whole = build_scorer(params)
    assert isinstance(whole, TransformerScorer)
    monkeypatch.setattr("realm_lib.models.reward_models.memory.available_memory", lambda _: (0.0, "this machine"))
    with pytest.raises(ScorerError, match=r"0\.0 GiB free"):
        read_outline(params)
    outline = read_outline(params, here=False)
    without = EncodingScorer(params, outlined_encoder(outline, params), weights_version(outline, params))
    assert without.identity == whole.identity
    texts = (["Why? " * 80, "How?"], ["Because.", "So."])
    assert without.count_tokens(*texts).tolist() == whole.count_tokens(*texts).tolist()
    assert without.read(*texts)[1] == whole.read(*texts)[1]
    assert without.refused(["Why?"], ["word " * 200]).keys() == {0}
