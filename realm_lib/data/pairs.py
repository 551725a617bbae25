"""Preference pairs in the columns of SHP (stanfordnlp/SHP): loaded, checked, filtered, never silently changed.

A pair is a post (``history``), two comments (``human_ref_A``, ``human_ref_B``) and ``labels``: 1 when A is preferred.
Files of plain {prompt, chosen, rejected}, strings or message lists, are read into the same columns. Every row that is
left out is counted by reason and named by file and row in the :class:`PairsReport`.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import pandas as pd

from realm_lib.config.data import DataParams, Split
from realm_lib.data.chats import PairsError
from realm_lib.data.lengths import cut_prompt
from realm_lib.data.reading import TEXTS, read_files, unit_hash
from realm_lib.data.sources import Source

_NAMED_ROWS = 5  # rows of each fault that the report names


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

    Beside SHP's columns there is ``pair_id``, a text that names the pair within its split; simulated pairs also have
    gold_A and gold_B. Raises :class:`PairsError` for a missing file or column, a broken row, a split without pairs.
    """
    return load_splits(data, (split,))[split].table


def load_splits(data: DataParams, splits: Sequence[Split]) -> dict[Split, PairSplit]:
    """Some splits of a data set, each part of which is read once.

    Order of work: read and cap the split (whole posts, in an order fixed by ``data.seed``), check every row, leave out
    posts that a later split holds, keep ``reward_model_share`` of the training posts for the split "reward_model",
    and filter training pairs by ``min_score_ratio`` and ``max_pairs_per_post``. Validation and test are not filtered.

    Raises as :func:`load_pairs` does.
    """
    if unknown := [split for split in splits if split not in get_args(Split)]:
        raise PairsError(f"unknown split {unknown[0]!r}; splits: {', '.join(get_args(Split))}")
    source = Source(data)
    return {split: _load_split(source, data, split) for split in splits}


def read_pairs(path: str | Path, *, subset_column: str | None = None, words: int = 1024) -> PairSplit:
    """Every usable pair of a file or folder, as a whole: not split, not filtered, posts cut to ``words`` words.

    ``subset_column`` names the column that says which part of the set a pair belongs to; it becomes ``domain``.
    Without it that is ``domain`` or ``subset`` where the file has one.

    Raises :class:`PairsError` for a missing file or column, a broken row, no usable pair.
    """
    pairs = read_files(path, subset_column)
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
        chosen.drop("votes too close", ~(chosen.pairs["score_ratio"] >= data.min_score_ratio))  # or missing
    if data.max_pairs_per_post is not None:
        number = chosen.pairs.groupby("post_id").cumcount()
        chosen.drop("more pairs than max_pairs_per_post", number >= data.max_pairs_per_post)


class _Chosen:
    """Pairs that are left, and those that were left out on the way, by reason."""

    def __init__(self, pairs: pd.DataFrame) -> None:
        self.pairs = pairs
        self.read = len(pairs)
        self.dropped: dict[str, dict[str, Any]] = {}

    def drop(self, reason: str, bad: "pd.Series[bool]") -> None:
        """Leave out the ``bad`` pairs, count them and name the first."""
        if not bad.any():
            return
        rows = self.pairs.loc[bad, ["_file", "_row"]].head(_NAMED_ROWS)
        named = [f"{file} row {row}" for file, row in rows.itertuples(index=False)]
        self.dropped[reason] = {"pairs": int(bad.sum()), "first": named}
        self.pairs = self.pairs[~bad]

    def drop_unusable(self) -> None:
        """Leave out pairs that say nothing; name the others by their ids, and keep the first of equal ones."""
        self.drop("empty text", (self.pairs[list(TEXTS)].map(str.strip) == "").any(axis=1))
        self.drop("equal responses", self.pairs["human_ref_A"].str.strip() == self.pairs["human_ref_B"].str.strip())
        self.drop("label against votes", _against_votes(self.pairs))
        self.pairs = self.pairs.assign(pair_id=_pair_ids(self.pairs))
        self.drop("duplicate pair", self.pairs["pair_id"].duplicated())

    def reasons(self) -> str:
        return "; ".join(f"{reason}: {entry['pairs']}" for reason, entry in self.dropped.items())

    def finished(self, source: str, simulated: bool, words: int) -> PairSplit:
        """The pairs with their posts cut to ``words`` words, and the report."""
        pairs, cut = _cut_posts(self.pairs, words)
        posts = pairs["post_id"].nunique()
        report = PairsReport(source, simulated, self.read, len(pairs), posts, posts_cut=cut, dropped=self.dropped)
        return PairSplit(pairs.drop(columns=["_file", "_row"]).reset_index(drop=True), report)


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


def bare_domain(domain: str) -> str:
    """A domain without the split that SHP appends: ``askbaking_train`` is ``askbaking``."""
    return re.sub(r"_(train|validation|test)$", "", domain)


def _against_votes(pairs: pd.DataFrame) -> "pd.Series[bool]":
    if not {"score_A", "score_B"} <= set(pairs.columns):
        return pd.Series(False, index=pairs.index)
    difference = pairs["score_A"] - pairs["score_B"]
    against = ((difference > 0) & (pairs["labels"] == 0)) | ((difference < 0) & (pairs["labels"] == 1))
    if against.mean() > 0.5:
        raise PairsError(
            f"{pairs['_file'].iloc[0]}: {against.mean():.0%} of the labels contradict the votes; "
            "labels = 1 must mean that A is preferred (score_A > score_B)"
        )
    return against


def _pair_ids(pairs: pd.DataFrame) -> list[str]:
    """A text a pair that does not depend on which response is A; equal pairs have equal ones."""
    columns = pairs[["post_id", "human_ref_A", "human_ref_B"]].itertuples(index=False)
    keys = (json.dumps([post, *sorted((a, b))]) for post, a, b in columns)
    return [hashlib.sha256(key.encode()).hexdigest()[:16] for key in keys]


def _cut_posts(pairs: pd.DataFrame, words: int) -> tuple[pd.DataFrame, int]:
    """Posts cut by :func:`cut_prompt`, and how many that changed; comments stay whole."""
    cut = {post: cut_prompt(post, words) for post in pairs["history"].unique()}
    return pairs.assign(history=pairs["history"].map(cut)), sum(post != short for post, short in cut.items())
