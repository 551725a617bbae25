"""How far a run is: read beside whoever runs it, and never written."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from realm_lib.config.base import resolve_path
from realm_lib.config.profile import Params, load_params
from realm_lib.config.rlhf import PPOParams
from realm_lib.data.kept import are_kept, keep_pairs
from realm_lib.features.ahead import LOOKED_AHEAD, distinct_of
from realm_lib.features.counting import SPLITS
from realm_lib.features.stored import StoredTexts, stored_texts
from realm_lib.runs.run import Run
from realm_lib.runs.steps import Step, seconds_so_far, steps_of

_FEATURES, _PPO, _DPO = "01_feature_extraction", "04_ppo", "05_dpo"
_LAST = 20
"""Updates by whose mean the time of the others is told."""


@dataclass(frozen=True)
class FeatureProgress:
    """How much of a feature is in the store, and how long the rest takes."""

    stored: StoredTexts
    seconds_left: float | None
    """At the rate since notebook 01 began; None where it stored nothing yet."""


@dataclass(frozen=True)
class TrainingProgress:
    """How far the training of a policy is."""

    name: str
    done: int
    total: int | None
    """None where it is not known yet."""
    kept: int
    """Up to which a checkpoint reaches: from there a killed run goes on."""
    unit: str
    seconds_left: float | None


@dataclass(frozen=True)
class RunStatus:
    """How far a run is."""

    folder: str
    steps: list[Step]
    features: list[FeatureProgress]
    """None of them where the run's pairs are not known yet, or all features are there."""
    trainings: list[TrainingProgress]
    seconds: float
    """That notebooks have taken so far, those at work included."""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def status_of(run: Run) -> RunStatus:
    """The status of a run. Raises :class:`realm_lib.runs.run.MissingStepError` where there is none."""
    params = load_params(run.path("params.yaml"))
    steps = steps_of(run)
    states = {step.name: step.state for step in steps}
    features: list[FeatureProgress] = []
    if states.get(_FEATURES) != "done" and are_kept(run, params.data, SPLITS):
        features = _features(params, run, at_work=states.get(_FEATURES) == "running")
    trainings = []
    if params.rlhf is not None:
        if states.get(_PPO) != "done":
            trainings.append(_ppo(params.rlhf.ppo, run, begun=states.get(_PPO) == "running"))
        if states.get(_DPO) != "done" and params.rlhf.dpo is not None:
            trainings.append(_dpo(params.rlhf.dpo.rounds, run))
    return RunStatus(str(run.folder), steps, features, trainings, round(seconds_so_far(steps), 1))


def _features(params: Params, run: Run, *, at_work: bool) -> list[FeatureProgress]:
    texts = distinct_of({split: pairs.table for split, pairs in keep_pairs(run, params.data, SPLITS).items()})
    found = stored_texts(params, texts, resolve_path(params.data.preprocessing.cache_dir))
    began = _last_event(run, LOOKED_AHEAD) if at_work else None
    if began is None:
        return [FeatureProgress(each, None) for each in found]
    seconds = (datetime.now(UTC) - datetime.fromisoformat(began["time"])).total_seconds()
    then: Mapping[str, int] = began["stored"]
    progress = []
    for each in found:
        new = each.stored - then.get(each.feature, 0)
        left = seconds / new * each.to_do if new > 0 else None
        progress.append(FeatureProgress(each, 0.0 if each.to_do == 0 else left))
    return progress


def _last_event(run: Run, event: str) -> dict[str, Any] | None:
    found = [row for row in _rows(run.path("logs", "run.jsonl")) if row.get("event") == event]
    return found[-1] if found else None


def _rows(path: Path) -> list[dict[str, Any]]:
    """The lines of a log; the last may still be being written."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def _ppo(params: PPOParams, run: Run, *, begun: bool) -> TrainingProgress:
    total = params.total_episodes // params.batch_size
    checkpoint = run.path("models", ".ppo_checkpoint")
    kept = int(_metadata(checkpoint).get("step", 0)) if checkpoint.exists() else 0
    rows = _rows(run.path("logs", "ppo.jsonl")) if kept or begun else []
    done = int(rows[-1]["step"]) if rows else 0
    seconds = [float(row["seconds"]) for row in rows[-_LAST:]]
    left = sum(seconds) / len(seconds) * (total - done) if seconds else None
    return TrainingProgress("ppo", done, total, kept, "updates", left)


def _metadata(checkpoint: Path) -> dict[str, Any]:
    """What a training says of itself in the header of its safetensors file."""
    with checkpoint.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    progress: dict[str, Any] = json.loads(header["__metadata__"]["progress"])
    return progress


def _dpo(rounds: int, run: Run) -> TrainingProgress:
    """By the newest checkpoint of each round; between two of them Trainer writes nothing."""
    done, total, known = 0, 0, 0
    for number in range(1, rounds + 1):
        states = sorted(
            run.path("models", ".dpo_checkpoints", f"round_{number}").glob("*/checkpoint-*/trainer_state.json")
        )
        steps = [json.loads(state.read_text(encoding="utf-8")) for state in states]
        if steps:
            done += max(int(state["global_step"]) for state in steps)
            total += int(steps[-1]["max_steps"])
            known += 1
    whole = round(total / known * rounds) if known else None
    return TrainingProgress("dpo", done, whole, done, "steps", None)
