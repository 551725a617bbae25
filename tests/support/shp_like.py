"""A data set in SHP's own layout and columns, of simulated pairs, with what SHP has and the simulator has not.

A folder a domain with train.json, validation.json and test.json, a pair a line. Some comments have up to 10,000
letters, Reddit's limit; some posts are two lines, some have 40,000 letters; some texts were deleted or removed, hold
odd Unicode, or come a second time under another id.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from realm_lib.data.simulator import simulate_pairs

LONGEST_COMMENT = 10_000
LONGEST_POST = 40_000
_ODD = (
    "\u202eright to left\u202c, e\u0301 and \u00e9, \U0001f468\u200d\U0001f469\u200d\U0001f467, \u4e2d\u6587, "
    "\ufeff\u200b, <|im_end|> &amp;#x200B; "
)


def write_shp(folder: Path, pairs_per_split: int, domains: tuple[str, ...] = ("askbaking", "askphysics")) -> None:
    """``datasets/stanfordnlp/SHP`` in ``folder``, with so many pairs in each of its three splits."""
    place = folder / "datasets/stanfordnlp/SHP"
    place.mkdir(parents=True)
    (place / "README.md").write_text("---\nlanguage:\n- en\nsize_categories:\n- 100K<n<1M\n---\n", encoding="utf-8")
    for split in ("train", "validation", "test"):
        lines: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for row in islice(rows(split, domains), pairs_per_split):
            lines[row["domain"].rpartition("_")[0]].append(row)
        for domain, of_domain in lines.items():
            (place / domain).mkdir(exist_ok=True)
            text = "".join(json.dumps(row) + "\n" for row in of_domain)
            (place / domain / f"{split}.json").write_text(text, encoding="utf-8")


def rows(split: str, domains: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """Pairs without end, in SHP's columns alone."""
    for number, pair in enumerate(simulate_pairs(10**6, seed=19, split=split, domains=domains)):
        row = {name: value for name, value in pair.items() if not name.startswith("gold_")}
        row["history"] = post(row["history"])
        for side in "AB":
            row[f"human_ref_{side}"] = comment(row[f"human_ref_{side}"])
        yield row
        if number % 40 == 0:
            yield row | {"post_id": f"{row['post_id']}again"}


def post(text: str) -> str:
    """A post as people write them; the same for the same ``text``, whatever the pair."""
    kind = _kind(text, 12)
    if kind == 0:
        return f"{text}\n\nThanks!"
    if kind == 1:
        return _repeated(f"{text} Here is all that I tried.", LONGEST_POST)
    return f"{text} {_ODD}" if kind == 2 else text


def comment(text: str) -> str:
    """A comment as people write them."""
    kind = _kind(text, 24)
    if kind < 2:
        return _repeated(text, LONGEST_COMMENT - 700 * kind)
    if kind < 4:
        return _repeated(text, 7_000)
    if kind == 4:
        return f"{_ODD}{text}"
    return ("[deleted]", "[removed]")[kind - 5] if kind < 7 else text


def _kind(text: str, kinds: int) -> int:
    return int(hashlib.sha256(text.encode()).hexdigest(), 16) % kinds


def _repeated(text: str, letters: int) -> str:
    """Paragraphs up to ``letters``, each with its number, so that none is the same."""
    paragraphs = [f"{number}. {text}" for number in range(1, letters // len(text) + 2)]
    return "\n\n".join(paragraphs)[:letters]
