"""PPO on the policy that the parameters name, start to end."""

from collections.abc import Sequence

import torch

from realm_lib.config.rlhf import RlhfParams
from realm_lib.data.chats import Prompt
from realm_lib.rlhf.judges import Judges
from realm_lib.rlhf.policies import load_policy
from realm_lib.rlhf.ppo.finished import once
from realm_lib.rlhf.ppo.processes import Processes
from realm_lib.rlhf.ppo.result import PPOResult
from realm_lib.rlhf.ppo.trainer import PPOTrainer
from realm_lib.rlhf.rewards import Reward
from realm_lib.runs.run import Run
from realm_lib.runs.seeds import derive_seed


def train_ppo(
    params: RlhfParams,
    reward: Reward,
    prompts: Sequence[Prompt],
    *,
    held_out: Sequence[Prompt],
    choose_on: Sequence[Prompt] | None = None,
    judge: Judges = None,
    run: Run | None = None,
    name: str = "ppo",
    progress: bool = False,
    keep_result: bool = False,
) -> PPOResult:
    """Fine-tune the policy of ``params.ppo`` on ``prompts`` for ``reward``, and judge it on ``held_out``.

    ``choose_on`` are prompts that are answered at several points of the training; the policy that is kept is the one
    that does best on them. None of either is learned from. Without them ``held_out`` chooses too, and the gain that is
    reported there flatters: it is the best of several looks. Held-out prompts that the policy's start or the reward was
    trained on are left out and counted.

    ``judge`` is another reward (several by name) that is logged and never learned from, as the simulator's true
    utility; a single one is ``gold``. With ``run``, the policy is saved in models/policy_NAME, each update is a line of
    logs/NAME.jsonl, the answers at several points are in logs/NAME_samples.jsonl, and a training that was killed goes
    on from its last checkpoint to the weights that it would have reached. Under ``accelerate launch`` all processes
    work on one training; with FSDP they share the weights too. ``keep_result`` keeps what came of it, too: the same
    call, in any number of processes, then trains nothing again.

    Raises :class:`PPOError` for parameters that do not go together,
    :class:`realm_lib.config.base.ParamsError` for a judge's name that is taken,
    :class:`realm_lib.rlhf.errors.RewardError` for a reward or judge whose answer cannot be used,
    :class:`realm_lib.rlhf.policies.PolicyError` for policy and prompts: each before an update.
    """

    def train() -> PPOResult:
        with torch.random.fork_rng():
            torch.manual_seed(derive_seed(params.ppo.seed, "ppo", "new weights"))  # a LoRA adapter starts at random
            # A policy that is cut over processes never lies whole on a device.
            device = torch.device("cpu") if Processes().sharding is not None else None
            policy = load_policy(params.ppo, run.folder if run is not None else None, trainable=True, device=device)
        trainer = PPOTrainer(
            params, policy, reward, prompts, held_out=held_out, choose_on=choose_on, judge=judge, run=run, name=name
        )
        return trainer.train(progress=progress)

    used = {"training": prompts, "held_out": held_out, "choose_on": choose_on}
    return once(train, params, reward, used, run, name, keep=keep_result)
