"""Comparing a run with a reference run: what differs by more than another machine's rounding explains."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from realm_lib.runs.run import MissingStepError

_IGNORED = {"seconds", "episodes_per_second", "best_epoch", "best_step", "verdict", "temperature"}
"""Timings, the epoch or step that a flat curve happens to end at, words made from numbers that are compared themselves,
and temperatures, which are on each reward's own scale and show in the log-loss."""

_TOLERANCES = {
    **dict.fromkeys(("by_domain", "by_length_difference", "by_post_size", "by_score_ratio"), 0.10),
    **dict.fromkeys(("length_split", "length_controlled"), 0.03),
    **dict.fromkeys(("p_value", "p_holm", "perturbations", "disagreements", "length_bias"), 0.10),
}
_TOLERANCE = 0.02
"""Allowed absolute difference of shares and losses, by the first key of the path that names one. Another processor
rounds sums in another order, which the training of the offline reward model amplifies; small groups move most."""

_MEASURED_COUNTS = ({"disagreements"}, {"trees", "ties"})
"""Keys that a path has together when it counts pairs by what a reward says of them, which rounding moves: where two
rewards disagree, and where the steps of boosted trees tie. These are compared within a tenth, or ten pairs; every other
count is exact."""

_SAMPLED = {"ppo.json", "dpo.json", "policies.json"}
"""Metrics of policies: one token that another processor's rounding turns changes the rest of its response, and then the
training. What is measured there is compared within a half, of the number or of one; words and pairs are not."""

_OWN = ("run.name", "run.output_dir", "data.preprocessing.cache_dir")
"""Parameters that say where a run lies, not what it is."""


def compare_runs(run: Path, reference: Path) -> list[str]:
    """What differs between two run folders, a line each; empty when the run reproduces the reference.

    Parameters must be equal, counts too, measured shares and losses within the tolerances above.
    Raises :class:`MissingStepError` when either folder has no parameters or no metrics.
    """
    for folder in (run, reference):
        if not (folder / "params.yaml").exists():
            raise MissingStepError(f"{folder}: no run here (params.yaml is missing)")
    differences = [
        f"params.yaml: {key} is {own!r}, was {other!r} in the reference"
        for key, own, other in _unequal(_params(run), _params(reference))
    ]
    names = sorted(path.name for path in (reference / "metrics").glob("*.json"))
    if not names:
        raise MissingStepError(f"{reference}: no metrics to compare with")
    for name in names:
        path = run / "metrics" / name
        if not path.exists():
            raise MissingStepError(f"{path} is missing: run the notebook that writes it")
        for key, own, other in _unequal(_metrics(path), _metrics(reference / "metrics" / name)):
            if not (_near(own, other) if name in _SAMPLED else _close(key, own, other)):
                differences.append(f"metrics/{name}: {key} is {own}, was {other} in the reference")
    return differences


def _close(key: str, own: Any, other: Any) -> bool:
    parts = key.split(".")
    if _IGNORED.intersection(parts):
        return True
    measured = any(keys.issubset(parts) for keys in _MEASURED_COUNTS)
    if measured and isinstance(own, int) and isinstance(other, int):
        return abs(own - other) <= max(10, other // 10)
    if not isinstance(own, float) or not isinstance(other, float):
        return False
    tolerance = next((_TOLERANCES[part] for part in parts if part in _TOLERANCES), _TOLERANCE)
    return abs(own - other) <= tolerance


def _near(own: Any, other: Any) -> bool:
    """Whether two numbers of a policy are of one size; texts and flags are made from such numbers."""
    if not isinstance(own, int | float) or not isinstance(other, int | float):
        return type(own) is type(other)
    return abs(own - other) <= max(0.5, 0.5 * abs(other))


def _unequal(run: Mapping[str, Any], reference: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    for key in sorted({*run, *reference}):
        if run.get(key) != reference.get(key):
            yield key, run.get(key), reference.get(key)


def _params(folder: Path) -> dict[str, Any]:
    content = _flat(yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8")))
    return {key: value for key, value in content.items() if key not in _OWN}


def _metrics(path: Path) -> dict[str, Any]:
    return _flat(json.loads(path.read_text(encoding="utf-8")))


def _flat(content: Any, prefix: str = "") -> dict[str, Any]:
    """Leaves by their dotted path."""
    if not isinstance(content, Mapping | list):
        return {prefix: content}
    leaves: dict[str, Any] = {}
    for name, child in content.items() if isinstance(content, Mapping) else enumerate(content):
        leaves |= _flat(child, f"{prefix}.{name}" if prefix else str(name))
    return leaves
