"""Preference pairs in the columns of SHP (stanfordnlp/SHP): loaded, checked, filtered, never silently changed.

A pair is a post (``history``), two comments (``human_ref_A``, ``human_ref_B``) and ``labels``: 1 when A is preferred.
Files of plain {prompt, chosen, rejected}, strings or message lists, are read into the same columns. Every row that is
left out is counted by reason and named by file and row in ``pairs.attrs["report"]``.
"""

import gzip
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd

from realm_lib.params import DataParams, Split, resolve_path

__all__ = [
    "Message",
    "PairsError",
    "Prompt",
    "as_messages",
    "as_text",
    "bare_domain",
    "distinct_texts",
    "load_pairs",
    "read_table",
    "split_prompt",
]

Message = Mapping[str, Any]
Prompt = str | Sequence[Message]
"""A prompt as text, or as chat messages ({"role", "content"})."""

REQUIRED = ("post_id", "history", "human_ref_A", "human_ref_B", "labels")
_TEXTS = ("history", "human_ref_A", "human_ref_B")
_SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")
_SPLIT_NAMES = {"train": ("train",), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}
_NAMED_ROWS = 5  # rows of each fault that the report names


class PairsError(ValueError):
    """Preference pairs that cannot be used; the message names the file, the row or the column."""


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
        if bad.any():
            rows = pairs.loc[bad, ["_file", "_row"]].head(_NAMED_ROWS)
            named = [f"{file} row {row}" for file, row in rows.itertuples(index=False)]
            dropped[reason] = {"pairs": int(bad.sum()), "first": named}
            pairs = pairs[~bad]

    if data.domains:
        drop("other domain", ~pairs["domain"].map(bare_domain).isin(data.domains))
    drop("empty text", (pairs[list(_TEXTS)].map(str.strip) == "").any(axis=1))
    drop("equal responses", pairs["human_ref_A"].str.strip() == pairs["human_ref_B"].str.strip())
    drop("label against votes", _against_votes(pairs))
    drop("duplicate pair", pairs.assign(_key=_pair_keys(pairs)).duplicated("_key"))
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


def distinct_texts(pairs: pd.DataFrame) -> pd.DataFrame:
    """The distinct (prompt, response) of ``pairs``, however many pairs hold each: columns prompt, response."""
    sides = [pairs[["history", f"human_ref_{side}"]].set_axis(["prompt", "response"], axis=1) for side in "AB"]
    return pd.concat(sides).drop_duplicates(ignore_index=True)


def bare_domain(domain: str) -> str:
    """A domain without the split that SHP appends: ``askbaking_train`` is ``askbaking``."""
    return re.sub(r"_(train|validation|test)$", "", domain)


# Dialogues. A single user message is its text; several turns are one text in the form that HH-RLHF made common.

_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant|System): ?")
_HEADING = {"user": "Human", "assistant": "Assistant", "system": "System"}
_ROLE = {heading: role for role, heading in _HEADING.items()}


def as_text(prompt: Prompt) -> str:
    """One text for a prompt or completion: a string as it is, one message as its content, several as a transcript.

    Raises :class:`PairsError` for messages without role and text content.
    """
    if isinstance(prompt, str):
        return prompt
    turns = []
    for message in prompt:
        if not isinstance(message, Mapping):
            raise PairsError(f"a message is an object with role and content, got {message!r:.60}")
        role, content = message.get("role"), message.get("content")
        if role not in _HEADING or not isinstance(content, str):
            raise PairsError(f"a message needs a role ({', '.join(_HEADING)}) and text content, got {dict(message)!r}")
        turns.append((role, content))
    if len(turns) == 1:
        return turns[0][1]
    return "".join(f"\n\n{_HEADING[role]}: {content}" for role, content in turns)


def as_messages(prompt: Prompt) -> list[dict[str, str]]:
    """Chat messages of a prompt: the turns of a transcript (see :func:`as_text`), otherwise one user message."""
    text = as_text(prompt)
    if not isinstance(prompt, str):
        return [{"role": message["role"], "content": message["content"]} for message in prompt]
    starts = list(_TURN.finditer(text))
    if not starts or starts[0].start() != 0 or not text.startswith("\n\n"):
        return [{"role": "user", "content": text}]
    ends = [match.start() for match in starts[1:]] + [len(text)]
    return [
        {"role": _ROLE[match.group(1)], "content": text[match.end() : end]}
        for match, end in zip(starts, ends, strict=True)
    ]


# Sources


def _read_simulator(data: DataParams, split: str) -> pd.DataFrame:
    from realm_lib.simulator import simulate_pairs

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


def _local_files(place: str) -> list[Path]:
    path = resolve_path(place)
    if not path.exists():
        raise PairsError(f"data.path: {path} does not exist (relative paths start at the project's root)")
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    files = [file for file in files if file.name.endswith(_SUFFIXES)]
    if not files:
        raise PairsError(f"data.path: {path} holds no {', '.join(_SUFFIXES)} file")
    return files


def _split_of_file(file: Path) -> str | None:
    stem = re.split(r"[._-]", file.name.lower())[0]
    return next((split for split, names in _SPLIT_NAMES.items() if stem in names), None)


def _read_files(files: Sequence[Path]) -> pd.DataFrame:
    return pd.concat([_normalised(read_table(file), str(file)) for file in files], ignore_index=True)


def read_table(file: Path) -> pd.DataFrame:
    """The rows of a .jsonl, .jsonl.gz or .parquet file as they are, with the file's name and row in _file and _row.

    Raises :class:`PairsError` naming the file and the row that cannot be read.
    """
    if file.suffix == ".parquet":
        try:
            frame = pd.read_parquet(file)
        except (OSError, ValueError) as error:
            raise PairsError(f"{file}: cannot be read as parquet: {error}") from error
    else:
        frame = pd.DataFrame(list(_json_rows(file)))
    return frame.assign(_file=file.name, _row=np.arange(1, len(frame) + 1))


def _json_rows(file: Path) -> Iterator[dict[str, Any]]:
    opener = gzip.open if file.suffix == ".gz" else open
    number = 0
    try:
        with opener(file, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise PairsError(f"{file} row {number}: expected an object, found {type(row).__name__}")
                yield row
    except json.JSONDecodeError as error:
        raise PairsError(f"{file} row {number}: not JSON: {error.msg} at character {error.pos}") from error
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise PairsError(f"{file} after row {number}: cannot be read: {error}") from error


def _normalised(frame: pd.DataFrame, source: str) -> pd.DataFrame:
    """SHP's columns with checked types. Raises :class:`PairsError` naming the column or the row."""
    if {"chosen", "rejected"} <= set(frame.columns):
        frame = pd.DataFrame([_from_chosen_rejected(row) for row in _records(frame)])
    missing = [column for column in REQUIRED if column not in frame]
    if missing:
        raise PairsError(
            f"{source}: missing column {', '.join(missing)}; needed are {', '.join(REQUIRED)} (SHP), "
            f"or chosen and rejected (with prompt)"
        )
    frame = frame.copy()
    if "domain" not in frame:
        frame["domain"] = "all"
    for column in _TEXTS:
        frame[column] = frame[column].astype(object).where(frame[column].notna(), "")
        _refuse_rows(frame, ~frame[column].map(lambda text: isinstance(text, str)), f"{column} is not text")
    labels = pd.to_numeric(frame["labels"], errors="coerce")
    _refuse_rows(frame, ~labels.isin([0, 1]), "labels is neither 0 nor 1")
    frame["labels"] = labels.astype(int)
    _refuse_rows(frame, frame["post_id"].isna(), "post_id is missing")
    frame["post_id"] = frame["post_id"].astype(str)
    for column in frame.columns.intersection(["score_A", "score_B", "score_ratio"]):
        numbers = pd.to_numeric(frame[column], errors="coerce")
        _refuse_rows(frame, numbers.isna() & frame[column].notna(), f"{column} is not a number")
        frame[column] = numbers
    if {"score_A", "score_B"} <= set(frame.columns) and "score_ratio" not in frame:
        votes = frame[["score_A", "score_B"]]
        frame["score_ratio"] = votes.max(axis=1) / votes.min(axis=1)
    return frame


def _records(frame: pd.DataFrame) -> Iterator[dict[str, Any]]:
    columns = [str(column) for column in frame.columns]
    return (dict(zip(columns, row, strict=True)) for row in frame.itertuples(index=False, name=None))


def _refuse_rows(frame: pd.DataFrame, bad: "pd.Series[bool]", what: str) -> None:
    if bad.any():
        first = frame[bad].iloc[0]
        raise PairsError(f"{first['_file']} row {first['_row']}: {what} ({int(bad.sum())} such rows)")


def _from_chosen_rejected(row: dict[str, Any]) -> dict[str, Any]:
    """One {prompt, chosen, rejected} row in SHP's columns; which response becomes A is a bit of a hash."""
    where = f"{row['_file']} row {row['_row']}"
    try:
        prompt, chosen, rejected = split_prompt(_given(row, "prompt"), row["chosen"], row["rejected"])
    except PairsError as error:
        raise PairsError(f"{where}: {error}") from None
    chosen_is_a = _unit_hash("side", prompt, chosen, rejected) < 0.5
    return {
        "post_id": _given(row, "post_id") or hashlib.sha256(prompt.encode()).hexdigest()[:16],
        "domain": str(_given(row, "domain") or _given(row, "subset") or "all"),
        "_file": row["_file"],
        "_row": row["_row"],
        "history": prompt,
        "human_ref_A": chosen if chosen_is_a else rejected,
        "human_ref_B": rejected if chosen_is_a else chosen,
        "labels": int(chosen_is_a),
    }


def split_prompt(prompt: Any, chosen: Any, rejected: Any) -> tuple[str, str, str]:
    """Prompt, chosen and rejected as texts; without a prompt it is what both dialogues share before their last turn.

    Raises :class:`PairsError` when they are neither text nor messages, or share no prompt.
    """
    sides = [_turns(side) for side in (chosen, rejected)]
    if prompt is not None:
        context = _turns(prompt)
        return as_text(context), _response(sides[0], context), _response(sides[1], context)
    dialogues = [as_messages(side) for side in sides]
    if min(map(len, dialogues)) < 2 or dialogues[0][:-1] != dialogues[1][:-1]:
        raise PairsError("no prompt, and chosen and rejected are not two dialogues that differ in the last turn only")
    return as_text(dialogues[0][:-1]), dialogues[0][-1]["content"], dialogues[1][-1]["content"]


def _given(row: Mapping[str, Any], column: str) -> Any:
    """The value of a column; None where it is missing, which pandas writes as NaN when other rows have it."""
    value = row.get(column)
    return None if isinstance(value, float) and np.isnan(value) else value


def _response(side: Prompt, prompt: Prompt) -> str:
    """A response as text; in some sets (UltraFeedback) chosen and rejected are dialogues that repeat the prompt."""
    text, before = as_text(side), as_messages(prompt)
    repeated = not isinstance(side, str) and [dict(turn) for turn in side[: len(before)]] == before
    return as_text(side[len(before) :]) if repeated else text


def _turns(value: Any) -> Prompt:
    """Text or messages; parquet hands message lists over as arrays."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if value is None or isinstance(value, (str, list)):
        return value or ""
    raise PairsError(f"expected text or a list of messages, found {type(value).__name__}")


def _capped(pairs: pd.DataFrame, data: DataParams, split: str) -> pd.DataFrame:
    """At most ``data.splits`` pairs, whole posts in an order fixed by ``data.seed`` (the last post may be cut)."""
    size = getattr(data.splits, split)
    if size is None or len(pairs) <= size:
        return pairs
    order = pairs["post_id"].map(lambda post: _unit_hash(str(data.seed), post))
    return pairs.loc[order.sort_values(kind="stable").index[:size]].sort_index()


# Checks


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


def _unit_hash(*parts: str) -> float:
    """A number in [0, 1) fixed by ``parts``, the same in every process."""
    return int.from_bytes(hashlib.sha256(json.dumps(parts).encode()).digest()[:8], "big") / 2**64


def _place(data: DataParams) -> str:
    return {"hub": data.dataset_name, "local": data.path, "simulator": "the simulator"}[data.source] or ""
