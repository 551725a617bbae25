"""Which models made the features, by what their identities say: whether the ones at hand are the same, and how not."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from realm_lib.config.feature_models import FEATURES
from realm_lib.features.signals import Signal

Identities = Mapping[str, Mapping[str, Any]]
"""By a feature's name, what :attr:`Signal.identity` says: everything besides the texts that changes a number."""

_SECTIONS = dict(zip(FEATURES, ("reward_model", "embedding"), strict=True))
DIGITS = 12
"""Of a digest, where it is shown."""


def identities_of(signals: Mapping[str, Signal]) -> dict[str, dict[str, Any]]:
    """The identity of each feature's model, as JSON reads it back."""
    return {name: dict(json.loads(json.dumps(dict(signal.identity)))) for name, signal in signals.items()}


def changed(then: Identities, now: Identities) -> str | None:
    """How the models of ``now`` are others than those of ``then``, both versions named; None where they are the same.

    The place of a model is no part of what it is: the same weights in another folder are the same model.
    """
    told = [line for name in dict.fromkeys([*then, *now]) for line in _lines(name, then.get(name), now.get(name))]
    return "; ".join(told) or None


def shown(value: Any) -> str:
    """A value of an identity: a digest or a commit by its first digits."""
    digits = str(value)
    return digits[:DIGITS] if re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", digits) else json.dumps(value)


def _lines(name: str, then: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> Iterator[str]:
    section = _SECTIONS.get(name, f"signals.{name}")
    if then is None or now is None:
        yield f"{section} is {'new' if then is None else 'missing'}"
        return
    differ = [key for key in dict.fromkeys([*then, *now]) if then.get(key) != now.get(key)]
    if "model" in differ and "backend" in then and then.get("weights") and "weights" not in differ:
        differ.remove("model")
    if differ:
        values = ", ".join(f"{key} {shown(then.get(key))} became {shown(now.get(key))}" for key in differ)
        yield f"{section} ({now.get('model', 'unnamed')}): {values}"
