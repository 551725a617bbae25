"""What an evaluation found: the numbers, and tables of them for readers."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from realm_lib.evaluation.calibration import calibration_bins, calibration_places, confidences
from realm_lib.evaluation.display import counted, interval, measured, with_interval
from realm_lib.evaluation.per_pair import chosen_margins
from realm_lib.evaluation.resampling import EvaluationError, Floats, bootstrap_over_posts


@dataclass(frozen=True)
class Evaluation:
    """The judged rewards: numbers, and the pairs that they were computed from."""

    metrics: dict[str, Any]
    per_pair: pd.DataFrame
    """One row a pair: pair_id, post_id, domain, labels, and for each reward NAME_A, NAME_B, NAME_p (probability that A
    is preferred) and NAME_correct (1, 0, 1/2 for a tie); word_count_A, word_count_B, gold_A, gold_B where the features
    allow."""
    scales: dict[str, float]
    confidence: float
    simulated: bool
    """True when the pairs carry a known utility: then every number is simulated, and is to be called so."""

    def to_dict(self) -> dict[str, Any]:
        """The content of metrics/evaluation.json."""
        return copy.deepcopy(self.metrics)

    def table(self) -> pd.DataFrame:
        """One row a reward, the most accurate first, with numbers as text for display."""
        level = f"{100 * self.confidence:g} % interval"
        over = self.metrics["domain_mean"]
        pooled = f", small ones pooled: {len(over['pooled'])}" if over["pooled"] else ""
        rows = [
            {
                "reward": name,
                f"accuracy ({level})": with_interval(entry["accuracy"], entry["ci"]),
                f"mean over {counted(over['domains'], 'domains')}{pooled}": with_interval(
                    entry["domain_mean_accuracy"], entry["domain_mean_ci"]
                ),
                "log-loss": f"{entry['log_loss']:.3f}",
                "ties": entry["ties"],
                "pairs": self.metrics["pairs"],
                "posts": self.metrics["posts"],
            }
            for name, entry in sorted(self.metrics["rewards"].items(), key=lambda item: -item[1]["accuracy"])
        ]
        return pd.DataFrame(rows)

    def differences_table(self) -> pd.DataFrame:
        """One row a tested difference in accuracy, in percentage points."""
        rows = [
            {
                "difference": name,
                "points": f"{100 * entry['value']:+.1f}",
                f"{100 * self.confidence:g} % interval": interval(entry["ci"]),
                "p-value": f"{entry['p_value']:.4f}",
                "p after Holm": f"{entry['p_holm']:.4f}",
                "detectable": f"{100 * entry['detectable']:.1f}",
                "log-loss": measured(entry["log_loss"]["value"], entry["log_loss"]["ci"], "+.3f"),
            }
            for name, entry in self.metrics["differences"].items()
        ]
        return pd.DataFrame(rows)

    def calibration_table(self, folded: Mapping[str, Any] | None = None) -> pd.DataFrame:
        """One row a reward, the smallest calibration error first: can its probabilities be trusted?

        Rows of the bare differences, before and after the combiner's factor, come with ``folded``, which is what
        :func:`realm_lib.evaluation.learned.folded_calibration` returns.
        """
        entries = dict(self.metrics["rewards"])
        if folded is not None:
            entries |= {f"{self.subject}, bare, {when}": folded[when] for when in ("before", "after")}
        rows = [
            {
                "reward": name,
                "calibration error": f"{100 * entry['ece']:.1f} ({interval(entry['ece_ci'])})",
                "by chance alone": f"{100 * entry['ece_by_chance']:.1f}",
                "Brier score": f"{entry['brier']:.3f}",
                "log-loss": f"{entry['log_loss']:.3f}",
                "temperature": "" if entry.get("temperature") is None else f"{entry['temperature']:.3g}",
            }
            for name, entry in sorted(entries.items(), key=lambda item: item[1]["ece"])
        ]
        return pd.DataFrame(rows)

    def slice_table(self, kind: str, names: Sequence[str] | None = None) -> pd.DataFrame:
        """Accuracy by group of one ``kind``, as "by_post_size": a row a group with its n, a column a reward.

        Raises :class:`EvaluationError` for a kind that these pairs do not have.
        """
        if kind not in self.metrics:
            raise EvaluationError(f"{kind} was not evaluated: these pairs lack what it is made of")
        rows = []
        for key, entry in self.metrics[kind].items():
            row: dict[str, Any] = {kind.removeprefix("by_").replace("_", " "): key, "pairs": entry["pairs"]}
            for name in names or self.scales:
                share, ci = entry[name]["accuracy"], entry[name]["ci"]
                row[name] = "" if share is None else with_interval(share, ci)
            rows.append(row)
        return pd.DataFrame(rows)

    @property
    def subject(self) -> str:
        """The reward that all others are compared with: realm, or else the first."""
        return "realm" if "realm" in self.scales else next(iter(self.scales))

    def sure(self, name: str, scale: float | None = None) -> Floats:
        """The probability that reward ``name`` gives its preferred response, [pairs]; ``scale`` as in reliability."""
        if name not in self.scales:
            raise EvaluationError(f"no reward {name!r} was evaluated; there are: {', '.join(self.scales)}")
        return confidences(chosen_margins(self.per_pair, name), self.scales[name] if scale is None else scale)

    def reliability(self, name: str, bins: int = 10, scale: float | None = None) -> pd.DataFrame:
        """Bins of equal mass of reward ``name``: predicted and observed share of right answers, its interval, pairs.

        The interval (low, high) resamples the posts of the bin. ``scale`` makes probabilities of differences instead of
        the factor that was fitted to validation pairs.
        """
        sure = self.sure(name, scale)
        correct = self.per_pair[f"{name}_correct"].to_numpy()
        table = calibration_bins(sure, correct, bins)
        bin_of = calibration_places(sure, bins)
        posts = self.per_pair["post_id"].to_numpy()
        ends = []
        for index in np.unique(bin_of):
            own = bin_of == index
            drawn = bootstrap_over_posts(
                correct[own], posts[own], shares=True, resamples=2000, confidence=self.confidence
            )
            ends.append(drawn.interval())
        table[["low", "high"]] = ends
        return table
