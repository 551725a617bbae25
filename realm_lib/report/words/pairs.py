"""Pairs of responses in words: which one a reward prefers, what pairs were made or read, and the ones it gets wrong."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from realm_lib.evaluation.per_pair import wrong_pairs
from realm_lib.report.words.numbers import counted, interval, listed, percent

if TYPE_CHECKING:
    from realm_lib.rlhf.dpo.pairs import PreferencePairs

_LIKE_LENGTH = 0.05  # a difference of lengths, over their mean, below which nothing is to be learned from it
_LONGEST = 600  # characters of a quoted text


def preferred(rewards: tuple[float, float], probability: float, readers: int | None = None) -> str:
    """Which of two responses, A and B, a reward prefers, how sure it is, and whether readers agree where that is known.

    ``probability`` is that of A; ``readers`` preferred response 0 (A) or 1 (B).
    """
    if rewards[0] == rewards[1]:
        return "Both get the same reward."
    if probability == 0.5:
        return "Which would be preferred cannot be said: on validation pairs the reward was no better than chance."
    winner = 0 if probability > 0.5 else 1
    sure = max(probability, 1 - probability)
    text = f"Response {'AB'[winner]} would be preferred with {_sure(sure)} probability."
    if readers is None:
        return text
    return f"{text} Readers preferred {'AB'[readers]}: the reward is {'right' if winner == readers else 'wrong'}."


def lies_outside(responses: Sequence[str]) -> str:
    """That ``responses``, A or B or both, are beyond what the combiner was trained on, and what the reward is there."""
    if len(responses) > 1:
        return f"Responses {listed(responses)} lie outside the training range: the reward takes the border's value."
    return f"Response {responses[0]} lies outside the training range: the reward takes the border's value."


def pairs_made(pairs: "PreferencePairs") -> str:
    """How many pairs there are to train on, of how many prompts or pairs, and why the others are left out."""
    asked = "prompts" if pairs.kind == "on_policy" else "human pairs"
    text = f"{counted(len(pairs), 'pairs')} from {counted(pairs.asked, asked)}"
    reasons = "; ".join(f"{count:,}: {reason}" for reason, count in pairs.dropped.items())
    return f"{text}; left out: {reasons}." if reasons else f"{text}."


def pair_lengths(difference: Mapping[str, float]) -> str:
    """Whether chosen answers are longer than rejected ones, and what that would teach.

    ``difference`` is from :func:`realm_lib.rlhf.dpo.balance.length_difference`.
    """
    tokens, characters = difference["tokens"], difference["characters"]
    share = max(difference["tokens_share"], difference["characters_share"], key=abs)
    text = (
        f"Chosen answers have on average {_more(tokens, 'tokens', '.1f')} ({percent(abs(difference['tokens_share']))} "
        f"of the mean) and {_more(characters, 'characters', '.0f')} than rejected ones; the one of more tokens is "
        f"chosen in {percent(difference['longer'])} of the pairs, equal ones counting half."
    )
    if abs(share) <= _LIKE_LENGTH:
        return text
    kind = "longer" if share > 0 else "shorter"
    return (
        f"{text} **DPO can learn this difference instead of the rest**: answers that are {kind} and no better. "
        "`rlhf.dpo.balance_length` chooses pairs without it; more `samples_per_prompt` give it more to choose from."
    )


def _sure(probability: float) -> str:
    """A probability in whole hundredths; never 100 %."""
    return f"{100 * probability:.0f} %" if probability < 0.995 else "over 99 %"


def _more(difference: float, things: str, form: str) -> str:
    """``15.2 more tokens``, ``1 fewer character``, ``no more tokens`` where nothing is left after rounding."""
    size = f"{abs(difference):{form}}"
    if float(size) == 0:
        return f"no more {things}"
    return f"{size} {'more' if difference > 0 else 'fewer'} {things.removesuffix('s') if size == '1' else things}"


def agreement(ranked: Mapping[str, Any] | None) -> str:
    """How often the reward's order is right, from :func:`realm_lib.rlhf.dpo.result.ranking_agreement`."""
    if ranked is None:
        return "Without the truth or a label nobody can say whether the order is right."
    truth = {"gold": "simulated truth"}.get(ranked["with"], ranked["with"])
    return (
        f"REALM's order agrees with the {truth} on **{percent(ranked['share'])}** of "
        f"{counted(ranked['pairs'], 'pairs')} (95 % interval over prompts {interval(ranked['ci'])})."
    )


def worst_pairs(per_pair: pd.DataFrame, features: pd.DataFrame, name: str = "realm", count: int = 3) -> str:
    """The pairs that reward ``name`` is wrong about and surest of, as Markdown to read."""
    return "\n\n---\n\n".join(
        f"> **Post.** {_quoted(pair['prompt'])}\n>\n"
        f"> **Chosen, reward {pair['reward_chosen']:+.2f}.** {_quoted(pair['chosen'])}\n>\n"
        f"> **Rejected, reward {pair['reward_rejected']:+.2f}.** {_quoted(pair['rejected'])}"
        for pair in wrong_pairs(per_pair, features, name).head(count).to_dict("records")
    )


def _quoted(text: str) -> str:
    """One paragraph of a block quote, whatever the text holds; long texts are cut with an ellipsis."""
    flat = " ".join(text.split()).replace("<", "&lt;").replace("$", "&#36;")
    return flat if len(flat) <= _LONGEST else f"{flat[:_LONGEST]} ..."
