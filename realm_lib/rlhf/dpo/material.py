"""What DPO learns from and is judged by: prompts or human pairs of training, held-out prompts of test."""

from dataclasses import dataclass

import pandas as pd

from realm_lib.config.data import DataParams
from realm_lib.config.rlhf import RlhfParams
from realm_lib.data.chats import prompt_key
from realm_lib.data.prompts import load_prompts, policy_pairs
from realm_lib.data.seen import TrainedOn, seen_prompts
from realm_lib.rlhf.dpo.pairs import prompt_column
from realm_lib.rlhf.errors import DPOError
from realm_lib.runs.run import Run


@dataclass(frozen=True)
class Material:
    """The arguments of :func:`realm_lib.rlhf.dpo.training.train_dpo` that come from data."""

    training: list[str] | pd.DataFrame
    """Prompts (on-policy) or pairs in SHP's columns (human)."""
    held_out: list[str]
    """Prompts of the test split; none of the training posts is among them."""
    held_out_pairs: pd.DataFrame | None
    """Human: the pairs of those prompts. None where pairs are made on-policy."""


def load_material(data: DataParams, params: RlhfParams, run: Run | None = None) -> Material:
    """Training prompts or pairs and held-out ones, of the domains that ``params.sampling`` says.

    With ``run`` the pairs kept in its folder are read. Raises what :func:`realm_lib.data.prompts.load_prompts` raises,
    and :class:`DPOError` without a section ``rlhf.dpo``.
    """
    if params.dpo is None:
        raise DPOError("rlhf.dpo is missing from the parameters")
    held_out = load_prompts(data, params.sampling, "test", run)
    held = {prompt_key(prompt) for prompt in held_out}
    if params.dpo.pairs == "on_policy":
        prompts = load_prompts(data, params.sampling, "train", run)
        return Material([prompt for prompt in prompts if prompt_key(prompt) not in held], held_out, None)
    training, test = (policy_pairs(data, params.sampling, split, run) for split in ("train", "test"))
    return Material(
        training[~training["history"].map(prompt_key).isin(held)].reset_index(drop=True),
        held_out,
        test[test["history"].map(prompt_key).isin(held)].reset_index(drop=True),
    )


def unseen_pairs(pairs: pd.DataFrame, known: TrainedOn) -> pd.DataFrame:
    """People's ``pairs`` of prompts that no model was trained on, in the form in which they are given."""
    return pairs[~seen_prompts(pairs[prompt_column(pairs)].tolist(), known).seen]
