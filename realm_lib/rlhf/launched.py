"""What ``accelerate launch`` starts: the training of notebook 04 or 05 on a run, by any number of processes.

The notebook that is executed afterwards finds what came of it, trains nothing, and draws its figures.
"""

from typing import Literal

from realm_lib.config.profile import Params, load_params
from realm_lib.data.prompts import load_prompts
from realm_lib.data.simulator import gold_utilities
from realm_lib.rlhf.dpo.material import load_material
from realm_lib.rlhf.dpo.training import train_dpo
from realm_lib.rlhf.judges import load_judges
from realm_lib.rlhf.ppo.training import train_ppo
from realm_lib.rlhf.processes import Peers
from realm_lib.rlhf.rewards import load_reward
from realm_lib.runs.run import Run, show_progress


def train(run: Run, method: Literal["ppo", "dpo"]) -> str:
    """Train as the method's notebook does with the run's parameters; a line that says what came of it, in the process
    that writes files, and nothing in the others.

    Raises what :func:`realm_lib.rlhf.ppo.training.train_ppo` or :func:`realm_lib.rlhf.dpo.training.train_dpo` raises.
    """
    params = load_params(run.path("params.yaml"))
    told = (_ppo if method == "ppo" else _dpo)(params, run)
    return f"{told}\n" if Peers().is_main else ""


def _ppo(params: Params, run: Run) -> str:
    reward = load_reward(params.rlhf, run)
    splits = ("train", "validation", "test")
    prompts, choose_on, held_out = (load_prompts(params.data, params.rlhf.sampling, split, run) for split in splits)
    result = train_ppo(
        params.rlhf,
        reward,
        prompts,
        held_out=held_out,
        choose_on=choose_on,
        judge=gold_utilities if params.data.source == "simulator" else None,
        run=run,
        progress=show_progress(),
        keep_result=True,
    )
    return f"{len(result.history)} updates by {Peers().count} processes; the policy after {result.best_step} was kept"


def _dpo(params: Params, run: Run) -> str:
    reward = load_reward(params.rlhf, run)
    material = load_material(params.data, params.rlhf, run)
    result = train_dpo(
        params.rlhf,
        reward,
        material.training,
        held_out=material.held_out,
        held_out_pairs=material.held_out_pairs,
        judge=load_judges(params.rlhf.judges, reward, simulated=params.data.source == "simulator"),
        run=run,
        progress=show_progress(),
        keep_result=True,
    )
    steps = int(result.history["step"].max())
    return f"{len(result.pairs)} pairs, {steps} steps by {Peers().count} processes"
