"""DPO in two processes, whole weights in each and weights cut in two: the update is that of one process."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support.dpo_run import make_params
from support.ppo_run import HELD_OUT, PROMPTS, letters, make_policy, vowels

from realm_lib.rlhf.dpo import DPOError
from realm_lib.rlhf.dpo.shares import Order, check_shares, filled
from realm_lib.rlhf.dpo.training import train_dpo
from realm_lib.rlhf.processes import Peers
from realm_lib.runs.run import Run

TESTS = Path(__file__).parents[1]
CONFIGURATIONS = TESTS.parent / "params" / "accelerate"


class Two(Peers):
    """The first of two processes, as far as its numbers go."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 2


def test_fillers_complete_the_last_batch_and_are_pairs_of_one_response_twice() -> None:
    columns = {
        "prompt_ids": [[1], [2], [3]],
        "chosen_ids": [[4], [5], [6]],
        "rejected_ids": [[7], [8], [9]],
        "ref_chosen_logps": [-1.0, -2.0, -3.0],
        "ref_rejected_logps": [-4.0, -5.0, -6.0],
    }
    found = filled(columns, 4)
    assert found["filler"] == [False, False, False, True]
    assert all(found[name][:3] == values for name, values in columns.items())
    assert [found[name][3] for name in columns] == [[1], [4], [4], -1.0, -1.0]
    assert filled(columns, 3) == {**columns, "filler": [False] * 3}


def test_the_order_is_that_of_one_process_with_the_fillers_behind() -> None:
    from accelerate.data_loader import SeedableRandomSampler

    one = SeedableRandomSampler(range(17), generator=torch.Generator(), data_seed=7)
    epochs = iter([None, 1.0, 2.0])
    two = Order(17, 24, 7, lambda: next(epochs))
    for _ in range(3):
        assert list(two) == [*one, *range(17, 24)]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch_size": 6, "gradient_accumulation": 2}, "batch_size 6 is not a multiple of gradient_accumulation 2"),
        ({"device_map": "auto"}, "device_map"),
    ],
)
def test_what_two_processes_cannot_share_is_refused(changes: dict[str, Any], words: str) -> None:
    params = make_params(Path("policy"), **changes).dpo
    assert params is not None
    check_shares(params, Peers())
    with pytest.raises(DPOError, match=words):
        check_shares(params, Two())


def test_a_precision_that_the_parameters_do_not_say_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    params = make_params(Path("policy")).dpo
    assert params is not None
    with pytest.raises(DPOError, match="mixed_precision is bf16"):
        check_shares(params, Two())


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_policy(tmp_path_factory.mktemp("policy"))


@pytest.fixture(scope="module")
def alone(policy: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """One process: its history and its run."""
    run = tmp_path_factory.mktemp("alone")
    result = train_dpo(make_params(policy), letters, PROMPTS, held_out=HELD_OUT, judge={"vowels": vowels}, run=Run(run))
    assert len(result.pairs) % 8 == 1, "of the last batch one process has a pair, the other a filler alone"
    return {"history": result.history, "metrics": result.metrics()}, run


def launch(configuration: str, policy: Path, run: Path) -> dict[str, Any]:
    """What two processes came to, cut as params/accelerate/``configuration`` says."""
    words = ["-m", "accelerate.commands.launch", "--config_file", str(CONFIGURATIONS / configuration)]
    words += ["--num_processes", "2", "--main_process_port", "0"]
    target = run / "result.json"
    done = subprocess.run(
        [sys.executable, *words, str(TESTS / "support" / "dpo_run.py"), str(policy), str(run), str(target), "launched"],
        env={**os.environ, "PYTHONPATH": f"{TESTS.parent}:{TESTS}", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(target.read_text(encoding="utf-8"))
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("configuration", "part"), [("ddp.yaml", 1.0), ("fsdp.yaml", 0.5)])
def test_two_processes_make_the_updates_of_one(
    configuration: str, part: float, policy: Path, alone: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    wanted, run = alone
    found = launch(configuration, policy, tmp_path)
    weights, others = (load_file(each / "models/policy_dpo/model.safetensors") for each in (run, tmp_path))
    start = load_file(policy / "model.safetensors")
    assert max(float((weights[name] - others[name]).abs().max()) for name in weights) < 1e-5
    assert max(float((weights[name] - start[name]).abs().max()) for name in weights) > 1e-3
    columns = ["step", "loss", "margin", "accuracy"]
    history = np.array([[row[name] for name in columns] for row in found["history"]])
    np.testing.assert_allclose(history, wanted["history"][columns].to_numpy(dtype=float), atol=1e-5)
    assert found["metrics"]["win_rates"] == wanted["metrics"]["win_rates"]

    whole = sum(value.numel() for value in weights.values())
    assert found["processes"] == 2
    assert found["held"] == [whole * part] * 2, "what each holds of the policy"
    assert found["moments"] == [2 * whole * part] * 2

    def never(*_: Any, **__: Any) -> list[float]:
        raise AssertionError("what was trained is not trained again")

    if configuration == "fsdp.yaml":
        (tmp_path / "models" / "policy_dpo").rename(tmp_path / "models" / "launched")
        again = train_dpo(
            make_params(policy), letters, PROMPTS, held_out=HELD_OUT, judge={"vowels": vowels}, run=Run(tmp_path)
        )
        assert again.history.to_dict("records") == found["history"]
        saved = load_file(tmp_path / "models/policy_dpo/model.safetensors")
        assert all(torch.equal(saved[name], others[name]) for name in others)
