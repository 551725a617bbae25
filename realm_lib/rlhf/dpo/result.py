"""What a training leaves: its history, its pairs, the held-out answers before and after, and metrics/dpo.json."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from realm_lib.data.chats import Prompt, as_text
from realm_lib.evaluation.resampling import bootstrap_over_posts
from realm_lib.evaluation.win_rates import win_rate, win_shares
from realm_lib.rlhf.dpo.balance import length_difference
from realm_lib.rlhf.dpo.pairs import PreferencePairs
from realm_lib.rlhf.policies import EncodedPrompts, Policy, Response
from realm_lib.rlhf.processes import Peers
from realm_lib.rlhf.rewards import Judge, Reward, ask_judge, ask_reward


@dataclass(frozen=True)
class DPOResult:
    """A finished training; ``policy`` holds the trained weights."""

    policy: Policy
    pairs: PreferencePairs
    held_out_pairs: PreferencePairs
    history: pd.DataFrame
    """By step: loss, margin and accuracy of training batches and of the held-out pairs (column split)."""
    implicit: pd.DataFrame
    """One row a held-out pair: prompt, and the policy's implicit rewards chosen and rejected after training (before,
    both are 0)."""
    answers: pd.DataFrame
    """One row a held-out prompt: prompt, before, after (texts), length_before, length_after (tokens), ended_before,
    ended_after, floored_before, floored_after, and JUDGE_before, JUDGE_after for every judge."""
    judges: tuple[str, ...]
    """Names of the judges; the first is ``realm``, the reward that training used."""
    dropped: str
    """Which held-out prompts were left out, in words; empty when none was."""
    seconds: float

    @property
    def judge(self) -> str:
        """The judge that the win rate is told by: the simulated truth where there is one, else the reward itself."""
        return "gold" if "gold" in self.judges else "realm"

    def metrics(self) -> dict[str, Any]:
        """What metrics/dpo.json holds. Intervals are over held-out prompts; lengths in tokens; margins in nats.

        win_rate is that of the trained policy over the one it started from, by ``judge``, ties half; win_rates has it
        for every judge. reward_margin and accuracy are of the implicit rewards on the held-out pairs. floored counts
        the responses that got ``rlhf.floor_reward``: of those that pairs were made of, and of the answers.
        """
        rates = {name: self._win_rate(name) for name in self.judges}
        margins = (self.implicit["chosen"] - self.implicit["rejected"]).to_numpy(dtype=np.float64)
        right = np.sign(margins) / 2 + 0.5
        means = {"reward": self._before_after("realm")}
        means |= {name: self._before_after(name) for name in (*self.judges[1:], "length", "ended")}
        return {
            "pairs": len(self.pairs),
            "pairs_from": self.pairs.kind,
            "asked": self.pairs.asked,
            "dropped": self.pairs.dropped,
            "length_difference": length_difference(self.pairs.table),
            "held_out_pairs": len(self.held_out_pairs),
            "held_out_prompts": len(self.answers),
            "judge": self.judge,
            "win_rate": rates[self.judge]["win_rate"],
            "win_rate_ci": rates[self.judge]["ci"],
            "win_rates": rates,
            "reward_margin": {
                "before": 0.0,
                "after": float(margins.mean()),
                "ci": _interval(margins, self.implicit["prompt"]),
            },
            "accuracy": {
                "before": 0.5,
                "after": float(right.mean()),
                "ci": _interval(right, self.implicit["prompt"], shares=True),
            },
            **means,
            "floored": {
                "training": self.pairs.floored,
                **{when: int(self.answers[f"floored_{when}"].sum()) for when in ("before", "after")},
            },
            "seconds": self.seconds,
        }

    def _win_rate(self, name: str) -> dict[str, Any]:
        after, before = (self.answers[[f"{name}_{when}"]].to_numpy(dtype=np.float64) for when in ("after", "before"))
        return win_rate(win_shares(after, before)).to_dict()

    def _before_after(self, name: str) -> dict[str, float]:
        return {when: float(self.answers[f"{name}_{when}"].mean()) for when in ("before", "after")}


def judged_answers(
    held_out: Sequence[Prompt],
    encoded: EncodedPrompts,
    before: Sequence[Response],
    after: Sequence[Response],
    reward: Reward,
    judges: Mapping[str, Judge],
    floor: float | None,
) -> pd.DataFrame:
    """The table ``answers`` of :class:`DPOResult`: those of the ``encoded`` prompts with every judge's scores.

    Raises :class:`realm_lib.rlhf.errors.RewardError` for a reward or judge whose answer cannot be used.
    """
    peers = Peers()
    asked = [held_out[index] for index in encoded.kept]
    columns: dict[str, object] = {"prompt": [as_text(prompt) for prompt in asked]}
    for when, responses in (("before", before), ("after", after)):
        columns[when] = [response.text for response in responses]
        columns[f"length_{when}"] = [len(response.ids) for response in responses]
        columns[f"ended_{when}"] = [response.ended for response in responses]

    def judged() -> list[dict[str, float]]:
        """The scores of this process's share of the answers."""
        texts = peers.share([response.text for response in (*before, *after)])
        prompts, indices = peers.share([*asked, *asked]), peers.share([*encoded.kept, *encoded.kept])
        told = ask_reward(reward, prompts, texts, indices, needs_spread=False, floor=floor)
        scores = {"realm": told["reward"].to_numpy(), "floored": told["floored"].to_numpy()}
        scores |= {name: ask_judge(name, judge, prompts, texts, indices, floor=floor) for name, judge in judges.items()}
        return [dict(zip(scores, row, strict=True)) for row in zip(*scores.values(), strict=True)]

    scores = pd.DataFrame(peers.together(judged))
    for name in scores:
        columns[f"{name}_before"], columns[f"{name}_after"] = np.split(scores[name].to_numpy(), 2)
    return pd.DataFrame(columns)


def with_margins(pairs: PreferencePairs, reward: Reward) -> PreferencePairs:
    """``pairs`` with the columns reward_chosen, reward_rejected and margin; on-policy pairs have them already."""
    if "margin" in pairs.table:
        return pairs
    table = pairs.table.copy()
    for side in ("chosen", "rejected"):
        table[f"reward_{side}"] = _scores("realm", reward, table, side)
    table["margin"] = table["reward_chosen"] - table["reward_rejected"]
    return replace(pairs, table=table)


def ranking_agreement(pairs: PreferencePairs, gold: Judge | None = None) -> dict[str, Any] | None:
    """How often the reward's order of two responses is that of the human label, or of ``gold``; a tie is half.

    ``pairs`` have margins (:func:`with_margins`). Of on-policy pairs, which the reward has ordered, ``gold`` says
    whether it was right; without it there is nobody to ask, and the answer is None.
    Keys: with ("human label" or "gold"), pairs, share, ci (95 %, over prompts).
    """
    if pairs.kind == "human":
        difference = pairs.table["margin"].to_numpy(dtype=np.float64)
    elif gold is not None:
        difference = _scores("gold", gold, pairs.table, "chosen") - _scores("gold", gold, pairs.table, "rejected")
    else:
        return None
    right = np.sign(difference) / 2 + 0.5
    return {
        "with": "human label" if pairs.kind == "human" else "gold",
        "pairs": len(right),
        "share": float(right.mean()),
        "ci": _interval(right, pairs.table["prompt"], shares=True),
    }


def _scores(name: str, judge: Judge | Reward, table: pd.DataFrame, side: str) -> NDArray[np.float64]:
    return ask_judge(name, judge, table["prompt"].tolist(), table[side].tolist(), list(range(len(table))))


def _interval(values: NDArray[np.float64], prompts: "pd.Series[str]", *, shares: bool = False) -> list[float]:
    return bootstrap_over_posts(values, prompts.to_numpy(), shares=shares, resamples=2000).interval()
