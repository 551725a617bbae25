"""How far a run is, told from its folder alone."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from realm_lib.config.base import resolve_path
from realm_lib.config.profile import Params, dump_yaml, load_params
from realm_lib.data.kept import keep_pairs
from realm_lib.features.ahead import LOOKED_AHEAD
from realm_lib.features.checks import distinct_of
from realm_lib.features.store import FeatureStore, text_key
from realm_lib.rlhf.status import status_of
from realm_lib.runs.run import MissingStepError, Run
from realm_lib.runs.steps import at_work

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """The test profile, as `realm prepare` leaves it, with nothing to depend on."""
    changes = [f"run.output_dir={tmp_path}", "run.name=a", f"data.preprocessing.cache_dir={tmp_path}/cache"]
    params = load_params(ROOT / "params" / "test.yaml", [*changes, "rlhf.dpo.rounds=2"])
    run = Run(params.run.folder)
    run.path(".steps").mkdir(parents=True)
    run.path("params.yaml").write_text(dump_yaml(params))
    names = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
    for name in names:
        run.path(".steps", f"{name}.yaml").touch()
    run.path(".steps", "depends.mk").write_text(f"STEPS := {' '.join(names)}\n")
    return run


def params_of(run: Run) -> Params:
    return load_params(run.path("params.yaml"))


def test_a_prepared_run_has_everything_left(run: Run) -> None:
    status = status_of(run)
    assert [step.state for step in status.steps] == ["left"] * 7
    assert status.features == [], "its pairs are not known yet"
    assert [(training.name, training.done) for training in status.trainings] == [("ppo", 0), ("dpo", 0)]
    assert json.dumps(status.to_dict(), allow_nan=False)


def test_texts_are_counted_and_the_rest_is_timed_by_the_rate_since_notebook_01_began(run: Run) -> None:
    params = params_of(run)
    splits = keep_pairs(run, params.data, ("train", "validation", "test"))
    texts = distinct_of({split: pairs.table for split, pairs in splits.items()})
    keys = [text_key(*row) for row in texts.itertuples(index=False, name=None)]
    identity = {"backend": "inform", "model": params.reward_model.model_id, "max_length": 512}
    table = FeatureStore(resolve_path(params.data.preprocessing.cache_dir)).table("score", identity, 1)
    table.put(keys[:60], np.zeros((60, 1), dtype=np.float32))
    score, similarity = status_of(run).features
    assert (score.stored.texts, score.stored.stored, score.seconds_left) == (len(keys), 60, None)
    assert similarity.stored.stored == 0
    began = (datetime.now(UTC) - timedelta(seconds=100)).isoformat()
    line = {"time": began, "event": LOOKED_AHEAD, "stored": {"score": 10, "similarity": 0}}
    run.path("logs").mkdir()
    run.path("logs", "run.jsonl").write_text(json.dumps(line) + '\n{"half a li')
    with at_work(run, "01_feature_extraction"):
        score, similarity = status_of(run).features
    assert score.seconds_left == pytest.approx(100 / 50 * (len(keys) - 60), rel=0.2)
    assert similarity.seconds_left is None, "nothing of it was stored yet"
    assert [feature.seconds_left for feature in status_of(run).features] == [None, None], "nobody is at work"


def test_trainings_are_known_by_their_log_and_checkpoints(run: Run) -> None:
    run.path("logs").mkdir()
    rows = [{"step": 1, "seconds": 4.0}]
    run.path("logs", "ppo.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert status_of(run).trainings[0].done == 0, "the log of an earlier training, with no checkpoint"
    header = json.dumps({"__metadata__": {"identity": "a", "progress": json.dumps({"step": 1})}}).encode()
    run.path("models").mkdir()
    run.path("models", ".ppo_checkpoint").write_bytes(len(header).to_bytes(8, "little") + header)
    place = run.path("models", ".dpo_checkpoints", "round_1", "0123", "checkpoint-2")
    place.mkdir(parents=True)
    (place / "trainer_state.json").write_text(json.dumps({"global_step": 2, "max_steps": 3}))
    ppo, dpo = status_of(run).trainings
    assert (ppo.done, ppo.total, ppo.kept, ppo.seconds_left) == (1, 2, 1, 4.0)
    assert (dpo.done, dpo.total, dpo.kept) == (2, 6, 2)


def test_a_folder_without_a_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MissingStepError, match="run `make` first"):
        status_of(Run.existing(tmp_path))
