"""What an evaluation found: the numbers, the table for readers, and the verdict in words."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from realm_lib.evaluation.calibration import calibration_bins, calibration_places, confidences
from realm_lib.evaluation.display import _counted, _interval, _percent
from realm_lib.evaluation.resampling import EvaluationError, bootstrap_over_posts

__all__ = ["Evaluation"]

_NAMES = {
    "realm": "REALM",
    "reward_model": "the reward model alone",
    "similarity": "similarity alone",
    "linear": "the linear combination",
    "trees": "boosted trees on both features",
    "length": "taking the response with more words",
    "characters": "taking the response with more characters",
    "realm_with_length": "REALM with length as a third feature",
    "realm_without_score": "REALM without the score",
    "realm_without_similarity": "REALM without the similarity",
}


@dataclass(frozen=True)
class Evaluation:
    """The judged rewards: numbers, and the pairs that they were computed from."""

    metrics: dict[str, Any]
    per_pair: pd.DataFrame
    """One row a pair: post_id, domain, labels, and for each reward NAME_A, NAME_B, NAME_p (probability that A is
    preferred) and NAME_correct (1, 0, 1/2 for a tie); words_A, words_B, gold_A, gold_B where the features allow."""
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
        rows = [
            {
                "reward": name,
                f"accuracy ({level})": f"{_percent(found['accuracy'])} {_interval(found['ci'])}",
                "mean over domains": f"{_percent(found['domain_mean_accuracy'])} {_interval(found['domain_mean_ci'])}",
                "log-loss": f"{found['log_loss']:.3f}",
                "ties": found["ties"],
                "pairs": self.metrics["pairs"],
                "posts": self.metrics["posts"],
            }
            for name, found in sorted(self.metrics["rewards"].items(), key=lambda item: -item[1]["accuracy"])
        ]
        return pd.DataFrame(rows)

    def differences_table(self) -> pd.DataFrame:
        """One row a tested difference in accuracy, in percentage points."""
        rows = [
            {
                "difference": name,
                "points": f"{100 * found['value']:+.1f}",
                f"{100 * self.confidence:g} % interval": _interval(found["ci"], brackets=False),
                "p-value": f"{found['p_value']:.4f}",
                "p after Holm": f"{found['p_holm']:.4f}",
                "detectable": f"{100 * found['detectable']:.1f}",
                "log-loss": f"{found['log_loss']['value']:+.3f} "
                f"({found['log_loss']['ci'][0]:+.3f} to {found['log_loss']['ci'][1]:+.3f})",
            }
            for name, found in self.metrics["differences"].items()
        ]
        return pd.DataFrame(rows)

    def calibration_table(self) -> pd.DataFrame:
        """One row a reward, the smallest calibration error first: can its probabilities be trusted?"""
        rows = [
            {
                "reward": name,
                "calibration error": f"{100 * found['ece']:.1f} ({_interval(found['ece_ci'], brackets=False)})",
                "by chance alone": f"{100 * found['ece_by_chance']:.1f}",
                "Brier score": f"{found['brier']:.3f}",
                "log-loss": f"{found['log_loss']:.3f}",
                "temperature": "" if found["temperature"] is None else f"{found['temperature']:.3g}",
            }
            for name, found in sorted(self.metrics["rewards"].items(), key=lambda item: item[1]["ece"])
        ]
        return pd.DataFrame(rows)

    def slice_table(self, kind: str, names: Sequence[str] | None = None) -> pd.DataFrame:
        """Accuracy by group of one ``kind``, as "by_post_size": a row a group with its n, a column a reward.

        Raises :class:`EvaluationError` for a kind that these pairs do not have.
        """
        if kind not in self.metrics:
            raise EvaluationError(f"{kind} was not evaluated: these pairs lack what it is made of")
        rows = []
        for key, found in self.metrics[kind].items():
            row: dict[str, Any] = {kind.removeprefix("by_").replace("_", " "): key, "pairs": found["pairs"]}
            for name in names or self.scales:
                empty = found[name]["accuracy"] is None
                row[name] = "" if empty else f"{_percent(found[name]['accuracy'])} {_interval(found[name]['ci'])}"
            rows.append(row)
        return pd.DataFrame(rows)

    def power_sentence(self, other: str = "reward_model") -> str:
        """What the pairs could have shown, in words: the smallest difference from ``other`` with 80 % power."""
        subject = self.subject
        detectable = 100 * self._differences_from(subject)[other]["detectable"]
        return (
            f"With these {_counted(self.metrics['posts'], 'posts')}, a true difference of {detectable:.1f} points "
            f"between {_name(subject)} and {_name(other)} would be found in four of five such test sets; smaller ones "
            "would often be missed."
        )

    @property
    def subject(self) -> str:
        """The reward that the verdict is about: realm, or else the first."""
        return "realm" if "realm" in self.scales else next(iter(self.scales))

    def length_table(self) -> pd.DataFrame:
        """Accuracy where the chosen response is the longer one and where it is the shorter one; columns with n.

        Raises :class:`EvaluationError` when the features had no texts to count the words of.
        """
        if "length_split" not in self.metrics:
            raise EvaluationError("the features hold no human_ref_A and human_ref_B, so lengths are not known")
        halves = {
            f"{half.replace('_', ' ')} ({_counted(found['pairs'], 'pairs')})": {
                name: f"{_percent(found[name]['accuracy'])} {_interval(found[name]['ci'])}" if found["pairs"] else ""
                for name in self.scales
            }
            for half, found in self.metrics["length_split"].items()
        }
        return pd.DataFrame(halves)

    def worst_pairs(self, features: pd.DataFrame, name: str, count: int = 3) -> str:
        """The pairs of ``features`` that reward ``name`` is wrong about and surest of, as Markdown to read."""
        labels = self.per_pair["labels"].to_numpy()
        surest = (self.per_pair[f"{name}_p"] - labels).abs().nlargest(count).index
        texts = []
        for place in surest:
            pair = features.iloc[place]
            chosen, rejected = ("A", "B") if labels[place] == 1 else ("B", "A")
            values = {side: self.per_pair[f"{name}_{side}"].iloc[place] for side in "AB"}
            texts.append(
                "\n>\n".join(
                    f"> **{heading}** {_quoted(text)}"
                    for heading, text in (
                        ("Post.", pair["history"]),
                        (f"Chosen, reward {values[chosen]:+.2f}.", pair[f"human_ref_{chosen}"]),
                        (f"Rejected, reward {values[rejected]:+.2f}.", pair[f"human_ref_{rejected}"]),
                    )
                )
            )
        return "\n\n---\n\n".join(texts)

    def reliability(self, name: str, bins: int = 10) -> pd.DataFrame:
        """Bins of equal mass of reward ``name``: predicted and observed share of right answers, its interval, pairs.

        The interval (low, high) resamples the posts of the bin.
        """
        if name not in self.scales:
            raise EvaluationError(f"no reward {name!r} was evaluated; there are: {', '.join(self.scales)}")
        margins = (self.per_pair[f"{name}_A"] - self.per_pair[f"{name}_B"]).to_numpy()
        correct = self.per_pair[f"{name}_correct"].to_numpy()
        sure = confidences(margins, self.scales[name])
        table = calibration_bins(sure, correct, bins)
        place = calibration_places(sure, bins)
        posts = self.per_pair["post_id"].to_numpy()
        parts = [
            bootstrap_over_posts(
                correct[place == number], posts[place == number], resamples=2000, confidence=self.confidence
            )
            for number in np.unique(place)
        ]
        return table.assign(low=[part.lows[0] for part in parts], high=[part.highs[0] for part in parts])

    def verdict(self) -> str:
        """What the numbers say, in a few sentences made from them.

        It speaks of the first reward of each difference (REALM by default); "better" and "worse" mean that the whole
        interval of the difference lies on that side of zero.
        """
        subject = self.subject
        name = _name(subject)
        found = self.metrics["rewards"][subject]
        kind = "simulated pairs" if self.simulated else "pairs"
        sentences = [
            f"On {_counted(self.metrics['pairs'], kind)} from {_counted(self.metrics['posts'], 'posts')}, {name} ranks "
            f"{_percent(found['accuracy'])} rightly ({100 * self.confidence:g} % interval "
            f"{_interval(found['ci'], brackets=False)})."
        ]
        compared = self._differences_from(subject)
        clauses = [
            _clause(name, other, compared[other]) for other in ("reward_model", "similarity") if other in compared
        ]
        if clauses:
            sentences.append("; ".join(clauses) + ".")
        if "linear" in compared:
            sentences.append(_clause(name, "linear", compared["linear"]) + ".")
        if "trees" in compared:
            sentences.append(_clause(name, "trees", compared["trees"]) + ".")
        if "length" in compared:
            sentences.append(self._length_sentence(name, compared["length"]))
        if found.get("length_controlled"):
            controlled = found["length_controlled"]
            sentences.append(
                f"Where the longer and the shorter response count alike, so that length alone gets 50 %, {name} is "
                f"right in {_percent(controlled['accuracy'])} ({_interval(controlled['ci'], brackets=False)})."
            )
        if "reward_model" in compared:
            sentences.append(self.power_sentence())
        if "ceiling" in self.metrics:
            ceiling = self.metrics["ceiling"]["accuracy"]
            gap = 100 * (ceiling - found["accuracy"])
            sentences.append(
                f"The true utility of these simulated pairs, the ceiling, reaches {_percent(ceiling)}: {name} is "
                f"{abs(gap):.1f} points {'below' if gap >= 0 else 'above'} it."
            )
        if "feature_ceiling" in self.metrics:
            known = self.metrics["feature_ceiling"]
            sentences.append(
                f"The best use of the two features that could be fitted to the known truth reaches "
                f"{_percent(known['accuracy'])}: {name} differs from it by "
                f"{_points(known['difference'], signed=True).rstrip(',')}."
            )
        return " ".join(sentence[0].upper() + sentence[1:] for sentence in sentences)

    def _differences_from(self, subject: str) -> dict[str, dict[str, Any]]:
        start = f"{subject} - "
        found = self.metrics["differences"].items()
        return {key.removeprefix(start): value for key, value in found if key.startswith(start)}

    def _length_sentence(self, name: str, difference: dict[str, Any]) -> str:
        share = _percent(self.metrics["rewards"]["length"]["accuracy"])
        size = f"{_points(difference)}{_corrected(difference)}"
        if difference["ci"][0] > 0:
            return f"It beats simply taking the longer response ({share}) by {size}."
        if difference["ci"][1] < 0:
            return (
                f"Simply taking the longer response ({share}) is better, by {size}: these pairs do not "
                f"show that {name} has learned anything more than length can explain."
            )
        return (
            f"Simply taking the longer response ({share}) does as well as far as the data can tell ({name} is "
            f"{_points(difference, signed=True)} from it): these pairs do not show that {name} has learned anything "
            "more than length can explain."
        )


def _name(reward: str) -> str:
    return _NAMES.get(reward, reward)


def _quoted(text: str, most: int = 600) -> str:
    """One paragraph of a block quote, whatever the text holds; long texts are cut with an ellipsis."""
    flat = " ".join(text.split()).replace("<", "&lt;").replace("$", "&#36;")
    return flat if len(flat) <= most else f"{flat[:most]} ..."


def _points(difference: Mapping[str, Any], signed: bool = False) -> str:
    """A difference in accuracy with its interval, in percentage points; as a size unless ``signed``."""
    value, (low, high) = difference["value"], difference["ci"]
    if signed:
        return f"{100 * value:+.1f} points, interval {100 * low:+.1f} to {100 * high:+.1f},"
    if value < 0:
        value, low, high = -value, -high, -low
    return f"{100 * value:.1f} points (interval {100 * low:.1f} to {100 * high:.1f})"


def _corrected(difference: Mapping[str, Any]) -> str:
    """What Holm's correction takes back from an interval that lies on one side of zero."""
    p = difference["p_holm"]
    return "" if p <= 0.05 else f", which is not sure once all comparisons are corrected for (p = {p:.2f})"


def _clause(subject: str, other: str, difference: Mapping[str, Any]) -> str:
    low, high = difference["ci"]
    if low > 0:
        return f"{subject} is better than {_name(other)} by {_points(difference)}{_corrected(difference)}"
    if high < 0:
        return f"{subject} is worse than {_name(other)} by {_points(difference)}{_corrected(difference)}"
    size = _points(difference, signed=True).rstrip(",")
    return f"the data cannot tell whether {subject} is better or worse than {_name(other)} ({size})"
