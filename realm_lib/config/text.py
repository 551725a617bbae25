"""Profiles as YAML text: errors that never repeat a line, since a key may stand on it, and floats that stay floats."""

import re
from collections.abc import Mapping
from typing import Any

import yaml

from realm_lib.config.base import ParamsError


def read_yaml(text: str, source: str) -> Any:
    """What ``text`` says. Raises :class:`ParamsError` with ``source``, what is wrong, and the line's number."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None) or "it holds characters that YAML forbids"
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ParamsError(f"{source} not YAML: {problem}{where}") from None
    except RecursionError:
        raise ParamsError(f"{source} not YAML that can be read: nested too deep") from None
    except ValueError:  # PyYAML's constructors let Python's own through; its message repeats the value
        raise ParamsError(f"{source} not YAML: a number with too many digits, or a date that is none") from None


def write_yaml(content: Mapping[str, Any]) -> str:
    """``content`` as every YAML 1.1 reader, papermill's too, reads it back equal."""
    return yaml.dump(content, Dumper=_ExactDumper, sort_keys=False, allow_unicode=True)


class _ExactDumper(yaml.SafeDumper):
    """Writes ``1.0e-05`` for a float, not ``1e-05``, which is text in YAML 1.1."""


def _represent_float(dumper: yaml.SafeDumper, value: float) -> yaml.Node:
    text = repr(value)
    if "e" in text and "." not in text:
        text = text.replace("e", ".0e")
    return dumper.represent_scalar("tag:yaml.org,2002:float", text)


def _represent_text(dumper: yaml.SafeDumper, value: str) -> yaml.Node:
    # Unicode's own line breaks survive in double quotes only, where PyYAML escapes them.
    style = '"' if re.search("[\x85\u2028\u2029]", value) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_ExactDumper.add_representer(float, _represent_float)
_ExactDumper.add_representer(str, _represent_text)
