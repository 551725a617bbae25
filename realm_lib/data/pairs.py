"""Preference pairs in the columns of SHP (stanfordnlp/SHP): loaded, checked, filtered, never silently changed.

A pair is a post (``history``), two comments (``human_ref_A``, ``human_ref_B``) and ``labels``: 1 when A is preferred.
Files of plain {prompt, chosen, rejected}, strings or message lists, are read into the same columns. Every row that is
left out is counted by reason and named by file and row in ``pairs.attrs["report"]``.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd

from realm_lib.config.data import DataParams, Split
from realm_lib.data.chats import PairsError
from realm_lib.data.reading import _TEXTS, _local_files, _normalised, _read_files, _unit_hash, read_table

__all__ = ["bare_domain", "distinct_texts", "load_pairs", "read_pairs"]

_SPLIT_NAMES = {"train": ("train",), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}
_NAMED_ROWS = 5  # rows of each fault that the report names


def load_pairs(data: DataParams, split: Split) -> pd.DataFrame:
    """The pairs of a split, one row a pair, in SHP's columns (simulated pairs have gold_A and gold_B beside them).

    Order of work: read and cap the split (whole posts, in an order fixed by ``data.seed``), check every row, leave out
    posts that a later split holds, keep ``reward_model_share`` of the training posts for the split "reward_model",
    and filter training pairs by ``min_score_ratio`` and ``max_pairs_per_post``. Validation and test are not filtered.
    ``attrs["report"]`` says what was read, kept, dropped by which reason (with the first rows named) and cut.

    Raises :class:`PairsError` for a missing file or column, a broken row, a split without pairs.
    """
    if split not in get_args(Split):
        raise PairsError(f"unknown split {split!r}; splits: {', '.join(get_args(Split))}")
    source_split = "train" if split == "reward_model" else split
    report: dict[str, Any] = {"split": split, "source": data.source, "simulated": data.source == "simulator"}
    pairs = _READERS[data.source](data, source_split)
    report["read"] = len(pairs)
    dropped: dict[str, dict[str, Any]] = {}

    def drop(reason: str, bad: "pd.Series[bool]") -> None:
        nonlocal pairs
        pairs = _without(pairs, bad, reason, dropped)

    if data.domains:
        drop("other domain", ~pairs["domain"].map(bare_domain).isin(data.domains))
    pairs = _usable(pairs, dropped)
    later = _posts_of_later_splits(data, source_split)
    drop("post in a later split", pairs["post_id"].isin(later))
    if source_split == "train":
        reserved = pairs["post_id"].map(lambda post: _unit_hash("reward_model", post) < data.reward_model_share)
        drop("post kept for the other training split", ~reserved if split == "reward_model" else reserved.astype(bool))
        if data.min_score_ratio > 1.0:
            if "score_ratio" not in pairs:
                raise PairsError("data.min_score_ratio needs votes (score_A and score_B), which these pairs lack")
            drop("votes too close", ~(pairs["score_ratio"] >= data.min_score_ratio))  # or missing
        if data.max_pairs_per_post is not None:
            drop("more pairs than max_pairs_per_post", pairs.groupby("post_id").cumcount() >= data.max_pairs_per_post)
    if pairs.empty:
        reasons = "; ".join(f"{reason}: {found['pairs']}" for reason, found in dropped.items()) or "none was read"
        raise PairsError(f"no pairs left in split {split!r} of {_place(data)} ({reasons})")
    pairs, cut = _cut_posts(pairs, data.preprocessing.max_length)
    report |= {"kept": len(pairs), "posts": pairs["post_id"].nunique(), "dropped": dropped, "posts_cut": cut}
    pairs = pairs.drop(columns=["_file", "_row"]).reset_index(drop=True)
    pairs.attrs["report"] = report
    return pairs


def read_pairs(path: str | Path, *, subset_column: str | None = None, words: int = 1024) -> pd.DataFrame:
    """Every usable pair of a file or folder, as a whole: not split, not filtered, posts cut to ``words`` words.

    ``subset_column`` names the column that says which part of the set a pair belongs to; it becomes ``domain``.
    Without it that is ``domain`` or ``subset`` where the file has one. ``attrs["report"]`` as :func:`load_pairs`.

    Raises :class:`PairsError` for a missing file or column, a broken row, no usable pair.
    """
    frames = []
    for file in _local_files(str(path)):
        frame = read_table(file)
        if subset_column is not None:
            if subset_column not in frame:
                raise PairsError(
                    f"{file}: no column {subset_column!r}; it has: {', '.join(map(str, frame.columns[:-2]))}"
                )
            frame = frame.assign(domain=frame[subset_column].astype(str))
        elif "domain" not in frame and "subset" in frame:
            frame = frame.assign(domain=frame["subset"].astype(str))
        frames.append(_normalised(frame, str(file)))
    pairs = pd.concat(frames, ignore_index=True)
    report: dict[str, Any] = {"source": str(path), "read": len(pairs), "simulated": "gold_A" in pairs}
    dropped: dict[str, dict[str, Any]] = {}
    pairs = _usable(pairs, dropped)
    if pairs.empty:
        reasons = "; ".join(f"{reason}: {found['pairs']}" for reason, found in dropped.items())
        raise PairsError(f"{path}: no usable pair ({reasons or 'none was read'})")
    pairs, cut = _cut_posts(pairs, words)
    report |= {"kept": len(pairs), "posts": pairs["post_id"].nunique(), "dropped": dropped, "posts_cut": cut}
    pairs = pairs.drop(columns=["_file", "_row"]).reset_index(drop=True)
    pairs.attrs["report"] = report
    return pairs


def distinct_texts(pairs: pd.DataFrame) -> pd.DataFrame:
    """The distinct (prompt, response) of ``pairs``, however many pairs hold each: columns prompt, response."""
    sides = [pairs[["history", f"human_ref_{side}"]].set_axis(["prompt", "response"], axis=1) for side in "AB"]
    return pd.concat(sides).drop_duplicates(ignore_index=True)


def bare_domain(domain: str) -> str:
    """A domain without the split that SHP appends: ``askbaking_train`` is ``askbaking``."""
    return re.sub(r"_(train|validation|test)$", "", domain)


# Sources


def _read_simulator(data: DataParams, split: str) -> pd.DataFrame:
    from realm_lib.data.simulator import simulate_pairs

    size = getattr(data.splits, split)
    frame = pd.DataFrame(simulate_pairs(size, seed=data.seed, split=split, domains=data.domains))
    return frame.assign(_file=f"simulator {split}", _row=np.arange(1, len(frame) + 1))


def _read_hub(data: DataParams, split: str) -> pd.DataFrame:
    assert data.dataset_name is not None
    # SHP keeps one folder a domain; without domains the whole data set is read.
    parts = [_hub_split(data, split, domain) for domain in _folders(data)]
    return _capped(pd.concat([_normalised(part, data.dataset_name) for part in parts], ignore_index=True), data, split)


def _folders(data: DataParams) -> Sequence[str | None]:
    return data.domains or (None,)


def _hub_split(data: DataParams, split: str, domain: str | None, columns: list[str] | None = None) -> pd.DataFrame:
    import datasets

    workers = data.preprocessing.num_workers
    try:
        loaded = datasets.load_dataset(
            data.dataset_name, data_dir=domain, split=split, num_proc=workers if workers > 1 else None
        )
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise PairsError(
            f"data.dataset_name: split {split!r} of {data.dataset_name}{f'/{domain}' if domain else ''} "
            f"could not be loaded: {error}"
        ) from error
    if columns and set(columns) <= set(loaded.column_names):
        loaded = loaded.select_columns(columns)
    frame: pd.DataFrame = loaded.to_pandas()
    return frame.assign(_file=f"{data.dataset_name} {split}", _row=np.arange(1, len(frame) + 1))


def _read_local(data: DataParams, split: str) -> pd.DataFrame:
    assert data.path is not None
    files = _local_files(data.path)
    named = {name: [file for file in files if _split_of_file(file) == name] for name in _SPLIT_NAMES}
    if all(named.values()):
        if strays := [file for file in files if _split_of_file(file) is None]:
            raise PairsError(
                f"{strays[0]}: its name begins with no split ({', '.join(_SPLIT_NAMES)}), as others here do"
            )
        return _capped(_read_files(named[split]), data, split)
    if any(named.values()):
        missing = [name for name, found in named.items() if not found]
        raise PairsError(f"{data.path}: no file for split {missing[0]!r}; name one {missing[0]}.jsonl, or name none")
    pairs = _read_files(files)
    place = pairs["post_id"].map(lambda post: _unit_hash("split", post))
    bounds = {"train": (0.0, 0.8), "validation": (0.8, 0.9), "test": (0.9, 1.0)}[split]
    return _capped(pairs[(place >= bounds[0]) & (place < bounds[1])], data, split)


_READERS = {"simulator": _read_simulator, "hub": _read_hub, "local": _read_local}


def _split_of_file(file: Path) -> str | None:
    stem = re.split(r"[._-]", file.name.lower())[0]
    return next((split for split, names in _SPLIT_NAMES.items() if stem in names), None)


def _capped(pairs: pd.DataFrame, data: DataParams, split: str) -> pd.DataFrame:
    """At most ``data.splits`` pairs, whole posts in an order fixed by ``data.seed`` (the last post may be cut)."""
    size = getattr(data.splits, split)
    if size is None or len(pairs) <= size:
        return pairs
    order = pairs["post_id"].map(lambda post: _unit_hash(str(data.seed), post))
    return pairs.loc[order.sort_values(kind="stable").index[:size]].sort_index()


# Checks


def _without(
    pairs: pd.DataFrame, bad: "pd.Series[bool]", reason: str, dropped: dict[str, dict[str, Any]]
) -> pd.DataFrame:
    """``pairs`` but the ``bad`` ones, which ``dropped`` counts and names."""
    if not bad.any():
        return pairs
    rows = pairs.loc[bad, ["_file", "_row"]].head(_NAMED_ROWS)
    named = [f"{file} row {row}" for file, row in rows.itertuples(index=False)]
    dropped[reason] = {"pairs": int(bad.sum()), "first": named}
    return pairs[~bad]


def _usable(pairs: pd.DataFrame, dropped: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """The pairs that say something, each once."""
    pairs = _without(pairs, (pairs[list(_TEXTS)].map(str.strip) == "").any(axis=1), "empty text", dropped)
    equal = pairs["human_ref_A"].str.strip() == pairs["human_ref_B"].str.strip()
    pairs = _without(pairs, equal, "equal responses", dropped)
    pairs = _without(pairs, _against_votes(pairs), "label against votes", dropped)
    return _without(pairs, pairs.assign(_key=_pair_keys(pairs)).duplicated("_key"), "duplicate pair", dropped)


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


def _pair_keys(pairs: pd.DataFrame) -> list[str]:
    """A key a pair that does not depend on which response is A."""
    columns = pairs[["post_id", "human_ref_A", "human_ref_B"]].itertuples(index=False)
    return [json.dumps([post, *sorted((a, b))]) for post, a, b in columns]


def _posts_of_later_splits(data: DataParams, split: str) -> set[str]:
    """The posts of the splits that are judged after ``split``: none of them may be in it."""
    later = {"train": ("validation", "test"), "validation": ("test",), "test": ()}[split]
    if data.source == "simulator":  # every split has posts of its own
        return set()
    if data.source == "hub":
        frames = [_hub_split(data, name, domain, ["post_id"]) for name in later for domain in _folders(data)]
        # Pairs of {prompt, chosen, rejected} may have no post_id: then it is made of the prompt.
        frames = [frame if "post_id" in frame else _normalised(frame, str(data.dataset_name)) for frame in frames]
    else:
        whole = data.model_copy(update={"splits": type(data.splits)()})
        frames = [_read_local(whole, name) for name in later]
    return {str(post) for frame in frames for post in frame["post_id"]}


def _cut_posts(pairs: pd.DataFrame, words: int) -> tuple[pd.DataFrame, int]:
    """Posts cut to their first ``words`` words (a post opens with its title); comments stay whole."""
    whole = pairs["history"].drop_duplicates()
    # Only a post longer than twice that many characters can have more words than that.
    long = [text for text in whole[whole.str.len() >= 2 * words] if len(text.split()) > words]
    cut = {text: re.match(rf"\s*(?:\S+\s+){{{words - 1}}}\S+", text) for text in long}
    short = {text: match.group(0) for text, match in cut.items() if match}
    return pairs.assign(history=pairs["history"].map(lambda text: short.get(text, text))), len(short)


def _place(data: DataParams) -> str:
    return {"hub": data.dataset_name, "local": data.path, "simulator": "the simulator"}[data.source] or ""
