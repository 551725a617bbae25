"""DPO killed with SIGKILL in the middle of sampling, then of training: it goes on, and ends as if nothing had been."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.dpo_run import interrupted, run
from support.ppo_run import HELD_OUT, PROMPTS, letters, make_policy

from realm_lib.rlhf.dpo.training import make_pairs
from realm_lib.runs.run import Run

pytestmark = pytest.mark.slow

TESTS = Path(__file__).parents[1]
PROGRAM = TESTS / "support" / "dpo_run.py"


def pieces(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("samples/*/*.jsonl") if not path.name.startswith("."))


def checkpoints(folder: Path, number: int = 1) -> dict[int, Path]:
    """The whole ones of a round, by their step: Trainer writes the state last, and not at once."""
    found = {}
    for path in folder.glob(f"models/.dpo_checkpoints/round_{number}/*/checkpoint-*/trainer_state.json"):
        try:
            found[int(json.loads(path.read_text())["global_step"])] = path.parent
        except (json.JSONDecodeError, FileNotFoundError):  # half-written, or just removed for a newer one
            continue
    return found


def kill_when(ready: Callable[[], object], policy: Path, folder: Path, rounds: int = 1) -> None:
    """Start the training as a process of its own; SIGKILL as soon as ``ready``."""
    variables = {**os.environ, "PYTHONPATH": f"{TESTS.parent}:{TESTS}"}
    command = [sys.executable, str(PROGRAM), str(policy), str(folder), str(folder / "never.json"), str(rounds)]
    process = subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    until = time.monotonic() + 240
    while not ready():
        assert process.poll() is None, process.communicate()[0][-3000:]
        assert time.monotonic() < until
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (folder / "never.json").exists()


def test_killed_in_sampling_and_in_training_it_ends_as_if_it_had_not_been(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    policy = make_policy(tmp_path / "policy")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    wanted = run(policy, whole)

    kill_when(lambda: len(pieces(killed)) >= 5, policy, killed)
    drawn = {path: path.stat().st_mtime_ns for path in pieces(killed)}
    assert 5 <= len(drawn) < len(pieces(whole)), "killed before all was sampled"
    assert not (killed / "models").exists()

    kill_when(lambda: checkpoints(killed), policy, killed)
    assert all(path.stat().st_mtime_ns == time_then for path, time_then in drawn.items()), "nothing is drawn twice"
    at, last = max(checkpoints(killed).items())
    assert 2 <= at < 50, "killed before the last step"
    broken = last.with_name("checkpoint-99")
    broken.mkdir()
    (broken / "model.safetensors").write_bytes(b"half of it")
    unfinished = last.with_name("checkpoint-98")
    unfinished.mkdir()
    (unfinished / "trainer_state.json").touch()

    found = run(policy, killed)
    assert json.loads(json.dumps(found)) == json.loads(json.dumps(wanted))
    assert [path.name for path in pieces(killed)] == [path.name for path in pieces(whole)]
    trained = "models/policy_dpo/model.safetensors"
    assert (killed / trained).read_bytes() == (whole / trained).read_bytes()
    assert (killed / "logs" / "dpo.jsonl").read_bytes() == (whole / "logs" / "dpo.jsonl").read_bytes()
    assert [path.name for path in (killed / "models").iterdir()] == ["policy_dpo"], "no checkpoint is left"
    assert "starts over" not in caplog.text

    # The pairs looked at beforehand are those that were trained on: nothing is drawn for them again.
    before = {path: path.stat().st_mtime_ns for path in pieces(whole)}
    pairs = make_pairs(interrupted(policy), letters, PROMPTS, held_out=HELD_OUT, run=Run(whole))
    assert len(pairs) == wanted["metrics"]["pairs"]
    assert {path: path.stat().st_mtime_ns for path in pieces(whole)} == before


def test_killed_in_its_second_and_third_round_it_ends_as_if_it_had_not_been(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    policy = make_policy(tmp_path / "policy")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    wanted = run(policy, whole, 3)

    kill_when(lambda: checkpoints(killed, 2), policy, killed, 3)
    drawn = {path: path.stat().st_mtime_ns for path in pieces(killed)}
    finished = {path: path.stat().st_mtime_ns for path in checkpoints(killed).values()}
    assert max(checkpoints(killed)) == 36 or max(checkpoints(killed)) % 18 == 0, "the first round is over"
    kill_when(lambda: checkpoints(killed, 3), policy, killed, 3)
    assert all(path.stat().st_mtime_ns == time_then for path, time_then in (drawn | finished).items())
    assert not (killed / "models" / "policy_dpo").exists()

    found = run(policy, killed, 3)
    assert json.loads(json.dumps(found)) == json.loads(json.dumps(wanted))
    assert [path.name for path in pieces(killed)] == [path.name for path in pieces(whole)]
    trained = "models/policy_dpo/model.safetensors"
    assert (killed / trained).read_bytes() == (whole / trained).read_bytes()
    assert [path.name for path in (killed / "models").iterdir()] == ["policy_dpo"], "no checkpoint is left"
    assert "starts over" not in caplog.text
