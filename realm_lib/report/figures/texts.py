"""Tables that people read: prompts and answers as text with their numbers, and metrics with their intervals."""

import re
from collections.abc import Collection, Mapping
from html import escape
from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    from pandas.io.formats.style import Styler
    from pandas.io.formats.style_render import CSSDict

_NUMBERS = "{:.2f}"
_SHARES = "{:.1%}"
_UNBROKEN = 24
"""Characters up to which the names of an index stand on one line."""


def text_table(frame: pd.DataFrame, *, characters: int = 500) -> "Styler":
    """``frame`` with its texts to the left, their line breaks kept; two digits, counts whole; no index of numbers.

    Texts, an index of them too, are shown as they are, never as HTML; over ``characters`` they are cut, which they say.
    """
    shown = frame.copy()
    texts = [name for name in shown if not pd.api.types.is_numeric_dtype(shown[name])]
    for name in texts:
        shown[name] = shown[name].map(lambda text: _cut(str(text), characters))
    counts = [name for name in shown if pd.api.types.is_integer_dtype(shown[name])]
    styler = shown.style.format("{:,}", subset=counts)
    styler = styler.format(_NUMBERS, subset=[name for name in shown if name not in [*texts, *counts]])
    styler = styler.format(escape="html", subset=texts)
    left = {"text-align": "left", "vertical-align": "top"}
    styler = styler.set_properties(
        subset=texts, **{**left, "white-space": "pre-wrap", "overflow-wrap": "anywhere", "min-width": "9em"}
    )
    styles: list[CSSDict] = [
        {"selector": ".row_heading, th.col_heading, th.index_name", "props": list(left.items())},
        {"selector": "td", "props": [("vertical-align", "top")]},
    ]
    for level in range(shown.index.nlevels):
        if all(len(str(name)) <= _UNBROKEN for name in shown.index.get_level_values(level)):
            styles.append({"selector": f".row_heading.level{level}", "props": [("white-space", "nowrap")]})
    styler = styler.set_table_styles(styles)
    if isinstance(shown.index, pd.RangeIndex):
        return styler.hide(axis="index")
    return styler.format_index(lambda text: escape(_cut(str(text), characters)))


def interval_table(
    metrics: Mapping[str, Mapping[str, Any]], *, shares: Collection[str] = (), digits: int = 2
) -> "Styler":
    """Metrics as a table, a row a name: an interval of two numbers (a key that begins with ci) becomes low and high.

    ``shares`` are shown in percent, all else with ``digits``.
    """
    rows: dict[str, dict[str, float]] = {name: {} for name in metrics}
    for name, entry in metrics.items():
        for key, value in entry.items():
            if key.startswith("ci"):
                rows[name]["low"], rows[name]["high"] = value
            else:
                rows[name][key] = value
    table = pd.DataFrame.from_dict(rows, orient="index").astype(float)
    percents = [name for name in table if name in shares]
    return table.style.format(f"{{:.{digits}f}}").format(_SHARES, subset=percents)


def _cut(text: str, characters: int) -> str:
    text = re.sub(r"\n\s*\n", "\n", text.strip())
    return text if len(text) <= characters else f"{text[:characters].rstrip()} … ({len(text)} characters in all)"
