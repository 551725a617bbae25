"""Changes to a profile from the command line: ``training.seed=7``."""

import re
from collections.abc import Iterable
from typing import Any

from realm_lib.config.base import ParamsError
from realm_lib.config.text import read_yaml


def merge_override(content: dict[str, Any], override: str) -> None:
    """Merge ``section.key=value``, the value in YAML, deeply into ``content``.

    Raises :class:`ParamsError` that repeats the key only: the value may be a secret.
    """
    key, equals, text = override.partition("=")
    if not equals or not all(key.split(".")):
        raise ParamsError(f"override {key!r}: write section.key=value, as training.seed=7")
    value = read_yaml(text, f"override {key!r}: the value is")
    *parents, last = key.split(".")
    target = content
    for parent in parents:
        if target.get(parent) is None:
            target[parent] = {}
        target = target[parent]
        if not isinstance(target, dict):
            raise ParamsError(f"override {key!r}: {parent} is a value, not a section")
    target[last] = _merged(target.get(last), value)


def overrides_of(words: Iterable[str]) -> list[str]:
    """The overrides of ``make SET="..."``, which make splits at spaces: a word that begins none goes on with the one
    before."""
    overrides: list[str] = []
    for word in words:
        if overrides and not re.match(r"[^{}\[\],:'\"=]+=", word):
            overrides[-1] += f" {word}"
        else:
            overrides.append(word)
    return overrides


def _merged(old: Any, new: Any) -> Any:
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return new
    return {**old, **{key: _merged(old.get(key), value) for key, value in new.items()}}
