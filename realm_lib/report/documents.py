"""The documents' tables and sentences that hold numbers of the demo, written from its reference into their places.

A place is a block of Markdown between ``<!-- realm: NAME -->`` and ``<!-- end -->``; what stands there is made by the
function of that name in :mod:`realm_lib.report.words.demo`.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from realm_lib.config.base import project_root
from realm_lib.report.words import demo
from realm_lib.runs.files import write_text
from realm_lib.runs.reading import MissingStepError, read_json

_DOCUMENTS = ("README.md", "docs/measurements.md")
_BLOCK = re.compile(r"(<!-- realm: (\w+) -->\n)(.*?)(<!-- end -->)", flags=re.DOTALL)
_MAKERS = {"demo_rewards": demo.rewards, "demo_answers": demo.answers, "demo_policies": demo.policies}


class DocumentError(ValueError):
    """A document has a block that nothing makes, or no block at all."""


def write_documents(root: Path | None = None, *, check: bool = False) -> list[Path]:
    """Fill the blocks of the documents of the project at ``root``; the paths that changed.

    ``check``: the paths that would change; nothing is written. Raises :class:`DocumentError` for a block of an unknown
    name and a document without blocks, :class:`MissingStepError` without a reference.
    """
    root = root or project_root()
    metrics = _metrics(root / "outputs" / "reference" / "demo" / "metrics")
    changed = []
    for path in (root / name for name in _DOCUMENTS):
        text = path.read_text(encoding="utf-8")
        if (filled := fill(text, metrics, str(path))) != text:
            changed.append(path)
            if not check:
                write_text(path, filled)
    return changed


def fill(text: str, metrics: Mapping[str, Mapping[str, Any]], name: str) -> str:
    """``text``, that of document ``name``, with its blocks made anew from ``metrics`` (by the name of their file)."""

    def block(found: re.Match[str]) -> str:
        if (make := _MAKERS.get(found[2])) is None:
            raise DocumentError(f"{name}: no block is called {found[2]!r}; there are {', '.join(_MAKERS)}")
        return f"{found[1]}{make(metrics)}\n{found[4]}"

    filled, count = _BLOCK.subn(block, text)
    if count == 0 or count != text.count("<!-- realm:"):
        raise DocumentError(f"{name}: a block begins with <!-- realm: NAME --> and ends with <!-- end -->")
    return filled


def _metrics(folder: Path) -> dict[str, Any]:
    """The metrics of the reference that blocks are made from."""
    found = {}
    for name in ("evaluation", "policies"):
        path = folder / f"{name}.json"
        if not path.exists():
            raise MissingStepError(f"{path} is missing: `realm reference outputs/demo outputs/reference/demo` keeps it")
        found[name] = read_json(path)
    return found
