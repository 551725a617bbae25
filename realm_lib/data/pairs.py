"""Preference pairs in the columns of SHP (stanfordnlp/SHP): loaded, checked, filtered, never silently changed.

A pair is a post (``history``), two comments (``human_ref_A``, ``human_ref_B``) and ``labels``: 1 when A is preferred.
Other forms (:mod:`realm_lib.data.forms`) are read into the same columns. Every row that is left out is counted
by reason and named by file and row in the :class:`PairsReport`.
"""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from realm_lib.config.data import MAX_UNUSABLE_SHARE, DataParams, Split
from realm_lib.data.annotators import agreement, overruled, with_pair_ids
from realm_lib.data.chats import PairsError, as_messages
from realm_lib.data.hashing import unit_hash
from realm_lib.data.lengths import cut_prompt
from realm_lib.data.posts import given_ids, with_post_keys
from realm_lib.data.reading import counted_rows, read_files
from realm_lib.data.sources import Source
from realm_lib.data.texts import is_empty, visible
from realm_lib.data.votes import MEASURES, against_label, equal_numbers, other_ratios, vote_ratios

FILTERS = (
    *("other domain", "post kept for the other training split", "votes too close"),
    *("votes at or below zero", "votes missing", "more pairs than max_pairs_per_post"),
)
"""Reasons for which pairs are left out because a profile asks for it; all others are faults of a row."""
_INNER = ["_file", "_row", "_reason", "_another_id", "_another_text", "_first"]
"""Columns that the reading of pairs has for itself."""


@dataclass(frozen=True)
class PairsReport:
    """What became of the pairs that were read."""

    source: str
    """Where they come from: ``hub``, ``local``, ``simulator``, or a file's path."""
    simulated: bool
    read: int
    kept: int
    posts: int
    posts_cut: int
    """Posts that ``preprocessing.max_length`` has cut."""
    dropped: dict[str, dict[str, Any]]
    """By reason: how many ``pairs``, and the ``first`` of them as "FILE row NUMBER"."""
    ids: dict[str, Any] | None = None
    """Posts with several ids and ids of several posts (:func:`realm_lib.data.posts.given_ids`)."""
    annotators: dict[str, Any] | None = None
    """The agreement among annotators (:func:`realm_lib.data.annotators.agreement`)."""
    other_ratios: dict[str, Any] | None = None
    """``pairs`` whose ``score_ratio`` was not that of their votes, which took its place, and the ``first`` of them."""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class PairSplit:
    """The pairs of a split (or of a file), one row a pair, and what was read and left out on the way."""

    table: pd.DataFrame
    report: PairsReport


def load_pairs(data: DataParams, split: Split) -> pd.DataFrame:
    """The pairs of a split, one row a pair, in SHP's columns; :func:`load_splits` also says what was dropped.

    ``post_id`` is made of the post's text (simulated posts have the simulator's), and ``given_post_id`` is the one that
    was given. ``pair_id`` is a text that names the pair within its split; simulated pairs also have gold_A and gold_B.

    Raises :class:`PairsError` for a missing file or column, a file of mostly unusable rows, a split without pairs.
    """
    return load_splits(data, (split,))[split].table


def load_splits(data: DataParams, splits: Sequence[Split]) -> dict[Split, PairSplit]:
    """Some splits of a data set, each part of which is read once.

    Order of work: read the split, know its posts by their texts, cap it (whole posts, in an order fixed by
    ``data.seed``), leave out rows that say nothing or contradict themselves, let the majority decide on pairs that were
    judged more than once, leave out posts that a later split holds, keep ``reward_model_share`` of the training posts
    for the split "reward_model", and filter training pairs by ``min_score_ratio`` and ``max_pairs_per_post``.
    Validation and test are not filtered. Posts are cut to ``preprocessing.max_length`` words last.

    Raises as :func:`load_pairs` does.
    """
    if unknown := [split for split in splits if split not in get_args(Split)]:
        raise PairsError(f"unknown split {unknown[0]!r}; splits: {', '.join(get_args(Split))}")
    source = Source(data)
    return {split: _load_split(source, data, split) for split in splits}


def read_pairs(
    path: str | Path,
    *,
    subset_column: str | None = None,
    words: int = 1024,
    max_unusable_share: float = MAX_UNUSABLE_SHARE,
) -> PairSplit:
    """Every usable pair of a file or folder, as a whole: not split, not filtered, posts cut to ``words`` words.

    ``subset_column`` names the column that says which part of the set a pair belongs to; it becomes ``domain``.
    Without it that is ``domain`` or ``subset`` where the file has one.

    Raises :class:`PairsError` for a missing file or column, a file of mostly unusable rows, no usable pair.
    """
    pairs = with_post_keys(read_files(path, subset_column, max_unusable_share))
    chosen = _Chosen(pairs)
    chosen.drop_unusable()
    if chosen.pairs.empty:
        raise PairsError(f"{path}: no usable pair ({chosen.reasons() or 'none was read'})")
    return chosen.finished(str(path), simulated="gold_A" in pairs, words=words)


def _load_split(source: Source, data: DataParams, split: Split) -> PairSplit:
    part = "train" if split == "reward_model" else split
    chosen = _Chosen(source.capped(part))
    if data.domains:
        chosen.drop("other domain", ~chosen.pairs["domain"].map(bare_domain).isin(data.domains))
    chosen.drop_unusable()
    chosen.drop("post in a later split", chosen.pairs["post_id"].isin(source.posts_after(part)))
    if part == "train":
        _drop_for_training(chosen, data, split)
    if chosen.pairs.empty:
        raise PairsError(f"no pairs left in split {split!r} of {source.name} ({chosen.reasons() or 'none was read'})")
    return chosen.finished(data.source, data.source == "simulator", data.preprocessing.max_length)


def _drop_for_training(chosen: "_Chosen", data: DataParams, split: Split) -> None:
    share = data.reward_model_share
    reserved = chosen.pairs["post_id"].map(lambda post: unit_hash("reward_model", post) < share).astype(bool)
    chosen.drop("post kept for the other training split", ~reserved if split == "reward_model" else reserved)
    if data.min_score_ratio > 1.0:
        if "score_ratio" not in chosen.pairs:
            raise PairsError("data.min_score_ratio needs votes (score_A and score_B), which these pairs lack")
        chosen.drop_without_ratio()
        chosen.drop("votes too close", chosen.pairs["score_ratio"] < data.min_score_ratio)
    if data.max_pairs_per_post is not None:
        number = chosen.pairs.groupby("post_id").cumcount()
        chosen.drop("more pairs than max_pairs_per_post", number >= data.max_pairs_per_post)


class _Chosen:
    """Pairs that are left, and those that were left out on the way, by reason."""

    def __init__(self, pairs: pd.DataFrame) -> None:
        self.pairs = pairs
        self.read = len(pairs)
        self.dropped: dict[str, dict[str, Any]] = {}
        self.ids = given_ids(pairs)
        self.annotators: dict[str, Any] | None = None
        self.other_ratios: dict[str, Any] | None = None
        if "_reason" in pairs:
            self.drop_by(pairs["_reason"])

    def drop(self, reason: str, bad: "pd.Series[bool]") -> None:
        """Leave out the ``bad`` pairs, count them and name the first."""
        if not bad.any():
            return
        self.dropped[reason] = counted_rows(self.pairs[bad])
        self.pairs = self.pairs[~bad]

    def drop_by(self, reasons: "pd.Series[str]") -> None:
        """Leave out the pairs that have a reason of their own."""
        for reason in reasons.dropna().unique():
            self.drop(reason, reasons.loc[self.pairs.index] == reason)

    def drop_unusable(self) -> None:
        """Leave out pairs that say nothing, or whose label their votes or other annotators do not bear out."""
        responses = self.pairs[["human_ref_A", "human_ref_B"]]
        posts = {text: is_empty(as_messages(text)[-1]["content"]) for text in self.pairs["history"].unique()}
        self.drop("empty text", responses.map(is_empty).any(axis=1) | self.pairs["history"].map(posts).astype(bool))
        both = zip(self.pairs["human_ref_A"], self.pairs["human_ref_B"], strict=True)
        equal = [visible(a) == visible(b) for a, b in both]
        self.drop("equal responses", pd.Series(equal, self.pairs.index, dtype=bool))
        for measure in MEASURES:
            self.drop(f"label against {measure}", against_label(self.pairs, measure))
            self.drop(f"equal {measure}", equal_numbers(self.pairs, measure))
        if (ratios := vote_ratios(self.pairs)) is not None:
            if (other := other_ratios(self.pairs, ratios)).any():
                self.other_ratios = counted_rows(self.pairs[other])
            self.pairs = self.pairs.assign(score_ratio=ratios)
        self.pairs = with_pair_ids(self.pairs)
        self.annotators = agreement(self.pairs)
        self.drop_by(overruled(self.pairs))

    def drop_without_ratio(self) -> None:
        """Leave out pairs whose votes have no ratio."""
        missing = self.pairs.reindex(columns=["score_A", "score_B"]).isna().any(axis=1)
        self.drop("votes at or below zero", self.pairs["score_ratio"].isna() & ~missing)
        self.drop("votes missing", self.pairs["score_ratio"].isna())

    def reasons(self) -> str:
        return "; ".join(f"{reason}: {entry['pairs']}" for reason, entry in self.dropped.items())

    def finished(self, source: str, simulated: bool, words: int) -> PairSplit:
        """The pairs with their posts cut to ``words`` words, and the report."""
        pairs, cut = _cut_posts(self.pairs, words)
        report = PairsReport(
            source=source,
            simulated=simulated,
            read=self.read,
            kept=len(pairs),
            posts=pairs["post_id"].nunique(),
            posts_cut=cut,
            dropped=self.dropped,
            ids=self.ids,
            annotators=self.annotators,
            other_ratios=self.other_ratios,
        )
        return PairSplit(pairs.drop(columns=_INNER, errors="ignore").reset_index(drop=True), report)


def chosen_and_rejected(pairs: pd.DataFrame) -> tuple["pd.Series[str]", "pd.Series[str]"]:
    """The texts of the preferred responses and those of the others, as the labels say."""
    a_is_chosen, a, b = pairs["labels"] == 1, pairs["human_ref_A"], pairs["human_ref_B"]
    return a.where(a_is_chosen, b), b.where(a_is_chosen, a)


def all_texts(pairs: pd.DataFrame) -> pd.DataFrame:
    """The (prompt, response) of ``pairs``, those of A and then those of B: columns prompt, response."""
    sides = [pairs[["history", f"human_ref_{side}"]].set_axis(["prompt", "response"], axis=1) for side in "AB"]
    return pd.concat(sides)


def distinct_texts(pairs: pd.DataFrame) -> pd.DataFrame:
    """The distinct (prompt, response) of ``pairs``, however many pairs hold each: columns prompt, response."""
    return all_texts(pairs).drop_duplicates(ignore_index=True)


def places_of_texts(pairs: pd.DataFrame) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where the texts of A and of B of each pair stand in :func:`distinct_texts`, each [pairs]."""
    texts = all_texts(pairs)
    places = texts.groupby(["prompt", "response"], sort=False, dropna=False).ngroup().to_numpy(np.int64)
    return places[: len(pairs)], places[len(pairs) :]


def sides_of(texts: pd.DataFrame) -> tuple[list[str], list[str]]:
    """The prompts and the responses of ``texts``, of which equal ones are one object: a post has many responses."""

    def side(name: str) -> list[str]:
        codes, distinct = pd.factorize(texts[name])
        kept: list[str] = distinct.tolist()
        return [kept[code] for code in codes]

    return side("prompt"), side("response")


def posts_with(texts: pd.DataFrame, pairs: pd.DataFrame) -> list[str]:
    """The post_id of the ``pairs`` that hold one of the ``texts`` (columns prompt, response), each once."""
    wanted = set(texts[["prompt", "response"]].itertuples(index=False, name=None))
    columns = pairs[["post_id", "history", "human_ref_A", "human_ref_B"]].itertuples(index=False, name=None)
    return list(dict.fromkeys(str(post) for post, asked, a, b in columns if {(asked, a), (asked, b)} & wanted))


def bare_domain(domain: str) -> str:
    """A domain without the split that SHP appends: ``askbaking_train`` is ``askbaking``."""
    return re.sub(r"_(train|validation|test)$", "", domain)


def _cut_posts(pairs: pd.DataFrame, words: int) -> tuple[pd.DataFrame, int]:
    """Posts cut by :func:`cut_prompt`, and how many that changed; comments stay whole."""
    cut = {post: cut_prompt(post, words) for post in pairs["history"].unique()}
    return pairs.assign(history=pairs["history"].map(cut)), sum(post != short for post, short in cut.items())
