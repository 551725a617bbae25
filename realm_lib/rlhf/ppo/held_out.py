"""Prompts that are not learned from, answered at several points of a training; which policy is kept, and its gain."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd

from realm_lib.config.rlhf import PPOParams, SamplingParams
from realm_lib.data.chats import Prompt, as_text, prompt_key
from realm_lib.data.seen import TrainedOn
from realm_lib.evaluation.resampling import bootstrap_over_posts
from realm_lib.rlhf.errors import PPOError
from realm_lib.rlhf.policies import EncodedPrompts, PolicyError, encode_prompts
from realm_lib.rlhf.ppo.monitor import describe
from realm_lib.rlhf.ppo.rollout import Asked, Episode
from realm_lib.rlhf.unseen import unseen
from realm_lib.runs.files import write_text
from realm_lib.runs.seeds import derive_seed


@dataclass(frozen=True)
class PromptSet:
    """Prompts that are answered to watch the policy, from the same random numbers each time."""

    kind: str
    prompts: list[Prompt]
    encoded: EncodedPrompts

    @classmethod
    def of(cls, kind: str, prompts: Sequence[Prompt], tokenizer: Any, sampling: SamplingParams) -> Self:
        """As tokens; raises what :func:`realm_lib.rlhf.policies.encode_prompts` raises, and says of which set."""
        try:
            encoded = encode_prompts(tokenizer, prompts, sampling.max_prompt_tokens, sampling.enable_thinking)
            return cls(kind, list(prompts), encoded)
        except PolicyError as error:
            raise PolicyError(f"{kind}: {error}") from error

    def asked(self, seed: int) -> list[Asked]:
        """Each prompt once; the same answers' seeds whenever it is asked."""
        return [
            Asked(index, self.prompts[index], ids, derive_seed(seed, "ppo", self.kind, index))
            for index, ids in zip(self.encoded.kept, self.encoded.ids, strict=True)
        ]

    def unseen(self, known: TrainedOn) -> Self:
        """The same without prompts that a model was trained on. Raises :class:`PolicyError` where none is left."""
        try:
            places, said = unseen(self.fitting, known)
        except PolicyError as error:
            raise PolicyError(f"{self.kind}: {error}") from error
        return replace(self, encoded=_only(self.encoded, places, said))

    @property
    def fitting(self) -> list[Prompt]:
        """The prompts that are not left out."""
        return [self.prompts[index] for index in self.encoded.kept]

    def with_prompts(self, rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Rows of answers with the text of their prompts, for a file that is read by itself."""
        return [{**row, "post": as_text(self.prompts[row["prompt"]])} for row in rows]


def without_held_out(encoded: EncodedPrompts, prompts: Sequence[Prompt], held: Iterable[Prompt]) -> EncodedPrompts:
    """Training's ``prompts``, as tokens, without those that are held out too, by :func:`prompt_key`; they are counted.

    Raises :class:`PPOError` when none is left.
    """
    keys = {prompt_key(prompt) for prompt in held}
    places = [place for place, index in enumerate(encoded.kept) if prompt_key(prompts[index]) not in keys]
    if not places:
        raise PPOError("every prompt to learn from is held out too: give others")
    gone = len(encoded.kept) - len(places)
    said = f"{gone} of {len(prompts)} prompts left out: they are held out (white space and case do not count)"
    return _only(encoded, places, said if gone else "")


def _only(encoded: EncodedPrompts, places: Sequence[int], said: str) -> EncodedPrompts:
    """The prompts at some ``places`` among those that fit; ``said`` is why the others are left out."""
    return EncodedPrompts(
        [encoded.ids[place] for place in places],
        [encoded.kept[place] for place in places],
        encoded.dropped + len(encoded.kept) - len(places),
        "; ".join(filter(None, [encoded.reason, said])),
    )


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write JSON, one row a line; the file appears when it is whole."""
    write_text(path, "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))


def summary(step: int, episodes: Sequence[Episode], params: PPOParams) -> dict[str, float]:
    """The means over the watched prompts after ``step`` updates; ``objective`` is the reward less its penalties.

    They are those of training: on the ensemble's spread, and on a missing EOS.
    """
    missing = params.missing_eos_penalty or 0.0
    worth = [episode.worth(params.reward_uncertainty_penalty) - missing * (not episode.ended) for episode in episodes]
    return {
        "step": step,
        "episodes": step * params.batch_size,
        "objective": float(np.mean(worth)),
        **describe(episodes),
    }


def sample_rows(step: int, episodes: Sequence[Episode]) -> list[dict[str, Any]]:
    """One row a watched prompt, for the table of samples."""
    return [
        {
            "step": step,
            "prompt": episode.index,
            "response": episode.text,
            **episode.told,
            "kl": episode.kl,
            "length": len(episode.response_ids),
            "ended": episode.ended,
        }
        for episode in episodes
    ]


def choose(evaluations: Sequence[dict[str, float]], params: PPOParams) -> int:
    """The step whose policy is kept: the best mean objective on the prompts to choose on.

    Objective: reward less ``reward_uncertainty_penalty`` spreads, less the penalty for a missing EOS. Only steps whose
    KL there is within ``kl_budget`` count, where there is one; the policy as it came (KL 0) always does. The earliest
    of equals. Judges have no say.
    """
    budget = np.inf if params.kl_budget is None else params.kl_budget
    allowed = [row for row in evaluations if row["step"] == 0 or row["kl"] <= budget]
    best = max(allowed, key=lambda row: (row["objective"], -row["step"]))
    return int(best["step"])


def paired_difference(samples: pd.DataFrame, column: str, step: int) -> dict[str, Any]:
    """Mean of ``column`` before (step 0) and after ``step``, and the 95 % interval of their paired difference.

    The interval resamples prompts; both policies drew each answer from the same random numbers.
    """
    before = samples[samples["step"] == 0].set_index("prompt")[column]
    after = samples[samples["step"] == step].set_index("prompt")[column].loc[before.index]
    drawn = bootstrap_over_posts(after.to_numpy() - before.to_numpy(), before.index.to_numpy())
    return {
        "before": float(before.mean()),
        "after": float(after.mean()),
        "difference": float(drawn.means[0]),
        "ci_of_difference": drawn.interval(),
    }
