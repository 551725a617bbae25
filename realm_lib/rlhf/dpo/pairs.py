"""Two ways to preference pairs: what people preferred, and the policy's own responses ranked by the reward."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import permutations
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from realm_lib.config.rlhf import DPOParams, SamplingParams
from realm_lib.data.chats import Prompt, as_text, prompt_key
from realm_lib.data.pairs import chosen_and_rejected
from realm_lib.data.texts import is_blank
from realm_lib.models.chat_tokens import ChatTokensError, letter_ids
from realm_lib.rlhf.dpo.balance import balance_length
from realm_lib.rlhf.dpo.likeness import near_duplicates
from realm_lib.rlhf.errors import DPOError
from realm_lib.rlhf.policies import Policy, Response, encode_prompts
from realm_lib.rlhf.processes import Peers
from realm_lib.rlhf.rewards import Reward, ask_reward
from realm_lib.rlhf.samples import SampleStore

Rewards = tuple[NDArray[np.float64], NDArray[np.bool_]]

_PROMPTS_AT_ONCE = 64  # of which the rewards are asked in one call


@dataclass(frozen=True)
class PreferencePairs:
    """Pairs to train on, and what became of the prompts or pairs that made none."""

    table: pd.DataFrame
    """One row a pair: prompt, chosen, rejected (texts) and prompt_ids, chosen_ids, rejected_ids (tokens, EOS included
    where the response ended); on-policy also reward_chosen, reward_rejected and margin, their difference."""
    kind: Literal["human", "on_policy"]
    asked: int
    """Prompts (on-policy) or pairs (human) that there were."""
    dropped: dict[str, int] = field(default_factory=dict)
    """How many of those made no pair, by reason."""
    later: tuple[Prompt, ...] = ()
    """Prompts of the rounds to come (``rlhf.dpo.rounds``): their pairs are made by the policy as it is then."""
    floored: int = 0
    """On-policy: responses that got ``rlhf.floor_reward``; none of them is chosen."""

    def __len__(self) -> int:
        return len(self.table)

    def report(self) -> str:
        """The counts as a line for an error's message: pairs, of how many prompts or pairs, what was left out."""
        unit = "prompts" if self.kind == "on_policy" else "human pairs"
        text = f"{len(self)} pairs from {self.asked} {unit}"
        reasons = "; ".join(f"{count}: {reason}" for reason, count in self.dropped.items())
        return f"{text}; left out: {reasons}" if reasons else text

    def without_prompts(self, prompts: Iterable[Prompt]) -> "PreferencePairs":
        """The same without pairs of these prompts, whatever their case and spaces; those are counted."""
        held = {prompt_key(prompt) for prompt in prompts}
        keep = np.array([prompt_key(prompt) not in held for prompt in self.table["prompt"]], dtype=bool)
        later = tuple(prompt for prompt in self.later if prompt_key(prompt) not in held)
        if keep.all() and len(later) == len(self.later):
            return self
        reason = "the prompt is held out"
        dropped = {**self.dropped, reason: self.dropped.get(reason, 0) + int((~keep).sum())}
        return replace(self, table=self.table[keep].reset_index(drop=True), dropped=dropped, later=later)

    def and_then(self, others: "PreferencePairs") -> "PreferencePairs":
        """These pairs and those of a later round, with the counts of both."""
        dropped = dict(Counter(self.dropped) + Counter(others.dropped))
        table = pd.concat([self.table, others.table], ignore_index=True)
        return replace(self, table=table, asked=self.asked + others.asked, dropped=dropped, later=others.later)


def choose_pairs(
    responses: Sequence[str],
    rewards: Sequence[float],
    ended: Sequence[bool],
    *,
    selection: Literal["best_vs_worst", "all_above_margin"],
    min_margin: float,
    near_duplicate: float,
    floored: Sequence[bool] | None = None,
) -> tuple[list[tuple[int, int]], str]:
    """Indices (chosen, rejected) of the pairs that one prompt's ``responses`` make; if none, the reason.

    The better reward is chosen; it must be better by more than 0 and by at least ``min_margin``. A response that was
    cut, which ``ended`` tells, is never chosen: a policy would learn from it to go on until it is cut. Nor is one that
    could not be scored, which ``floored`` tells. A repeated response counts once, as its first, and
    :func:`near_duplicates` by the share ``near_duplicate`` make no pair.
    Best against worst takes the first of equals; all pairs come in the order of chosen, then rejected.
    """
    first_with: dict[str, int] = {}
    for index, response in enumerate(responses):
        first_with.setdefault(" ".join(response.split()), index)
    distinct = list(first_with.values())
    if len(distinct) < 2:
        return [], "all samples are identical"
    if len({rewards[index] for index in distinct}) == 1:
        return [], "all samples have the same reward"
    whole = [index for index in distinct if ended[index]]
    good = [index for index in whole if not (floored and floored[index])]
    if not good:
        return [], "no sample that ended could be scored" if whole else "no sample ended within max_new_tokens"
    best = max(good, key=lambda index: (rewards[index], -index))
    worst = min(distinct, key=lambda index: (rewards[index], index))
    if rewards[best] == rewards[worst]:
        return [], "the better samples were cut at max_new_tokens"
    if rewards[best] - rewards[worst] < min_margin:
        return [], f"no two samples differ by min_margin {min_margin:g}"
    if selection == "best_vs_worst":
        pairs = [(best, worst)]
    else:
        pairs = sorted(
            (a, b)
            for a, b in permutations(distinct, 2)
            if a in good and rewards[a] > rewards[b] and rewards[a] - rewards[b] >= min_margin
        )
    kept = [(a, b) for a, b in pairs if not near_duplicates(responses[a], responses[b], near_duplicate)]
    return kept, "" if kept else "chosen and rejected are near-duplicates"


def on_policy_pairs(
    policy: Policy,
    reward: Reward,
    prompts: Sequence[Prompt],
    store: SampleStore,
    params: DPOParams,
    sampling: SamplingParams,
    *,
    floor: float | None = None,
    progress: bool = False,
) -> PreferencePairs:
    """Pairs from ``samples_per_prompt`` responses of ``policy`` to each prompt, ranked by ``reward``.

    Equal prompts count once; prompts over ``max_prompt_tokens`` are left out and counted. ``floor`` is the reward of
    what cannot be scored (``rlhf.floor_reward``).
    Raises :class:`DPOError` for temperature 0, :class:`RewardError` for a reward that cannot be used.
    """
    if sampling.temperature == 0:
        raise DPOError("rlhf.sampling.temperature must be above 0: a greedy policy answers a prompt in one way only")
    distinct = list({prompt_key(prompt): prompt for prompt in prompts}.values())
    encoded = encode_prompts(policy.tokenizer, distinct, sampling.max_prompt_tokens, sampling.enable_thinking)
    numbers, peers = range(params.samples_per_prompt), Peers()
    rows: list[dict[str, Any]] = []
    dropped: Counter[str] = Counter()
    if encoded.dropped:
        dropped[f"longer than max_prompt_tokens {sampling.max_prompt_tokens}"] = encoded.dropped

    def answered() -> list[tuple[list[Response], Rewards]]:
        drawn = store.draw(policy, peers.share(encoded.ids), numbers, progress=progress)
        texts = [[answer.text for answer in answers] for answers in drawn]
        told = _rewards(reward, distinct, peers.share(encoded.kept), texts, floor, progress)
        return list(zip(drawn, told, strict=True))

    told = peers.together(answered)
    for index, ids, (answers, (values, floored)) in zip(encoded.kept, encoded.ids, told, strict=True):
        pairs, reason = choose_pairs(
            [answer.text for answer in answers],
            values.tolist(),
            [answer.ended for answer in answers],
            selection="all_above_margin" if params.balance_length else params.selection,
            min_margin=params.min_margin,
            near_duplicate=params.near_duplicate,
            floored=floored.tolist(),
        )
        if reason:
            dropped[reason] += 1
        rows += [
            {
                "prompt": as_text(distinct[index]),
                "chosen": answers[a].text,
                "rejected": answers[b].text,
                "prompt_ids": ids,
                "chosen_ids": answers[a].ids,
                "rejected_ids": answers[b].ids,
                "reward_chosen": float(values[a]),
                "reward_rejected": float(values[b]),
                "margin": float(values[a] - values[b]),
            }
            for a, b in pairs
        ]
    table = pd.DataFrame(rows, columns=_ON_POLICY)
    if params.balance_length:
        table, unmatched = balance_length(table, one_a_prompt=params.selection == "best_vs_worst")
        dropped.update(unmatched)
    count = sum(int(floored.sum()) for _, (_, floored) in told)
    return PreferencePairs(table, "on_policy", len(distinct), dict(dropped), floored=count)


_HUMAN = ["prompt", "chosen", "rejected", "prompt_ids", "chosen_ids", "rejected_ids"]
_ON_POLICY = [*_HUMAN, "reward_chosen", "reward_rejected", "margin"]


def _rewards(
    reward: Reward,
    prompts: Sequence[Prompt],
    kept: Sequence[int],
    answers: Sequence[Sequence[str]],
    floor: float | None,
    progress: bool,
) -> list[Rewards]:
    """The reward of each answer and whether it is the floor, an array each for every prompt; ``kept`` are their places.

    They are asked for a few prompts at a time, so that a bar can move.
    """
    from tqdm.auto import tqdm

    told: list[Rewards] = []
    with tqdm(total=len(answers), desc="rewards", unit="prompt", disable=not progress) as bar:
        for start in range(0, len(answers), _PROMPTS_AT_ONCE):
            some = answers[start : start + _PROMPTS_AT_ONCE]
            indices = [index for index, texts in zip(kept[start:], some, strict=False) for _ in texts]
            texts = [text for row in some for text in row]
            posed = [prompts[index] for index in indices]
            table = ask_reward(reward, posed, texts, indices, needs_spread=False, floor=floor)
            ends = np.cumsum([len(row) for row in some])[:-1]
            rewards = np.split(table["reward"].to_numpy(dtype=np.float64), ends)
            told += zip(rewards, np.split(table["floored"].to_numpy(dtype=bool), ends), strict=True)
            bar.update(len(some))
    return told


def human_pairs(policy: Policy, pairs: pd.DataFrame, params: DPOParams, sampling: SamplingParams) -> PreferencePairs:
    """Pairs as people decided them: ``pairs`` in SHP's columns (:func:`realm_lib.data.pairs.load_pairs`), or in
    columns prompt, chosen, rejected.

    A response's tokens are those of its text and EOS. Repeated pairs, pairs of equal responses, pairs that are too long
    for ``max_prompt_tokens``, ``max_length`` or the model's context, and those that :func:`letter_ids` refuses are left
    out and counted. Responses that are nearly equal stay: what people told apart may be one word, or one sign.
    Raises :class:`DPOError` for missing columns and for texts that are empty, with the row.
    """
    frame = _chosen_rejected(pairs)
    if frame.empty:
        raise DPOError("there are no pairs, or all of them are of held-out prompts")
    for column in ("prompt", "chosen", "rejected"):
        empty = frame[column].map(lambda text: not isinstance(text, str) or is_blank(text))
        if empty.any():
            raise DPOError(f"pairs: row {frame.index[empty][0]} has no text in column {column!r}: remove it")
    limit = min(value for value in (params.max_length, policy.context, np.inf) if value is not None)
    dropped: Counter[str] = Counter()
    asked = len(frame)
    frame = frame.drop_duplicates(ignore_index=True)
    dropped["repeated pairs"] = asked - len(frame)
    equal = (frame["chosen"].str.strip() == frame["rejected"].str.strip()).to_numpy(dtype=bool)
    dropped["chosen and rejected are equal"] = int(equal.sum())
    frame = frame[~equal].reset_index(drop=True)
    if frame.empty:
        return PreferencePairs(pd.DataFrame(columns=_HUMAN), "human", asked, +dropped)
    prompts = list(frame["prompt"].unique())
    encoded = encode_prompts(policy.tokenizer, prompts, sampling.max_prompt_tokens, sampling.enable_thinking)
    ids_of = {prompts[index]: ids for index, ids in zip(encoded.kept, encoded.ids, strict=True)}
    eos = int(policy.tokenizer.eos_token_id)
    rows: list[dict[str, Any]] = []
    for prompt, chosen, rejected in zip(frame["prompt"], frame["chosen"], frame["rejected"], strict=True):
        ids = ids_of.get(prompt)
        if ids is None:
            dropped[f"prompt longer than max_prompt_tokens {sampling.max_prompt_tokens}"] += 1
            continue
        try:
            answers = [[*row, eos] for row in letter_ids(policy.tokenizer, [chosen, rejected])]
        except ChatTokensError:
            dropped["a response says a token that marks turns"] += 1
            continue
        if len(ids) + max(map(len, answers)) > limit:
            dropped[f"longer than {limit:.0f} tokens"] += 1
            continue
        rows.append(dict(zip(_HUMAN, (prompt, chosen, rejected, ids, *answers), strict=True)))
    table = pd.DataFrame(rows, columns=_HUMAN)
    if params.balance_length:
        table, unmatched = balance_length(table, one_a_prompt=False)
        dropped.update(unmatched)
    return PreferencePairs(table, "human", asked, dict(+dropped))


def prompt_column(pairs: pd.DataFrame) -> str:
    """The column of a table of people's pairs that holds the prompts, every one of them text.

    Raises :class:`DPOError` for a table in neither form, and for prompts that are no text.
    """
    ours = {"prompt", "chosen", "rejected"} <= set(pairs.columns)
    missing = sorted({"history", "human_ref_A", "human_ref_B", "labels"} - set(pairs.columns))
    if missing and not ours:
        raise DPOError(f"pairs lack the column {missing[0]!r}: give SHP's columns, or prompt, chosen and rejected")
    column = "prompt" if ours else "history"
    bad = pairs[column].map(lambda prompt: not isinstance(prompt, str)).to_numpy(dtype=bool)
    if bad.any():
        raise DPOError(
            f"pairs: row {pairs.index[bad][0]} has no text in column {column!r}: remove it; pairs of chat messages "
            "become texts in realm_lib.data.pairs.load_pairs"
        )
    return column


def _chosen_rejected(pairs: pd.DataFrame) -> pd.DataFrame:
    if prompt_column(pairs) == "prompt":
        return pairs[["prompt", "chosen", "rejected"]]
    chosen, rejected = chosen_and_rejected(pairs)
    return pd.DataFrame({"prompt": pairs["history"], "chosen": chosen, "rejected": rejected})
