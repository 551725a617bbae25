"""A finished comparison: its table of answers, metrics/policies.json, and win rates of any two policies."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from realm_lib.evaluation.best_of_n import against_curve, curve_distances, curve_weights
from realm_lib.evaluation.resampling import Floats, bootstrap_over_posts
from realm_lib.evaluation.win_rates import (
    AtEqualLength,
    Rate,
    best_of_n_kl,
    distinct_n,
    length_controlled_win_rate,
    win_rate,
    win_shares,
)
from realm_lib.rlhf.policies import SequenceKL

_SPENT_ON = ("length", "ended")
"""What a policy may move that no judge pays for: compared with best-of-n at equal distance too."""


class ComparisonError(RuntimeError):
    """Policies that cannot be compared; the message says what to change."""


@dataclass(frozen=True)
class PolicyComparison:
    """Every policy's answers to the same prompts, with every judge's scores."""

    answers: pd.DataFrame
    """One row an answer: policy, row (its prompt), prompt, number, answer, length (tokens), characters, ended, realm,
    floored (realm is ``rlhf.floor_reward``), what the reward tells beside (NaN where floored), a column a judge; weight
    (the weights of a policy's answers to a prompt sum to 1), picked (the one answer of a policy to a prompt that is
    shown), and log_ratio (of a trained policy's answer, to the start, in nats). number is that of the sample store: no
    two policies share an answer."""
    kls: Mapping[str, SequenceKL]
    """Of the trained policies, to the starting policy."""
    judges: tuple[str, ...]
    parts: tuple[str, ...]
    """What the reward is made of, columns of ``answers``: RealmReward's features, and outside."""
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
        """How often ``policy``'s answer beats ``over``'s, ties half, over all pairs; a 95 % interval over prompts."""
        return win_rate(self._shares(policy, over, judge or self.judge), resamples=self.resamples)

    def length_controlled(self, policy: str, over: str, judge: str | None = None) -> AtEqualLength:
        """The win rate were answers equally long in characters, over all pairs: :func:`length_controlled_win_rate`."""
        judge = judge or self.judge
        first, second = self._pairs(policy, over, judge)
        longer, other = self._pairs(policy, over, "characters")
        weight, other_weight = self._pairs(policy, over, "weight")
        won = np.sign(first - second) / 2 + 0.5
        return length_controlled_win_rate(won, longer, other, weight * other_weight, resamples=self.resamples)

    def apart(self) -> list[int]:
        """The prompts' rows, those first between whose shown answers the reward tells the largest difference."""
        shown = self.answers[self.answers["picked"]].groupby("row")["realm"]
        ranges: pd.Series[float] = shown.max() - shown.min()
        return [int(row) for row in ranges.sort_values(ascending=False, kind="stable").index]

    def side_by_side(self, rows: Sequence[int] = range(3)) -> pd.DataFrame:
        """The shown answers to the prompts of ``rows``: prompt, policy, answer, and every judge's score."""
        shown = self.answers[self.answers["picked"]].set_index("row").loc[list(rows)]
        return shown[["prompt", "policy", "answer", *self.judges]].reset_index(drop=True)

    def table(self) -> pd.DataFrame:
        """One row a policy: the numbers of :meth:`metrics` that a person compares first."""
        rows = {
            name: {
                **{judge: entry[judge]["mean"] for judge in self.judges},
                **{part: entry[part] for part in self.parts if part in entry},
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
        For each policy: mean and 95 % interval by judge (the reward as ``realm``), the reward's ``parts``, kl (nats a
        response to the start; ``kl_kind`` says whether it is estimated or a bound), length (tokens), characters,
        distinct_1 and distinct_2 (of the shown answers), ended (share ending in EOS), and its win rate over ``base``
        with ci, plain and length_controlled, by ``judge`` and, in by_judge, by each. length_controlled is null where
        too few answers are ``shorter`` or ``longer`` than the start's (shares of comparisons) to tell.
        ``against_best_of_n`` sets a trained policy beside best-of-n's curve ``at`` the policy's distance, or at the
        curve's ``end`` where that is farther: curve, difference and ci by judge, and in length and ended. pairwise has
        all pairs of policies, best_of_n the curve itself: distances, and means with intervals by judge, for n from 1.
        """
        return {
            "prompts": int(self.answers["row"].nunique()),
            "answers": int(self._grid("base", "weight").shape[1]),
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
            "best_of_n": self._curve_metrics(),
        }

    def _entry(self, name: str) -> dict[str, Any]:
        own = self.answers[self.answers["policy"] == name]
        shown = own.loc[own["picked"], "answer"].tolist()
        entry: dict[str, Any] = {judge: self._mean(name, judge) for judge in self.judges}
        entry |= {part: self._part(name, part) for part in self.parts if own[part].notna().any()}
        entry |= self._kl(name)
        entry |= {key: float(self._means(name, key).mean()) for key in ("length", "characters", "ended")}
        entry |= {f"distinct_{n}": distinct_n(shown, n) for n in (1, 2)}
        if name == "base":
            return {**entry, "win_rate": 0.5, "ci": [0.5, 0.5], "length_controlled": 0.5, "by_judge": {}}
        if name in self.kls:
            entry["against_best_of_n"] = self._against_best_of_n(name)
        by_judge: dict[str, Any] = {}
        for judge in self.judges:
            plain, equal = self.win_rate(name, "base", judge), self.length_controlled(name, "base", judge)
            by_judge[judge] = {**plain.to_dict(), **equal.to_dict()}
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

    def _against_best_of_n(self, name: str) -> dict[str, Any]:
        end = float(curve_distances(len(self._weights_by_n))[-1])
        log_ratios = self._means(name, "log_ratio")

        def beside(column: str) -> dict[str, Any]:
            own = self._means(name, column)
            return against_curve(self._curve(column), own, log_ratios, resamples=self.resamples).to_dict()

        return {
            "at": min(max(self.kls[name].k1, 0.0), end),
            "end": end,
            "n": len(self._weights_by_n),
            "by_judge": {judge: beside(judge) for judge in self.judges},
            **{column: beside(column) for column in _SPENT_ON},
        }

    def _curve_metrics(self) -> dict[str, Any]:
        by_judge = {}
        for judge in self.judges:
            curve = self._curve(judge)
            drawn = bootstrap_over_posts(curve, np.arange(len(curve)), resamples=self.resamples)
            ends = {"low": drawn.lows.tolist(), "high": drawn.highs.tolist()}
            by_judge[judge] = {"mean": drawn.means.tolist(), **ends}
        return {"kl": curve_distances(len(self._weights_by_n)).tolist(), "by_judge": by_judge}

    @cached_property
    def _of_the_start(self) -> pd.DataFrame:
        """All of the start's answers, its own and those that best-of-n chooses from: draws of one policy."""
        drawn = ["base", *(f"best_of_{n}" for n in self.best_of)]
        return self.answers[self.answers["policy"].isin(drawn)].sort_values(["row", "number"])

    @cached_property
    def _weights_by_n(self) -> Floats:
        """The weight of each of the start's answers in best-of-n, for n from 1 to their number N: [N, prompts, N]."""
        return curve_weights(self._grid_of(self._of_the_start, "realm"))

    def _curve(self, column: str) -> Floats:
        """Best-of-n's mean of ``column`` at each prompt for every n, [prompts, N]."""
        curve: Floats = np.einsum("npa,pa->pn", self._weights_by_n, self._grid_of(self._of_the_start, column))
        return curve

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

    def _pairs(self, policy: str, over: str, column: str) -> tuple[Floats, Floats]:
        """``column`` of both answers of each pair, [prompts, pairs] twice."""
        first, second = self._grid(policy, column)[:, :, None], self._grid(over, column)[:, None, :]
        left, right = np.broadcast_arrays(first, second)
        return left.reshape(len(left), -1), right.reshape(len(right), -1)

    def _grid(self, name: str, column: str) -> Floats:
        """``column`` of a policy's answers, [prompts, answers]."""
        own = self.answers[self.answers["policy"] == name]
        if own.empty:
            raise ComparisonError(f"no policy {name!r} was compared; there are {', '.join(self.policies)}")
        return self._grid_of(own.sort_values(["row", "number"]), column)

    @staticmethod
    def _grid_of(answers: pd.DataFrame, column: str) -> Floats:
        values: Floats = answers[column].to_numpy(dtype=np.float64)
        return values.reshape(answers["row"].nunique(), -1)
