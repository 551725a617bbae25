"""Trackers: what they are told, once and in order, also over a kill; and what is refused before anything is trained."""

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from accelerate import PartialState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker, register_tracker_class
from support.dpo_run import make_params as dpo_params
from support.ppo_run import HELD_OUT, PROMPTS, letters, make_params, make_policy

from realm_lib.config.base import ParamsError
from realm_lib.rlhf.dpo import train_dpo
from realm_lib.rlhf.errors import RewardError
from realm_lib.rlhf.ppo.training import train_ppo
from realm_lib.rlhf.tracking import Tracking
from realm_lib.runs.run import Run


class Diary(GeneralTracker):
    """A user's own tracker, by accelerate's interface."""

    name = "diary"
    requires_logging_directory = True
    kept: ClassVar[list["Diary"]] = []

    def __init__(self, run_name: str, logging_dir: str, **_: Any) -> None:
        super().__init__()
        self.run_name, self.folder = run_name, Path(logging_dir)
        self.settings: dict[str, Any] | None = None
        self.lines: list[tuple[int, dict[str, float]]] = []
        self.open = False
        self.kept.append(self)

    @property
    def tracker(self) -> list[Any]:
        return self.lines

    def start(self) -> None:
        self.open = True

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.settings = values

    def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        assert self.open
        assert step is not None
        self.lines.append((step, values))

    def finish(self) -> None:
        self.open = False


@pytest.fixture
def diaries() -> Iterator[list[Diary]]:
    PartialState(cpu=True)
    register_tracker_class(Diary)
    Diary.kept.clear()
    yield Diary.kept
    del LOGGER_TYPE_TO_CLASS["diary"]


def told(diary: Diary, kind: str) -> list[int]:
    """The steps at which something of ``kind`` was told."""
    return [step for step, values in diary.lines if any(name.startswith(f"{kind}/") for name in values)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_policy(tmp_path_factory.mktemp("policy"))


@pytest.mark.slow
def test_a_training_tells_every_update_and_look_once_also_over_a_kill(
    folder: Path, tmp_path: Path, diaries: list[Diary]
) -> None:
    params = make_params(folder, report_to=["diary"], total_episodes=40)
    calls = []

    def breaks(prompts: Any, completions: Any) -> list[float]:
        calls.append(len(completions))
        if len(calls) == 5:  # looks before updates 1 and 4: the fourth rollout's; update 3 comes after the checkpoint
            raise OSError("killed")
        return letters(prompts, completions)

    with pytest.raises(RewardError):
        train_ppo(params, breaks, PROMPTS, held_out=HELD_OUT, run=Run(tmp_path))
    (first,) = diaries
    assert (told(first, "training"), told(first, "evaluation")) == ([1, 2, 3], [0])
    result = train_ppo(params, letters, PROMPTS, held_out=HELD_OUT, run=Run(tmp_path))
    _, second = diaries
    assert (told(second, "training"), told(second, "evaluation")) == ([4, 5], [3, 5])
    assert second.run_name == first.run_name
    assert (first.folder, second.settings) == (tmp_path / "logs" / "diary", None)
    assert not second.open
    rows = {step: values for step, values in second.lines if "training/reward" in values}
    assert rows[4]["training/reward"] == result.history["reward"][3]
    assert "training/warnings" not in rows[4]
    assert first.settings is not None
    assert first.settings["ppo.learning_rate"] == 3e-3
    train_ppo(params, letters, PROMPTS, held_out=HELD_OUT, run=Run(tmp_path))
    assert told(diaries[2], "training") == [1, 2, 3, 4, 5], "started once more: another run of the tracker"
    assert not list((tmp_path / "logs").glob(".*"))


@pytest.mark.slow
def test_dpo_tells_its_history(tmp_path: Path, diaries: list[Diary]) -> None:
    policy = make_policy(tmp_path / "policy")
    params = dpo_params(policy, report_to=["diary"])
    result = train_dpo(params, letters, PROMPTS, held_out=HELD_OUT, run=Run(tmp_path / "run"))
    (diary,) = diaries
    for split, kind in (("training", "training"), ("held out", "held_out")):
        rows = result.history[result.history["split"] == split]
        assert told(diary, kind) == rows["step"].tolist()
        losses = [values[f"{kind}/loss"] for _, values in diary.lines if f"{kind}/loss" in values]
        assert losses == rows["loss"].tolist()


def test_no_key_and_only_finite_numbers_are_told(tmp_path: Path, diaries: list[Diary]) -> None:
    settings = {"a": {"api_key": "${KEY}", "urls": ["x", "y"], "rate": 0.5}, "none": None, "flag": True}
    tracking = Tracking.start(["diary", "diary"], "ppo", "abc", settings, Run(tmp_path))
    row = {"step": 1, "reward": 2, "nothing": None, "infinite": float("inf"), "words": ["a"], "name": "b"}
    tracking.tell("training", row)
    (diary,) = diaries
    assert diary.settings == {"a.urls": "['x', 'y']", "a.rate": 0.5, "flag": True}
    assert diary.lines == [(1, {"training/reward": 2.0})]
    note = json.loads((tmp_path / "logs" / ".ppo_tracked.json").read_text(encoding="utf-8"))
    assert note["steps"] == {"training": 1}
    Tracking.start(["diary"], "ppo", "another training", {}, Run(tmp_path)).tell("training", row)
    assert len(diaries[1].lines) == 1


def test_nothing_is_started_without_trackers_or_in_another_process(tmp_path: Path, diaries: list[Diary]) -> None:
    for tracking in (
        Tracking.start([], "ppo", "abc", {}, Run(tmp_path)),
        Tracking.start(["diary"], "ppo", "abc", {}, Run(tmp_path), is_main=False),
    ):
        tracking.tell("training", {"step": 1, "reward": 1.0})
        tracking.finish()
    assert diaries == []
    assert not (tmp_path / "logs").exists()


@pytest.mark.parametrize(
    ("name", "run", "says"),
    [
        ("all", True, "'all' is none of tensorboard, wandb, trackio"),
        ("comet_ml", True, "'comet_ml' is none of tensorboard, wandb, trackio"),
        ("diary", False, "diary writes into a run's folder"),
    ],
)
def test_a_tracker_that_cannot_be_had(tmp_path: Path, diaries: list[Diary], name: str, run: bool, says: str) -> None:
    with pytest.raises(ParamsError, match=says):
        Tracking.start([name], "ppo", "abc", {}, Run(tmp_path) if run else None)
    assert diaries == []


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "trackio"])
def test_a_package_that_is_missing_is_named(name: str, tmp_path: Path) -> None:
    if importlib.util.find_spec(name) is not None:
        pytest.skip(f"{name} is installed here")
    with pytest.raises(ParamsError, match=f"{name} is not installed: pip install {name}"):
        Tracking.start([name], "ppo", "abc", {}, Run(tmp_path))


def test_tensorboard_shows_each_step_once(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is no dependency: pip install tensorboard to test it")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    PartialState(cpu=True)
    for rewards in ([1.0, 2.0], [9.0, 9.0, 3.0]):  # the second comes after a kill
        tracking = Tracking.start(["tensorboard"], "ppo", "abc", {"rate": 1e-3}, Run(tmp_path))
        for step, reward in enumerate(rewards, start=1):
            tracking.tell("training", {"step": step, "reward": reward})
        for tracker in tracking._trackers:
            tracker.writer.flush()
    (shown,) = (tmp_path / "logs" / "tensorboard").iterdir()
    events = EventAccumulator(str(shown))
    events.Reload()
    assert [(one.step, one.value) for one in events.Scalars("training/reward")] == [(1, 1.0), (2, 2.0), (3, 3.0)]
