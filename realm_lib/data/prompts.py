"""The prompts of a split: posts to train a policy on, to choose one by, or to judge it by."""

from typing import Literal

from realm_lib.config.data import DataParams
from realm_lib.config.rlhf import SamplingParams
from realm_lib.data.chats import PairsError
from realm_lib.data.pairs import load_pairs

__all__ = ["load_prompts"]


def load_prompts(
    data: DataParams, sampling: SamplingParams, split: Literal["train", "validation", "test"]
) -> list[str]:
    """The distinct posts of a split, in the order of its pairs: prompts to train on, to choose by, or to judge by.

    Of the test split the first ``sampling.held_out_prompts``; raises :class:`PairsError` when there are fewer. Of the
    validation split at most so many.
    """
    asked = data if sampling.domains is None else data.model_copy(update={"domains": sampling.domains})
    prompts: list[str] = load_pairs(asked, split)["history"].drop_duplicates().tolist()
    if split == "train":
        return prompts
    if split == "test" and len(prompts) < sampling.held_out_prompts:
        raise PairsError(
            f"rlhf.sampling.held_out_prompts is {sampling.held_out_prompts}, but the test split has {len(prompts)} "
            "distinct prompts: lower it, or take a larger data.splits.test or more domains"
        )
    return prompts[: sampling.held_out_prompts]
