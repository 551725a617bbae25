"""What a form of pairs is, and what becomes of its rows: pairs, ties, or a reason why there is none."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, NamedTuple

import pandas as pd

from realm_lib.data.cells import given, id_text, number, plain, text
from realm_lib.data.chats import PairsError, as_text
from realm_lib.data.hashing import unit_hash

TIE = "tie"
ALONE = "no other response to compare with"
DELETED = "deleted message"
SYNTHETIC = "synthetic message"
PART_OF_LIFE = frozenset({TIE, ALONE, DELETED, SYNTHETIC})
"""Reasons that say nothing against the file."""
NO_PREFERENCE = "no preference that can be read"
NO_LABEL = "label is neither 0 nor 1"

Row = Mapping[str, Any]


class Pair(NamedTuple):
    """Two responses to a prompt."""

    prompt: str
    a: str
    b: str
    label: int | None
    """1 when A is preferred, 0 when B is; None for a tie."""
    ratings: tuple[float | None, float | None] = (None, None)
    """What A and B were rated, where the form says it. Ratings are no votes: their ratio means nothing."""
    post_id: Any = None


Found = Iterator[tuple[Row, Pair | str]]
"""Pairs, or reasons why there is none, with the row that each comes from."""


@dataclass(frozen=True)
class Form:
    """A form in which data sets of preferences are published."""

    name: str
    columns: tuple[str, ...]
    """Those that a file must have to be of this form."""
    becomes: str
    """What is made of them, for people."""
    read: Callable[[pd.DataFrame], pd.DataFrame]
    """From the file's rows (with _file and _row) to the columns of SHP, and _reason."""


def by_row(read: Callable[[Row], Iterable[Pair | str]]) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """The reader of a form whose rows have nothing to do with each other; an error of a row's is its reason."""

    def found(rows: Sequence[Row]) -> Found:
        for row in rows:
            try:
                for pair in read(row):
                    yield row, pair
            except PairsError as error:
                yield row, str(error)

    return by_table(found)


def by_table(found: Callable[[Sequence[Row]], Found]) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """The reader of a form that must see all rows of a file."""

    def read(frame: pd.DataFrame) -> pd.DataFrame:
        rows = [plain(row) for row in frame.to_dict("records")]
        table = pd.DataFrame([_record(row, pair) for row, pair in found(rows)])
        rated = [column for column in ("rating_A", "rating_B") if column in table and table[column].notna().any()]
        return table.drop(columns=[column for column in ("rating_A", "rating_B") if column not in rated])

    return read


def chosen_over(prompt: str, chosen: str, rejected: str, ratings: Sequence[Any] = (None, None)) -> Pair:
    """A pair of which the better is known; which response becomes A is a bit of a hash.

    ``ratings`` are the chosen one's and the rejected one's.
    """
    if unit_hash("side", prompt, chosen, rejected) < 0.5:
        return Pair(prompt, chosen, rejected, 1, (ratings[0], ratings[1]))
    return Pair(prompt, rejected, chosen, 0, (ratings[1], ratings[0]))


def ranked(prompt: str, responses: Sequence[tuple[Any, Any]]) -> Iterator[Pair | str]:
    """Each two of some responses with their ratings (higher is better): a pair, or a tie.

    Reward models are trained on all pairs of such lists (InstructGPT, arXiv 2203.02155; UltraFeedback, 2310.01377).
    """
    if len(responses) < 2:
        yield ALONE
    for one, other in combinations([(text(response), number(rating)) for response, rating in responses], 2):
        if one[1] is None or other[1] is None:
            yield NO_PREFERENCE
        elif one[1] == other[1]:
            yield TIE
        else:
            better, worse = (one, other) if one[1] > other[1] else (other, one)
            yield chosen_over(prompt, better[0], worse[0], (better[1], worse[1]))


def plain_prompt(value: Any) -> str:
    """A prompt that is a plain text, in which headings of turns are part of what is said."""
    return as_text([{"role": "user", "content": text(value)}])


def _record(row: Row, found: Pair | str) -> dict[str, Any]:
    """A row of SHP's columns; one without a pair has empty texts, so that what it holds is not taken for a post."""
    if not isinstance(found, str) and found.label is None:
        found = TIE
    reason = found if isinstance(found, str) else None
    pair = Pair("", "", "", None) if isinstance(found, str) else found
    own_id = id_text(given(row, "post_id"))
    post_id = id_text(pair.post_id) if own_id is None else own_id
    return {
        "post_id": post_id if reason is None else None,
        "domain": domain_of(row),
        "history": pair.prompt,
        "human_ref_A": pair.a,
        "human_ref_B": pair.b,
        "labels": pair.label or 0,
        "rating_A": pair.ratings[0],
        "rating_B": pair.ratings[1],
        "_file": row["_file"],
        "_row": row["_row"],
        "_reason": reason,
    }


def domain_of(row: Row) -> str:
    """What part of its set a row belongs to, "all" where it says nothing."""
    for column in ("domain", "subset"):
        value = given(row, column)
        if value is not None and value != "":
            return str(value)
    return "all"
