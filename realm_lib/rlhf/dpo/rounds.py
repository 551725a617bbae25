"""Rounds: pairs are made, trained on, and made again by the policy that came of it (Guo et al., arXiv 2402.04792).

The prompts are divided over the rounds. All of them again would cost so many times the samples and rewards, and would
show the policy prompts that it knows the answers to; divided, a run of any number of rounds costs what one costs.

A finished round stays as its last checkpoint until all are done. A run that was killed goes through its rounds again:
finished ones are read, their samples are in the run's folder, and the one that was stopped goes on.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from realm_lib.config.rlhf import DPOParams
from realm_lib.data.chats import Prompt, prompt_key
from realm_lib.rlhf.dpo.fitting import fit, training_identity
from realm_lib.rlhf.dpo.held_out import HeldOutPairs, side_log_probs, summed
from realm_lib.rlhf.dpo.pairs import PreferencePairs
from realm_lib.rlhf.errors import DPOError
from realm_lib.rlhf.policies import Policy, load_policy
from realm_lib.rlhf.tracking import Tracking


@dataclass(frozen=True)
class Rounds:
    """What a training of one or several rounds leaves beside the policy, which it trained in place."""

    pairs: PreferencePairs
    """Those of all rounds."""
    history: pd.DataFrame
    """See :func:`realm_lib.rlhf.dpo.fitting.fit`; steps are counted on from round to round."""
    identity: str
    """Of the policy that came of it."""


def first_part(prompts: Sequence[Prompt], rounds: int) -> tuple[list[Prompt], tuple[Prompt, ...]]:
    """The prompts of the first of ``rounds``, and those of the others, in their order; equal prompts count once."""
    distinct = list({prompt_key(prompt): prompt for prompt in prompts}.values())
    return distinct[::rounds], tuple(prompt for place, prompt in enumerate(distinct) if place % rounds)


def check_enough(pairs: PreferencePairs, params: DPOParams, number: int = 0) -> None:
    """Raise :class:`DPOError` for fewer pairs than a batch in the round of this ``number``, from 0."""
    if len(pairs) < params.batch_size:
        which = f"round {number + 1} of {params.rounds}: " if params.rounds > 1 else ""
        raise DPOError(
            f"{which}{pairs.report()}. That is fewer than rlhf.dpo.batch_size {params.batch_size}: lower it, or take "
            "more prompts (max_prompts, data.splits.train), more samples_per_prompt or a lower min_margin"
        )


def train_rounds(
    policy: Policy,
    pairs: PreferencePairs,
    followed: HeldOutPairs,
    params: DPOParams,
    *,
    checkpoints: Path,
    start: str,
    reward: dict[str, str] | None,
    folder: Path | None,
    track: Callable[[str], Tracking],
    make: Callable[[str, Sequence[Prompt]], PreferencePairs],
    progress: bool = False,
    keep: bool = False,
) -> Rounds:
    """Train ``policy`` in place on ``pairs``, and in later rounds on those that ``make`` makes of ``pairs.later``.

    ``start`` is the identity of the policy as it comes in, which is the reference of all rounds; ``reward`` that of the
    reward. ``make`` is called with the identity of the policy as it is then and with prompts. ``folder`` is where
    ``run:`` names start; ``track`` starts the trackers of a training that is known by its identity; ``keep`` is that of
    :func:`realm_lib.rlhf.dpo.fitting.fit`. Raises :class:`DPOError` for a round with fewer pairs than a batch, and for
    pairs that were made for another number of rounds.
    """
    later = pairs.later
    if (params.rounds > 1) != bool(later):
        raise DPOError(
            f"rlhf.dpo.rounds is {params.rounds}, but the pairs have {len(later)} prompts for later rounds: make them "
            "by make_pairs with these parameters, or give the prompts"
        )
    identity, steps, histories, now = start, 0, [], pairs
    for number in range(params.rounds):
        if number:
            now = make(identity, later[number - 1 :: params.rounds - 1])
            pairs = pairs.and_then(now)
        check_enough(now, params, number)
        reference = _reference(policy, now, followed.batch_size, params, folder) if number else None
        identity = training_identity(params, identity, now, followed.pairs, reward)
        if number == 0:
            tracking = track(identity)
        history = fit(
            policy,
            now,
            followed,
            params,
            checkpoints / f"round_{number + 1}",
            identity,
            number=number,
            reference=reference,
            progress=progress,
            tracking=tracking,
            steps_before=steps,
            keep=keep,
        )
        end = int(history["step"].max())
        if number:
            history = history[history["step"] > 0].assign(step=history["step"] + steps)
        steps += end
        histories.append(history)
    tracking.finish()
    return Rounds(pairs, pd.concat(histories, ignore_index=True), identity)


def _reference(
    policy: Policy, pairs: PreferencePairs, batch_size: int, params: DPOParams, folder: Path | None
) -> dict[str, list[float]]:
    """log pi_ref of both responses of each pair: of the start, which ``policy`` no longer is."""
    with _start_of(policy, params, folder) as start:
        return summed(side_log_probs(start, pairs, batch_size))


@contextmanager
def _start_of(policy: Policy, params: DPOParams, folder: Path | None) -> Iterator[Policy]:
    """The policy that training began from: under a LoRA adapter the base, else its files read once more."""
    if params.lora is None:
        yield load_policy(params, folder)
    else:
        with policy.model.disable_adapter():
            yield policy
