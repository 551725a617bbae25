"""PPO in processes of its own: killed and resumed to the same end, and two processes that make one update."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.ppo_run import CHOOSE_ON, HELD_OUT, PROMPTS, letters, make_params, make_policy, vowels
from support.vllm_server import running_vllm
from torch import Tensor

from realm_lib.config.rlhf import PolicyParams
from realm_lib.rlhf.policies import encode_prompts, load_policy, sample
from realm_lib.rlhf.ppo.result import PPOResult
from realm_lib.rlhf.ppo.training import train_ppo
from realm_lib.runs.run import Run

pytestmark = pytest.mark.slow

TESTS = Path(__file__).parents[1]
PROGRAM = TESTS / "support" / "ppo_run.py"
PATIENCE = 300.0
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": f"{TESTS.parent}:{TESTS}",
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
}

# accelerate's --cpu starts one process only; --multi_gpu starts several, also where there is no GPU.
LAUNCH = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
LAUNCH += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
SHARED = [
    "-m",
    "accelerate.commands.launch",
    "--config_file",
    str(TESTS.parent / "params" / "accelerate" / "fsdp.yaml"),
]
SHARED += ["--num_processes", "2", "--main_process_port", "0"]


def command(policy: Path, run: Path, *changes: str) -> list[str]:
    return [str(PROGRAM), str(policy), str(run), str(run / "result.json"), *changes]


def finish(words: list[str], run: Path, environment: dict[str, str] = ENVIRONMENT) -> dict[str, Any]:
    """Run to the end and read the result."""
    done = subprocess.run(
        [sys.executable, *words], env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads((run / "result.json").read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_policy(tmp_path_factory.mktemp("policy"))


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("whole")


@pytest.fixture(scope="module")
def uninterrupted(policy: Path, whole_run: Path) -> dict[str, Any]:
    return finish(command(policy, whole_run), whole_run)


def saved_weights(run: Path) -> dict[str, Tensor]:
    (file,) = (run / "models" / "policy_ppo").glob("*.safetensors")
    return load_file(file)


def in_one_process(policy: Path, run: Path, **changes: Any) -> PPOResult:
    """The training here, whose last policy is the one that is kept."""
    params = make_params(policy, **changes)
    result = train_ppo(params, letters, PROMPTS, held_out=HELD_OUT, choose_on=CHOOSE_ON, judge=vowels, run=Run(run))
    assert result.best_step == len(result.history), "the weights of the start would be compared with themselves"
    return result


@pytest.fixture(scope="module")
def of_one(policy: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[PPOResult, Path]:
    """A training in one process, and where its run is."""
    folder = tmp_path_factory.mktemp("one")
    return in_one_process(policy, folder, seed=1, total_episodes=32), folder


def assert_alike(one: PPOResult, run: Path, two: Path, found: dict[str, Any]) -> None:
    """Two processes came to the weights of one, by the same numbers and answers."""
    first, second = saved_weights(run), saved_weights(two)
    assert first.keys() == second.keys()
    assert max(float((first[name] - second[name]).abs().max()) for name in first) < 1e-5
    for row, other in zip(one.history.to_dict("records"), found["history"], strict=True):
        for name in row.keys() - {"warnings"} - {name for name in row if "second" in str(name)}:
            assert other[name] == pytest.approx(row[name], abs=1e-4), (row["step"], name)
    assert [row["response"] for row in found["samples"]] == list(one.samples["response"])


def assert_halved(found: dict[str, Any]) -> None:
    assert (found["processes"], sum(found["held"])) == (2, found["trained"])
    assert max(found["held"]) < 0.51 * found["trained"]


def test_a_training_killed_in_the_middle_ends_where_an_uninterrupted_one_does(
    policy: Path, uninterrupted: dict[str, Any], whole_run: Path, tmp_path: Path
) -> None:
    run = tmp_path / "killed"
    log, kept = run / "logs" / "ppo.jsonl", run / "models" / ".ppo_checkpoint"
    with subprocess.Popen([sys.executable, *command(policy, run, "pause=3")], env=ENVIRONMENT) as process:
        deadline = time.monotonic() + PATIENCE
        # The third update comes after the checkpoint of the second one: its line will have to be written again.
        while not (log.exists() and len(log.read_text(encoding="utf-8").splitlines()) >= 3):
            assert time.monotonic() < deadline
            assert process.poll() is None, "the training ended before it could be killed"
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert kept.exists()
    assert not (run / "models" / "policy_ppo").exists()

    resumed = finish(command(policy, run), run)
    assert resumed == uninterrupted
    assert all(torch.equal(saved_weights(run)[name], value) for name, value in saved_weights(whole_run).items())
    lines = log.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    texts = [(folder / "logs" / "ppo_samples.jsonl").read_text(encoding="utf-8") for folder in (run, whole_run)]
    assert texts[0] == texts[1]
    assert len(texts[0].splitlines()) == 3 * len(CHOOSE_ON)
    assert sorted(path.name for path in (run / "models").iterdir()) == ["policy_ppo"]


def test_two_processes_make_the_updates_of_one(policy: Path, of_one: tuple[PPOResult, Path], tmp_path: Path) -> None:
    found = finish([*LAUNCH, *command(policy, tmp_path, "seed=1", "total_episodes=32")], tmp_path)
    assert found["processes"] == 2
    assert_alike(*of_one, tmp_path, found)


def test_two_processes_whose_group_works_on_one_kind_of_device_alone(
    policy: Path, uninterrupted: dict[str, Any], tmp_path: Path
) -> None:
    """As under nccl, which reduces no tensor of the CPU: every exchange must be on the group's device."""
    found = finish([*LAUNCH, *command(policy, tmp_path, "by_card=true")], tmp_path)
    assert found["processes"] == 2
    for one, two in zip(uninterrupted["history"], found["history"], strict=True):
        for name in one.keys() - {"warnings"}:
            assert two[name] == pytest.approx(one[name], abs=1e-4), (one["step"], name)
    assert [row["response"] for row in found["samples"]] == [row["response"] for row in uninterrupted["samples"]]


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="nccl between two processes takes two GPUs")
def test_two_processes_under_nccl(policy: Path, tmp_path: Path) -> None:
    environment = {name: value for name, value in ENVIRONMENT.items() if name != "CUDA_VISIBLE_DEVICES"}
    one = finish(command(policy, tmp_path / "one"), tmp_path / "one", environment)
    two = finish([*LAUNCH, *command(policy, tmp_path / "two")], tmp_path / "two", environment)
    assert (one["processes"], two["processes"]) == (1, 2)
    first, second = (found["history"][0] for found in (one, two))
    for name in ("reward", "kl", "policy_loss", "value_loss", "grad_norm"):
        assert second[name] == pytest.approx(first[name], rel=1e-2, abs=1e-2), name


def test_two_processes_are_served_by_one_server_of_vllms(
    policy: Path, uninterrupted: dict[str, Any], tmp_path: Path
) -> None:
    """One of them hands the weights over, both sample."""
    with running_vllm(policy) as server:
        words = ["sampler=vllm", f"vllm={{urls: ['{server.url}'], folder: '{tmp_path}'}}"]
        found = finish([*LAUNCH, *command(policy, tmp_path, *words)], tmp_path)
        handed_over = [body["kwargs"]["weights_path"] for body in server.posted("/collective_rpc")]
    assert found["processes"] == 2
    assert len(handed_over) == len(set(handed_over)) == 7, "before each of six updates and after the last"
    assert [row["response"] for row in found["samples"]] == [row["response"] for row in uninterrupted["samples"]]
    assert max(row["sampler_kl"] for row in found["history"]) < 1e-8


def test_an_error_in_one_process_ends_both(policy: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, *LAUNCH, *command(policy, tmp_path, "fails_in=1")],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert done.returncode != 0
    assert "process 1: the reward failed on prompts" in done.stderr


def test_two_processes_that_share_the_weights_make_the_updates_of_one(
    policy: Path, of_one: tuple[PPOResult, Path], tmp_path: Path
) -> None:
    """The reward fails in one of them in the third update; they go on from the checkpoint of the second."""
    words = ["seed=1", "total_episodes=32", "fails_in=1", "fails_after=2"]
    found = finish([*SHARED, *command(policy, tmp_path, *words)], tmp_path)
    assert found["left"] == ["latest.json", "part_0.safetensors", "part_1.safetensors"]
    assert_halved(found)
    assert_alike(*of_one, tmp_path, found)
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["policy_ppo"]
    alone = load_policy(PolicyParams(model_name=str(tmp_path / "models" / "policy_ppo")))
    ids = encode_prompts(alone.tokenizer, CHOOSE_ON, 60).ids
    assert all(answer.ids for answer in sample(alone, ids, max_new_tokens=5, temperature=1, seeds=[1, 2], batch_size=2))


def test_two_processes_that_share_the_weights_under_an_adapter(policy: Path, tmp_path: Path) -> None:
    """With what else there is: a value model, a value head fitted first, recomputed activations, a server of vLLM's."""
    lora = {"r": 4, "alpha": 8.0}
    changes = {"total_episodes": 24, "kl_target": 5.0, "value_model": "separate", "gradient_accumulation": 2}
    one, two = tmp_path / "one", tmp_path / "two"
    more = {"seed": 3, "value_warmup": 1, "gradient_checkpointing": True}
    result = in_one_process(policy, one, lora=lora, **more, **changes)
    with running_vllm(policy) as server:
        words = [f"{name}={json.dumps(value)}" for name, value in {"lora": lora, **more, **changes}.items()]
        words += ["sampler=vllm", f"vllm={{urls: ['{server.url}'], folder: '{tmp_path}'}}"]
        found = finish([*SHARED, *command(policy, two, *words)], two)
    history = [{name: value for name, value in row.items() if name in result.history} for row in found["history"]]
    assert_halved(found)
    assert_alike(result, one, two, {**found, "history": history})
    assert max(row["sampler_kl"] for row in found["history"]) < 1e-8
