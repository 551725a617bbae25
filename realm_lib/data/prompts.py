"""The prompts of a split: posts to train a policy on, to choose one by, or to judge it by."""

from typing import Literal

import pandas as pd

from realm_lib.config.data import DataParams
from realm_lib.config.rlhf import SamplingParams
from realm_lib.data.chats import PairsError
from realm_lib.data.kept import keep_pairs
from realm_lib.data.pairs import load_pairs
from realm_lib.runs.run import Run

PromptSplit = Literal["train", "validation", "test"]


def policy_pairs(
    data: DataParams, sampling: SamplingParams, split: PromptSplit, run: Run | None = None
) -> pd.DataFrame:
    """The pairs of a split in the domains that ``sampling`` names, those kept in ``run`` where one is given."""
    in_domains = data if sampling.domains is None else data.model_copy(update={"domains": sampling.domains})
    return load_pairs(in_domains, split) if run is None else keep_pairs(run, in_domains, (split,))[split].table


def load_prompts(data: DataParams, sampling: SamplingParams, split: PromptSplit, run: Run | None = None) -> list[str]:
    """The distinct posts of a split, in the order of its pairs: prompts to train on, to choose by, or to judge by.

    With ``run`` the pairs kept in its folder are read. Of the test split the first ``sampling.held_out_prompts``;
    raises :class:`PairsError` when there are fewer. Of the validation split at most so many.
    """
    posts = policy_pairs(data, sampling, split, run).drop_duplicates("post_id")
    prompts: list[str] = posts["history"].drop_duplicates().tolist()  # posts that were cut may have become equal
    if split == "train":
        return prompts
    if split == "test" and len(prompts) < sampling.held_out_prompts:
        raise PairsError(
            f"rlhf.sampling.held_out_prompts is {sampling.held_out_prompts}, but the test split has {len(prompts)} "
            "distinct prompts: lower it, or take a larger data.splits.test or more domains"
        )
    return prompts[: sampling.held_out_prompts]
