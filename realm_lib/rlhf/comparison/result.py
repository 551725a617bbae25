"""A finished comparison: its table of answers, metrics/policies.json, and win rates of any two policies."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from realm_lib.evaluation.resampling import Floats, bootstrap_over_posts
from realm_lib.evaluation.win_rates import (
    Rate,
    best_of_n_kl,
    distinct_n,
    length_controlled_win_rate,
    win_rate,
    win_shares,
)
from realm_lib.rlhf.policies import SequenceKL

_PARTS = ("score", "similarity")


class ComparisonError(RuntimeError):
    """Policies that cannot be compared; the message says what to change."""


@dataclass(frozen=True)
class PolicyComparison:
    """Every policy's answers to the same prompts, with every judge's scores."""

    answers: pd.DataFrame
    """One row an answer: policy, row (its prompt), prompt, number, answer, length (tokens), characters, ended, realm,
    floored (realm is ``rlhf.floor_reward``), score and similarity where the reward tells them (NaN where floored), a
    column a judge; weight (the weights of a policy's answers to a
    prompt sum to 1) and picked (the one answer of a policy to a prompt that is shown)."""
    kls: Mapping[str, SequenceKL]
    """Of the trained policies, to the starting policy."""
    judges: tuple[str, ...]
    best_of: tuple[int, ...]
    resamples: int
    dropped: str
    """Which prompts were left out, in words; empty when none was."""

    @property
    def policies(self) -> list[str]:
        """base, best_of_n, then the trained ones."""
        return list(self.answers["policy"].unique())

    @property
    def judge(self) -> str:
        """The judge of the verdict: the simulated truth where there is one, else the reward itself."""
        return "gold" if "gold" in self.judges else "realm"

    def win_rate(self, policy: str, over: str, judge: str | None = None) -> Rate:
        """How often ``policy``'s answer beats ``over``'s, ties half, with a 95 % interval over prompts."""
        return win_rate(self._shares(policy, over, judge or self.judge), resamples=self.resamples)

    def length_controlled(self, policy: str, over: str, judge: str | None = None) -> Rate:
        """The win rate were answers equally long in characters: :func:`length_controlled_win_rate`."""
        lengths = (self._means(name, "characters") for name in (policy, over))
        shares = self._shares(policy, over, judge or self.judge)
        return length_controlled_win_rate(shares, *lengths, resamples=self.resamples)

    def side_by_side(self, prompts: int = 3) -> pd.DataFrame:
        """The shown answers to the first ``prompts`` prompts: prompt, policy, answer, and every judge's score."""
        shown = self.answers[self.answers["picked"] & (self.answers["row"] < prompts)]
        shown = shown.sort_values("row", kind="stable", ignore_index=True)
        return shown[["prompt", "policy", "answer", *self.judges]]

    def table(self) -> pd.DataFrame:
        """One row a policy: the numbers of :meth:`metrics` that a person compares first."""
        rows = {
            name: {
                **{judge: entry[judge]["mean"] for judge in self.judges},
                **{part: entry[part] for part in _PARTS if part in entry},
                "KL": entry["kl"],
                **{key: entry[key] for key in ("length", "distinct_1", "distinct_2", "ended")},
                "wins": entry["win_rate"],
                "wins at equal length": entry["length_controlled"],
            }
            for name, entry in ((name, self._entry(name)) for name in self.policies)
        }
        return pd.DataFrame(rows).T

    def metrics(self) -> dict[str, Any]:
        """What metrics/policies.json holds.

        floored counts the answers of all policies that got ``rlhf.floor_reward``, distinct ones to a prompt.
        For each policy: mean and 95 % interval by judge (the reward as ``realm``), score, similarity, kl (nats a
        response to the start; ``kl_kind`` says whether it is estimated or a bound), length (tokens), characters,
        distinct_1 and distinct_2 (of the shown answers), ended (share ending in EOS), and its win rate over ``base``
        with ci, plain and length_controlled, by ``judge`` and, in by_judge, by each. pairwise has all pairs.
        """
        return {
            "prompts": int(self.answers["row"].nunique()),
            "judge": self.judge,
            "dropped": self.dropped,
            "floored": int(self.answers.drop_duplicates(["row", "answer"])["floored"].sum()),
            "policies": {name: self._entry(name) for name in self.policies},
            "pairwise": {
                judge: {
                    f"{first} over {second}": self.win_rate(first, second, judge).to_dict()
                    for second, first in combinations(self.policies, 2)
                }
                for judge in self.judges
            },
        }

    def _entry(self, name: str) -> dict[str, Any]:
        own = self.answers[self.answers["policy"] == name]
        shown = own.loc[own["picked"], "answer"].tolist()
        entry: dict[str, Any] = {judge: self._mean(name, judge) for judge in self.judges}
        entry |= {part: self._part(name, part) for part in _PARTS if part in own and own[part].notna().any()}
        entry |= self._kl(name)
        entry |= {key: float(self._means(name, key).mean()) for key in ("length", "characters", "ended")}
        entry |= {f"distinct_{n}": distinct_n(shown, n) for n in (1, 2)}
        if name == "base":
            return {**entry, "win_rate": 0.5, "ci": [0.5, 0.5], "length_controlled": 0.5, "by_judge": {}}
        by_judge: dict[str, Any] = {}
        for judge in self.judges:
            equal = self.length_controlled(name, "base", judge)
            by_judge[judge] = {
                **self.win_rate(name, "base", judge).to_dict(),
                "length_controlled": equal.value,
                "length_controlled_ci": [equal.low, equal.high],
            }
        return {**entry, **by_judge[self.judge], "by_judge": by_judge}

    def _part(self, name: str, part: str) -> float:
        """The weighted mean of a part of the reward over the answers that have one: floored ones do not."""
        values, weights = self._grid(name, part), self._grid(name, "weight")
        known = ~np.isnan(values)
        return float(np.average(values[known], weights=weights[known]))

    def _kl(self, name: str) -> dict[str, Any]:
        if name in self.kls:
            kl = self.kls[name]
            return {"kl": kl.k1, "kl_error": kl.k1_error, "kl_k3": kl.k3, "kl_kind": "estimate"}
        if name == "base":
            return {"kl": 0.0, "kl_kind": "start"}
        return {"kl": best_of_n_kl(int(name.removeprefix("best_of_"))), "kl_kind": "upper bound"}

    def _mean(self, name: str, column: str) -> dict[str, Any]:
        values = self._means(name, column)
        drawn = bootstrap_over_posts(values, np.arange(len(values)), resamples=self.resamples)
        return {"mean": float(drawn.means[0]), "ci": drawn.interval()}

    def _means(self, name: str, column: str) -> Floats:
        """The weighted mean of ``column`` over a policy's answers to each prompt, [prompts]."""
        means: Floats = (self._grid(name, column) * self._grid(name, "weight")).sum(axis=1)
        return means

    def _shares(self, policy: str, over: str, judge: str) -> Floats:
        first, second = self._grid(policy, judge), self._grid(over, judge)
        return win_shares(first, second, self._grid(policy, "weight"), self._grid(over, "weight"))

    def _grid(self, name: str, column: str) -> Floats:
        """``column`` of a policy's answers, [prompts, answers]."""
        own = self.answers[self.answers["policy"] == name]
        if own.empty:
            raise ComparisonError(f"no policy {name!r} was compared; there are {', '.join(self.policies)}")
        values: Floats = own.sort_values(["row", "number"])[column].to_numpy(dtype=np.float64)
        return values.reshape(own["row"].nunique(), -1)
