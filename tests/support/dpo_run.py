"""A whole DPO run of a tiny policy: imported by the tests, and run by them as a program to kill or to launch.

python tests/support/dpo_run.py POLICY_FOLDER RUN_FOLDER RESULT.json [ROUNDS]
accelerate launch ... tests/support/dpo_run.py POLICY_FOLDER RUN_FOLDER RESULT.json launched
"""

import hashlib
import os
import sys
from pathlib import Path
from typing import Any

from realm_lib.config.rlhf import DPOParams, RlhfParams
from realm_lib.rlhf.dpo.result import DPOResult
from realm_lib.rlhf.dpo.training import train_dpo
from realm_lib.runs.run import Run
from support.ppo_run import HELD_OUT, PROMPTS, letters, vowels
from support.ppo_run import make_params as make_ppo_params


def make_params(policy: Path, sampling: dict[str, Any] | None = None, **dpo: Any) -> RlhfParams:
    """Small and quick: 23 prompts with four responses of ten tokens each."""
    trained = {
        "model_name": str(policy),
        "pairs": "on_policy",
        "batch_size": 8,
        "num_epochs": 2,
        "learning_rate": 1e-3,
        "checkpoint_every": 2,
        "evaluate_every": 3,
        **dpo,
    }
    return make_ppo_params(policy, sampling).model_copy(update={"dpo": DPOParams(**trained)})


def interrupted(policy: Path, rounds: int = 1) -> RlhfParams:
    """Long enough to be killed on the way: some fifty batches of samples, then some fifty steps; of each of several
    rounds some thirty steps."""
    some = {"rounds": rounds, "batch_size": 4} if rounds > 1 else {}
    return make_params(policy, {"batch_size": 4}, samples_per_prompt=8, num_epochs=18, **some)


def run(policy: Path, folder: Path, rounds: int = 1) -> dict[str, Any]:
    """Train; what must be the same however often the training was killed."""
    result = train_dpo(
        interrupted(policy, rounds), letters, PROMPTS, held_out=HELD_OUT, judge={"vowels": vowels}, run=Run(folder)
    )
    return outcome(result)


def outcome(result: DPOResult) -> dict[str, Any]:
    """Metrics without times, history, and a digest of the trained weights."""
    digest = hashlib.sha256()
    for name, value in sorted(result.policy.model.state_dict().items()):
        digest.update(name.encode() + value.cpu().numpy().tobytes())
    metrics = {key: value for key, value in result.metrics().items() if key != "seconds"}
    return {"metrics": metrics, "history": result.history.to_dict("records"), "weights": digest.hexdigest()}


def cut_on_the_cpu() -> None:
    """Let accelerate cut weights over processes without GPUs, which it refuses by their kind alone: gloo can."""
    from accelerate.state import AcceleratorState, PartialState
    from accelerate.utils import DistributedType

    class CutState(AcceleratorState):  # type: ignore[misc]
        def __init__(self, *arguments: Any, **named: Any) -> None:
            state = PartialState._shared_state
            if state.get("distributed_type") == DistributedType.MULTI_CPU:
                state["distributed_type"] = DistributedType.MULTI_GPU
            super().__init__(*arguments, **named)

    import accelerate.accelerator

    accelerate.accelerator.AcceleratorState = CutState


def launched(policy: Path, folder: Path) -> dict[str, Any]:
    """Train in as many processes as were launched, its weights cut where accelerate was told so; what came of it.

    held and moments are, of each process, the numbers of the policy that it held before the first step and of Adam's
    two moments after it.
    """
    import trl

    from realm_lib.rlhf.policies import local_part
    from realm_lib.rlhf.policies.sharding import local_weights
    from realm_lib.rlhf.processes import Peers

    held: list[int] = []
    moments: list[int] = []

    class Watched(trl.DPOTrainer):  # type: ignore[misc]
        def training_step(self, *arguments: Any, **named: Any) -> Any:
            held.append(local_weights(self.model.parameters()))
            states = self.optimizer.state.values()
            moments.append(sum(local_part(each[name]).numel() for each in states for name in ("exp_avg", "exp_avg_sq")))
            return super().training_step(*arguments, **named)

    trl.DPOTrainer = Watched
    if os.environ.get("ACCELERATE_USE_FSDP") == "true":
        cut_on_the_cpu()
    sets = {"held_out": HELD_OUT, "judge": {"vowels": vowels}}
    result = train_dpo(make_params(policy), letters, PROMPTS, **sets, run=Run(folder), keep_result=True)
    peers = Peers()
    found = {"held": peers.together(lambda: held[:1]), "moments": peers.together(lambda: moments[1:2])}
    return {**outcome(result), **found, "processes": peers.count}


def main() -> None:
    from realm_lib.rlhf.processes import Peers
    from realm_lib.runs.files import write_json

    policy, folder, target = map(Path, sys.argv[1:4])
    found = launched(policy, folder) if sys.argv[4:] == ["launched"] else run(policy, folder, *map(int, sys.argv[4:]))
    peers = Peers()
    if peers.is_main:
        write_json(target, found)
    peers.leave()


if __name__ == "__main__":
    main()
