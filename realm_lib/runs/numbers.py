"""The numbers of a run's metrics, a leaf each: of which kind, on which scale and of how many pairs it is."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

from realm_lib.runs.reading import read_json

Key = tuple[str | int, ...]

_COLLECTIONS = {
    *("rewards", "policies", "by_judge", "pairwise", "win_rates", "kinds", "splits"),
    *("signals", "by_feature"),
    *("by_domain", "length_split", "by_length_difference", "by_post_size", "by_score_ratio"),
}
"""Keys whose children are names (of rewards, judges, groups), not measures; so is every key with a space in it."""

_JUMPY = ("trees", "realm_with_length")
_APART = {"similarity", "length", "characters", "gold", *_JUMPY}
"""Names that keep a kind to themselves: what is not trained here does not move, and what is jumpy moves most."""

_COUNTS = ("held_out_prompts", "prompts", "responses", "validation_pairs", "pairs")
"""What an entry counts its pairs by, the first that it has."""

_OF_PAIRS = {
    *("rewards", "differences", "disagreements", "feature_ceiling", "signals"),
    *("by_domain", "length_split", "by_length_difference", "by_post_size", "by_score_ratio"),
}
"""What notebook 03 counts pairs in: shares of n pairs and their intervals move alike, by about the root of n pairs."""

_ALIKE = {
    **{"train_loss": "loss", "validation_loss": "loss", "members_sd": "sd", "ece_ci": "ece", "ece_by_chance": "ece"},
    **dict.fromkeys(("given_quality", "given_quality_ci"), "correlation"),
}
"""Measures that move together, by the name of their kind: the more numbers a kind has, the less is left to luck."""

_SMOOTH = {
    *("log_loss", "brier", "temperature", "p_value", "p_holm", "detectable", "sd", "members_sd"),
    *("bend", "evidence"),
    *("correlation", "given_quality", "given_quality_ci", "change", "train_loss", "validation_loss"),
    *("correlations", "factor"),
}
"""Measures that one flipped pair hardly moves; the others are shares of pairs and their intervals."""

_NOT_COMPARED = {
    **dict.fromkeys(("seconds", "episodes_per_second"), "a timing"),
    **dict.fromkeys(("best_epoch", "best_step"), "where a flat curve happens to end"),
    **dict.fromkeys(("computed", "cache_hits"), "what the feature store had already"),
}
"""The last key of what is not compared, and why. Where training ends shows in the losses."""


@dataclass(frozen=True)
class Leaf:
    """One value of a run's metrics."""

    file: str
    key: str  # the dotted path within the file
    kind: str  # "policies.json: pairwise.*.*.win_rate": the file, and the path with names and places left out
    value: Any
    pairs: int | None  # of how many pairs, prompts or responses it is, where its metrics say so

    @property
    def is_share(self) -> bool:
        """Whether a flipped pair moves it by about one over :attr:`pairs`."""
        return _is_share(self.key.split("."), self.value, self.pairs)

    @property
    def is_measured_count(self) -> bool:
        """Whether it counts pairs by what rewards say of them: those on which two rewards disagree."""
        return self.file == "evaluation.json" and self.key.startswith("disagreements.")


def read_leaves(path: Path) -> dict[str, Leaf]:
    """The leaves of a metrics file by ``FILE: dotted.path``."""
    content = read_json(path)
    if not content:
        return {}
    names = _names(content) - _APART
    leaves = {}
    for key, value, pairs in _walk(content, (), _validation_pairs(path)):
        dotted = ".".join(map(str, key))
        parts = [part for part in key if isinstance(part, str)]
        kind = _kind(parts, names, pooled=path.stem == "evaluation" and _is_share(parts, value, pairs))
        leaves[f"{path.name}: {dotted}"] = Leaf(path.name, dotted, f"{path.name}: {kind}", value, pairs)
    return leaves


def why_not_compared(key: str) -> str:
    """Why the value at a dotted path says nothing of whether a run reproduces; empty where it does."""
    return _NOT_COMPARED.get(key.rsplit(".", 1)[-1], "")


def to_scale(kind: str, value: float) -> float:
    """``value`` on the scale on which equal steps are alike: p-values as standard scores, temperatures as logarithms.

    A p-value of 0.0001 moves by less than one of 0.4 when a difference changes by as much of its standard error.
    """
    if kind.endswith((".p_value", ".p_holm")):
        return NormalDist().inv_cdf(1 - min(max(value, 1e-12), 1.0) / 2)
    return math.log(max(value, 1e-12)) if kind.endswith(".temperature") else value


def from_scale(kind: str, scaled: float) -> float:
    """The inverse of :func:`to_scale`; standard scores below 0 are a p-value of 1."""
    if kind.endswith((".p_value", ".p_holm")):
        return 2 * (1 - NormalDist().cdf(max(scaled, 0.0)))
    return math.exp(scaled) if kind.endswith(".temperature") else scaled


def _validation_pairs(path: Path) -> int | None:
    """combiner.json does not say how many pairs its validation accuracy is of; notebook 01 counted them."""
    features = path.with_name("features.json")
    if path.name != "combiner.json" or not features.exists():
        return None
    pairs: int | None = read_json(features).get("splits", {}).get("validation", {}).get("pairs")
    return pairs


def _walk(content: Any, key: Key, pairs: int | None) -> Iterator[tuple[Key, Any, int | None]]:
    if not isinstance(content, Mapping | list) or not content:
        yield key, content if not isinstance(content, Mapping | list) else None, pairs
        return
    if isinstance(content, Mapping):
        counts = [content[name] for name in _COUNTS if isinstance(content.get(name), int)]
        pairs = counts[0] if counts else pairs
    for name, child in content.items() if isinstance(content, Mapping) else enumerate(content):
        yield from _walk(child, (*key, name), pairs)


def _names(content: Any) -> set[str]:
    """Every key of ``content`` that names something that is measured, rather than a measure."""
    if not isinstance(content, Mapping):
        return set()
    found = {str(name) for name in content if " " in str(name)}
    for name, child in content.items():
        found |= _names(child)
        if name in _COLLECTIONS and isinstance(child, Mapping):
            found |= set(child)
    return found


def _kind(parts: Sequence[str], names: set[str], *, pooled: bool) -> str:
    """``parts`` without the names; for shares of pairs no more than whose they are, where they are apart."""
    if pooled and parts[0] in _OF_PAIRS and _ALIKE.get(parts[-1], parts[-1]) != "ece":
        apart = [name for part in parts for name in part.split(" - ") if name in _JUMPY or part in _APART]
        return ".".join(["shares of pairs", *apart])
    return ".".join("*" if part in names else _ALIKE.get(part, part) for part in parts)


def _is_share(parts: Sequence[str], value: Any, pairs: int | None) -> bool:
    # At the top, linear is the weights that a combiner has learned; deeper, the reward of that name.
    smooth = parts[0] == "linear" or _SMOOTH.intersection(parts)
    return isinstance(value, float) and bool(pairs) and not smooth
