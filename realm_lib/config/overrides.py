"""Changes to a profile from the command line: ``training.seed=7``."""

import re
from typing import Any

from realm_lib.config.base import ParamsError
from realm_lib.config.text import read_yaml

_KEY = r"[^\s{}\[\],:'\"=]+="
_QUOTED = r"'(?:[^']|'')*'|\"(?:[^\"\\]|\\.)*\""
_BORDER = re.compile(rf"(?<!\\)\s+(?=['\"]?{_KEY})")
"""Between two overrides; a word that begins none goes on with the value before."""
_PARTS = re.compile(rf"(?:^|(?<=[\[{{,:\s]))(?:{_QUOTED})|.", re.DOTALL)
"""Of a value in brackets: each text in quotes, and each other character."""


def merge_override(content: dict[str, Any], override: str) -> None:
    """Merge ``section.key=value``, the value in YAML, deeply into ``content``.

    Raises :class:`ParamsError` that repeats the key only: the value may be a secret.
    """
    key, equals, text = override.partition("=")
    if not equals or not all(key.split(".")):
        word = key.split(maxsplit=1)[0] if key.strip() else key
        raise ParamsError(f"override {word!r}: write section.key=value, as training.seed=7")
    value = read_yaml(_as_typed(text, key), f"override {key!r}: the value is")
    *parents, last = key.split(".")
    target = content
    for parent in parents:
        if target.get(parent) is None:
            target[parent] = {}
        target = target[parent]
        if not isinstance(target, dict):
            raise ParamsError(f"override {key!r}: {parent} is a value, not a section")
    target[last] = _merged(target.get(last), value)


def split_overrides(text: str) -> list[str]:
    r"""The overrides of ``make SET="..."``: section.key=value, and white space between them.

    A value goes on to where the next key begins, spaces included. What its quotes hold, or its brackets, is its own
    whatever it looks like; so is ``\`` and a space, which is a space. An override may stand in quotes as a whole.
    Raises :class:`ParamsError` for a quote or a bracket that is not closed.
    """
    overrides: list[str] = []
    rest = text.strip()
    while rest:
        end = _end(rest)
        overrides.append(_unwrapped(rest[:end]))
        rest = rest[end:].lstrip()
    return overrides


def _end(text: str) -> int:
    """The characters of the first override in ``text``."""
    key = re.match(_KEY, text)
    start = key.end() if key else 0
    if text[start : start + 1] in {"'", '"', "[", "{"}:
        start += _held(text[start:], key.group()[:-1] if key else "")
    border = _BORDER.search(text, start)
    return border.start() if border else len(text)


def _held(value: str, key: str) -> int:
    """The characters up to the end of the quotes or brackets that ``value`` begins with."""
    depth = 0
    for found in _PARTS.finditer(value):
        part = found.group()
        depth += (part in {"[", "{"}) - (part in {"]", "}"})
        if not depth:
            if len(part) > 1 or part in {"]", "}"}:
                return found.end()
            break  # a quote that no other answers
    raise ParamsError(f"override {key!r}: the value's {value[0]} is not closed")


def _unwrapped(override: str) -> str:
    """Without the quotes around all of it, and with each escaped space of a plain value as a space."""
    if re.fullmatch(_QUOTED, override, re.DOTALL):
        return override[1:-1]
    key, equals, value = override.partition("=")
    return override if value[:1] in {"'", '"', "[", "{"} else f"{key}{equals}" + re.sub(r"\\(\s)", r"\1", value)


def _as_typed(text: str, key: str) -> str:
    """The value, where YAML reads all of it. Raises :class:`ParamsError` for what it would leave out or fold."""
    if text[:1] in {"[", "{"}:
        return text
    if "\n" in text or "\r" in text:
        raise ParamsError(f"override {key!r}: the value has a line break: write \\n, in double quotes")
    if text[:1] not in {"'", '"'} and re.search(r"(?:^|\s)#", text):
        raise ParamsError(f"override {key!r}: from its # on the value is a comment of YAML: put it in quotes")
    return text


def _merged(old: Any, new: Any) -> Any:
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return new
    return {**old, **{key: _merged(old.get(key), value) for key, value in new.items()}}
