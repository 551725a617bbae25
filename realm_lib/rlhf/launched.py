"""What ``accelerate launch`` starts: the training of notebook 04 or 05 on a run, by any number of processes.

The notebook that is executed afterwards finds what came of it, trains nothing, and draws its figures.
"""

from typing import Literal

from realm_lib.config.base import ParamsError
from realm_lib.config.data import DataParams
from realm_lib.config.profile import load_params
from realm_lib.config.rlhf import RlhfParams
from realm_lib.data.prompts import PromptSplit, load_prompts
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

    Raises :class:`ParamsError` for parameters without a section rlhf, and what
    :func:`realm_lib.rlhf.ppo.training.train_ppo` or :func:`realm_lib.rlhf.dpo.training.train_dpo` raises.
    """
    params = load_params(run.path("params.yaml"))
    if params.rlhf is None:
        raise ParamsError(f"{run.path('params.yaml')}: there is no section rlhf: nothing is to be trained")
    peers = Peers()
    told = (_ppo if method == "ppo" else _dpo)(params.data, params.rlhf, run)
    peers.leave()
    return f"{told}\n" if peers.is_main else ""


def _ppo(data: DataParams, params: RlhfParams, run: Run) -> str:
    reward = load_reward(params, run)
    splits: tuple[PromptSplit, ...] = ("train", "validation", "test")
    prompts, choose_on, held_out = (load_prompts(data, params.sampling, split, run) for split in splits)
    result = train_ppo(
        params,
        reward,
        prompts,
        held_out=held_out,
        choose_on=choose_on,
        judge=load_judges(params.judges, reward, simulated=data.source == "simulator", run=run),
        run=run,
        progress=show_progress(),
        keep_result=True,
    )
    return f"{len(result.history)} updates by {Peers().count} processes; the policy after {result.best_step} was kept"


def _dpo(data: DataParams, params: RlhfParams, run: Run) -> str:
    reward = load_reward(params, run)
    material = load_material(data, params, run)
    result = train_dpo(
        params,
        reward,
        material.training,
        held_out=material.held_out,
        held_out_pairs=material.held_out_pairs,
        judge=load_judges(params.judges, reward, simulated=data.source == "simulator", run=run),
        run=run,
        progress=show_progress(),
        keep_result=True,
    )
    steps = int(result.history["step"].max())
    return f"{len(result.pairs)} pairs, {steps} steps by {Peers().count} processes"
