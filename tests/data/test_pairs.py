"""Preference pairs: every form that they come in gives the same columns, and nothing is left out in silence."""

import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from realm_lib.config.data import DataParams, Split
from realm_lib.data.chats import PairsError
from realm_lib.data.lengths import words_of
from realm_lib.data.pairs import (
    PairSplit,
    PairsReport,
    bare_domain,
    distinct_texts,
    load_pairs,
    load_splits,
    places_of_texts,
    sides_of,
)
from realm_lib.data.posts import post_key
from realm_lib.data.simulator import simulate_pairs

Row = dict[str, Any]
SPLITS = ("train", "validation", "test")


def shp(number: int, **changes: Any) -> Row:
    """A row in SHP's columns, A preferred with 8 votes to 2."""
    row = {
        "post_id": f"post{number}",
        "domain": "askbaking_train",
        "history": f"Question {number}?",
        "human_ref_A": f"A good answer to {number}.",
        "human_ref_B": f"A poor answer to {number}.",
        "labels": 1,
        "score_A": 8,
        "score_B": 2,
        "score_ratio": 4.0,
    }
    return row | changes


def write(file: Path, rows: Iterable[Row]) -> Path:
    """``rows`` in the format that the file's name says."""
    rows = list(rows)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    if file.suffix == ".parquet":
        pd.DataFrame(rows).to_parquet(file)
    elif file.suffix == ".gz":
        file.write_bytes(gzip.compress(lines.encode()))
    else:
        file.write_text(lines, encoding="utf-8")
    return file


def local(path: Path, **options: Any) -> DataParams:
    return DataParams.model_validate({"source": "local", "path": str(path), **options})


def write_splits(folder: Path, train: Iterable[Row], test: Iterable[Row] = (), suffix: str = ".jsonl") -> Path:
    """A folder of three splits; validation and, unless given, test have one pair each."""
    folder.mkdir(exist_ok=True)
    write(folder / f"train{suffix}", train)
    write(folder / f"validation{suffix}", [shp(9001)])
    write(folder / f"test{suffix}", list(test) or [shp(9002)])
    return folder


def split_of(data: DataParams, split: Split) -> PairSplit:
    return load_splits(data, (split,))[split]


def train_split(folder: Path, rows: Iterable[Row], **options: Any) -> PairSplit:
    return split_of(local(write_splits(folder, rows), **options), "train")


def train_of(folder: Path, rows: Iterable[Row], **options: Any) -> pd.DataFrame:
    return train_split(folder, rows, **options).table


def dropped(split: PairSplit) -> dict[str, int]:
    return {reason: entry["pairs"] for reason, entry in split.report.dropped.items()}


# Sources and formats


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".parquet"])
def test_named_splits_come_back_row_for_row(tmp_path: Path, suffix: str) -> None:
    rows = [shp(n, labels=n % 2, score_A=2 + 6 * (n % 2), score_B=8 - 6 * (n % 2)) for n in range(6)]
    folder = write_splits(tmp_path, rows, suffix=suffix)
    found = split_of(local(folder), "train")
    pairs = found.table
    assert pairs["pair_id"].is_unique
    found_rows = pairs.drop(columns=["pair_id", "post_id"]).rename(columns={"given_post_id": "post_id"})
    pd.testing.assert_frame_equal(found_rows, pd.DataFrame(rows), check_dtype=False, check_like=True)
    assert list(pairs["post_id"]) == [post_key(row["history"]) for row in rows]
    assert list(load_pairs(local(folder), "validation")["given_post_id"]) == ["post9001"]
    assert list(load_pairs(local(folder), "test")["given_post_id"]) == ["post9002"]
    assert found.report == PairsReport(
        source="local",
        simulated=False,
        read=6,
        kept=6,
        posts=6,
        posts_cut=0,
        dropped={},
        ids={
            "several_ids": {"posts": 0, "pairs": 0, "first": []},
            "several_texts": {"ids": 0, "pairs": 0, "first": []},
        },
        annotators=None,
        other_ratios=None,
    )


def test_a_split_may_have_several_files_and_other_common_names(tmp_path: Path) -> None:
    write(tmp_path / "train-00000-of-00002.parquet", [shp(0)])
    write(tmp_path / "train-00001-of-00002.parquet", [shp(1)])
    write(tmp_path / "dev_pairs.jsonl", [shp(2)])
    write(tmp_path / "test.jsonl.gz", [shp(3)])
    (tmp_path / "README.md").write_text("not pairs")
    posts = [list(load_pairs(local(tmp_path), split)["given_post_id"]) for split in SPLITS]
    assert posts == [["post0", "post1"], ["post2"], ["post3"]]


@pytest.mark.parametrize("as_folder", [False, True])
def test_an_unsplit_source_is_divided_by_post(tmp_path: Path, as_folder: bool) -> None:
    rows = [shp(n // 2, human_ref_B=f"Answer {n}.") for n in range(1200)]
    if as_folder:
        write(tmp_path / "one.jsonl", rows[:700])
        write(tmp_path / "two.parquet", rows[700:])
    source = tmp_path if as_folder else write(tmp_path / "pairs.jsonl", rows)
    splits = [load_pairs(local(source), split) for split in SPLITS]
    assert sum(map(len, splits)) == 1200
    posts = [set(split["given_post_id"]) for split in splits]
    assert sum(map(len, posts)) == len(set.union(*posts)) == 600
    assert [len(found) / 600 for found in posts] == pytest.approx([0.8, 0.1, 0.1], abs=0.04)
    # A post stays in its split when other rows come, go or change places.
    fewer = write(tmp_path.with_name(f"fewer-{tmp_path.name}.jsonl"), reversed(rows[300:900]))
    for split, before in zip(SPLITS, posts, strict=True):
        assert set(load_pairs(local(fewer), split)["given_post_id"]) == before & {f"post{n}" for n in range(150, 450)}


def test_some_splits_named_and_others_not_is_an_error(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", [shp(0)])
    write(tmp_path / "test.jsonl", [shp(1)])
    with pytest.raises(PairsError, match=r"no file for split 'validation'; name one validation\.jsonl"):
        load_pairs(local(tmp_path), "train")


def test_a_file_of_no_split_beside_named_ones_is_an_error(tmp_path: Path) -> None:
    write(write_splits(tmp_path, [shp(0)]) / "more.jsonl", [shp(1)])
    with pytest.raises(PairsError, match=r"more\.jsonl: its name begins with no split"):
        load_pairs(local(tmp_path), "train")


def test_simulated_pairs_are_the_simulators_and_called_so() -> None:
    sizes = {"train": 40, "validation": 10, "test": 12}
    data = DataParams.model_validate({"source": "simulator", "splits": sizes, "seed": 3, "domains": ["askvet"]})
    for split, size in sizes.items():
        found = split_of(data, split)  # type: ignore[arg-type]
        pairs = found.table
        expected = pd.DataFrame(simulate_pairs(size, seed=3, split=split, domains=["askvet"]))
        kept = expected.merge(pairs[["c_root_id_A", "c_root_id_B"]])
        pd.testing.assert_frame_equal(pairs.drop(columns="pair_id"), kept, check_dtype=False)
        assert found.report.simulated is True
        assert found.report.read == size


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set in the hub's layout, in a folder, and a cache that other tests do not see."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    folder = tmp_path / "SHP"
    folder.mkdir()
    return folder


def test_a_hub_data_set_with_its_splits(hub: Path) -> None:
    write_splits(hub, [shp(0), shp(9002), shp(1, human_ref_A="")])
    data = DataParams(source="hub", dataset_name=str(hub))
    found = split_of(data, "train")
    pairs = found.table
    assert list(pairs["given_post_id"]) == ["post0"]
    assert dropped(found) == {"empty text": 1, "post in a later split": 1}
    assert found.report.dropped["empty text"]["first"] == [f"{hub} train row 3"]
    assert list(load_pairs(data, "test")["given_post_id"]) == ["post9002"]


def test_a_hub_data_set_with_a_folder_a_domain(hub: Path) -> None:
    for place, domain in enumerate(("askbaking", "askvet", "legaladvice")):
        write_splits(hub / domain, [shp(10 * place + n, domain=f"{domain}_train") for n in range(3)])
    data = DataParams(source="hub", dataset_name=str(hub), domains=["askvet", "legaladvice"])
    assert list(load_pairs(data, "train")["given_post_id"]) == [f"post{n}" for n in (10, 11, 12, 20, 21, 22)]


def test_a_hub_data_set_of_prompts_without_post_ids(hub: Path) -> None:
    rows = [{"prompt": f"Ask {n}", "chosen": "good", "rejected": "bad"} for n in range(4)]
    write_splits(hub, rows, [rows[0]])
    write(hub / "validation.jsonl", [rows[1]])
    data = DataParams(source="hub", dataset_name=str(hub))
    found = split_of(data, "train")
    pairs = found.table
    assert list(pairs["history"]) == ["Ask 2", "Ask 3"]
    assert dropped(found) == {"post in a later split": 2}


def test_a_hub_data_set_that_is_not_there(hub: Path) -> None:
    with pytest.raises(PairsError, match=r"data\.dataset_name: .*nowhere could not be loaded"):
        load_pairs(DataParams(source="hub", dataset_name=str(hub / "nowhere")), "train")


# Prompt, chosen, rejected

USER = {"role": "user", "content": "Why?"}
MORE = [USER, {"role": "assistant", "content": "Why what?"}, {"role": "user", "content": "Why bread?"}]
MORE_TEXT = "\n\nHuman: Why?\n\nAssistant: Why what?\n\nHuman: Why bread?"


def answer(text: str) -> Row:
    return {"role": "assistant", "content": text}


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"prompt": "Why?", "chosen": "Yes.", "rejected": "No."}, "Why?"),
        ({"prompt": [USER], "chosen": [answer("Yes.")], "rejected": [answer("No.")]}, "Why?"),
        ({"prompt": "Why?", "chosen": [answer("Yes.")], "rejected": [answer("No.")]}, "Why?"),
        ({"prompt": MORE, "chosen": [answer("Yes.")], "rejected": [answer("No.")]}, MORE_TEXT),
        ({"prompt": MORE_TEXT, "chosen": "Yes.", "rejected": "No."}, MORE_TEXT),
        ({"chosen": [USER, answer("Yes.")], "rejected": [USER, answer("No.")]}, "Why?"),
        ({"chosen": [*MORE, answer("Yes.")], "rejected": [*MORE, answer("No.")]}, MORE_TEXT),
        (
            {
                "chosen": "\n\nHuman: Why?\n\nAssistant: Yes.",
                "rejected": "\n\nHuman: Why?\n\nAssistant: No.",
            },
            "Why?",
        ),
        ({"chosen": MORE_TEXT + "\n\nAssistant: Yes.", "rejected": MORE_TEXT + "\n\nAssistant: No."}, MORE_TEXT),
        # UltraFeedback's form: the dialogues repeat the prompt.
        ({"prompt": "Why?", "chosen": [USER, answer("Yes.")], "rejected": [USER, answer("No.")]}, "Why?"),
        ({"prompt": MORE, "chosen": [*MORE, answer("Yes.")], "rejected": [*MORE, answer("No.")]}, MORE_TEXT),
    ],
)
def test_every_form_of_chosen_and_rejected(tmp_path: Path, suffix: str, row: Row, prompt: str) -> None:
    write(tmp_path / f"validation{suffix}", [{"prompt": "v", "chosen": "a", "rejected": "b"}])
    write(tmp_path / f"test{suffix}", [{"prompt": "t", "chosen": "a", "rejected": "b"}])
    write(tmp_path / f"train{suffix}", [row])
    pair = load_pairs(local(tmp_path), "train").iloc[0]
    chosen, rejected = ("A", "B") if pair["labels"] == 1 else ("B", "A")
    found = pair["history"], pair[f"human_ref_{chosen}"], pair[f"human_ref_{rejected}"]
    assert found == (prompt, "Yes.", "No.")
    assert pair["domain"] == "all"


def test_the_side_of_the_chosen_one_tells_nothing_and_stays(tmp_path: Path) -> None:
    rows = [{"prompt": f"Ask {n}", "chosen": f"good {n}", "rejected": f"bad {n}"} for n in range(600)]
    source = write(tmp_path / "pairs.jsonl", rows)
    pairs = load_pairs(local(source), "train")
    assert pairs["labels"].mean() == pytest.approx(0.5, abs=0.1)
    assert (pairs["human_ref_A"].str.startswith("good") == (pairs["labels"] == 1)).all()
    write(source, reversed(rows))
    again = load_pairs(local(source), "train")
    pd.testing.assert_frame_equal(pairs, again[::-1].reset_index(drop=True))


def test_a_post_id_and_a_domain_may_be_given_for_some_rows_only(tmp_path: Path) -> None:
    plain = {"prompt": "One", "chosen": "good", "rejected": "bad"}
    rows = [plain, plain | {"prompt": "Two"}, plain | {"prompt": "Three", "post_id": "x", "domain": "chat"}]
    pairs = train_of(tmp_path, rows)
    assert list(pairs["post_id"]) == [post_key(text) for text in ("One", "Two", "Three")]
    assert pairs["given_post_id"].isna().tolist() == [True, True, False]
    assert pairs["given_post_id"].iloc[2] == "x"
    assert list(pairs["domain"]) == ["all", "all", "chat"]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"chosen": "Yes.", "rejected": "No."}, "no prompt"),
        ({"chosen": [USER, answer("Yes.")], "rejected": [MORE[2], answer("No.")]}, "one assistant turn"),
        ({"prompt": 3, "chosen": "Yes.", "rejected": "No."}, "not text"),
        ({"prompt": "Why?", "chosen": [{"role": "tool", "content": "x"}], "rejected": "No."}, "without a role"),
        ({"prompt": "Why?", "chosen": [{"role": "user"}], "rejected": "No."}, "a message without a role"),
        ({"prompt": "Why?", "chosen": ["Yes."], "rejected": "No."}, "a message without a role"),
    ],
)
def test_a_dialogue_that_cannot_be_read_is_left_out_and_named(tmp_path: Path, row: Row, reason: str) -> None:
    good = {"prompt": "Fine", "chosen": "a", "rejected": "b"}
    split = train_split(tmp_path, [good, row])
    assert list(split.table["history"]) == ["Fine"]
    ((told, entry),) = split.report.dropped.items()
    assert reason in told
    assert entry == {"pairs": 1, "first": ["train.jsonl row 2"]}
    assert (split.report.read, split.report.kept) == (2, 1)


# Faults that are errors


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"labels": 2}, "label is neither 0 nor 1"),
        ({"labels": "yes"}, "label is neither 0 nor 1"),
        ({"labels": None}, "label is neither 0 nor 1"),
        ({"labels": float("inf")}, "label is neither 0 nor 1"),
        ({"labels": 0.5}, "tie"),
        ({"labels": "tie"}, "tie"),
        ({"history": ["a"]}, "not text"),
        ({"human_ref_B": 7}, "not text"),
        ({"history": "\n\nHuman: a\n\nAssistant: b"}, "the prompt ends in an assistant turn that is not empty"),
        ({"score_A": "many"}, "score_A is not a number"),
    ],
)
def test_a_row_that_cannot_be_used_is_left_out_and_named(tmp_path: Path, changes: Row, reason: str) -> None:
    split = train_split(tmp_path, [shp(0), shp(1, **changes), shp(2)])
    assert list(split.table["history"]) == ["Question 0?", "Question 2?"]
    ((told, entry),) = split.report.dropped.items()
    assert told.startswith(reason)
    assert entry == {"pairs": 1, "first": ["train.jsonl row 2"]}


@pytest.mark.parametrize("post_id", [None, "", 0, 7.0])
def test_a_post_needs_no_id_and_zero_is_one(tmp_path: Path, post_id: Any) -> None:
    table = train_of(tmp_path, [shp(0), shp(1, post_id=post_id), shp(2, post_id=None)])
    assert table["post_id"].nunique() == 3
    assert table["given_post_id"].tolist() == ["post0", {0: "0", 7.0: "7"}.get(post_id), None]


@pytest.mark.parametrize(("line", "reason"), [("{broken", "not JSON"), ("[1, 2]", "not an object"), ("", None)])
def test_a_line_that_is_no_row_is_left_out_and_named(tmp_path: Path, line: str, reason: str | None) -> None:
    write_splits(tmp_path, [])
    (tmp_path / "train.jsonl").write_text(f"{json.dumps(shp(0))}\n{line}\n{json.dumps(shp(2))}\n")
    split = load_splits(local(tmp_path), ("train",))["train"]
    assert list(split.table["history"]) == ["Question 0?", "Question 2?"]
    named = {} if reason is None else {reason: {"pairs": 1, "first": ["train.jsonl row 2"]}}
    assert split.report.dropped == named


@pytest.mark.parametrize("column", ["history", "human_ref_A", "human_ref_B", "labels"])
def test_a_missing_column_is_an_error_that_names_it_and_the_file(tmp_path: Path, column: str) -> None:
    rows = [{name: value for name, value in shp(n).items() if name != column} for n in range(2)]
    with pytest.raises(PairsError, match=rf"train\.jsonl: missing column {column}; needed are history, human_ref_A"):
        train_of(tmp_path, rows)


def test_a_file_of_mostly_unusable_rows_is_an_error_with_all_reasons(tmp_path: Path) -> None:
    bad = [shp(1, labels=3), shp(2, history=7), shp(3, labels="?")]
    assert len(train_of(tmp_path, [shp(0), shp(4), *bad])) == 2
    message = (
        r"train\.jsonl: 3 of 4 pairs cannot be used, more than data\.max_unusable_share \(0\.7\) allows: "
        r"label is neither 0 nor 1: 2 \(train\.jsonl row 2, train\.jsonl row 4\); not text: 1 \(train\.jsonl row 3\)"
    )
    with pytest.raises(PairsError, match=message):
        train_of(tmp_path, [shp(0), *bad])
    assert len(train_of(tmp_path, [shp(0), *bad], max_unusable_share=0.75)) == 1
    with pytest.raises(PairsError, match=r"more than data\.max_unusable_share \(0\) allows"):
        train_of(tmp_path, [*(shp(n) for n in range(9)), bad[0]], max_unusable_share=0)


def test_ties_and_empty_texts_say_nothing_against_a_file(tmp_path: Path) -> None:
    rows = [shp(0), *(shp(n, labels=0.5) for n in range(1, 9)), shp(9, human_ref_A="")]
    split = train_split(tmp_path, rows, max_unusable_share=0)
    assert dropped(split) == {"tie": 8, "empty text": 1}


def test_unusable_rows_take_no_place_of_a_capped_split(tmp_path: Path) -> None:
    rows = [shp(n, labels=1 if n % 2 else 0.5) for n in range(40)]
    split = train_split(tmp_path, rows, splits={"train": 12})
    assert (split.report.read, split.report.kept, dropped(split)) == (32, 12, {"tie": 20})


@pytest.mark.parametrize("kept_bytes", [30, 60, 200])
def test_a_truncated_archive_is_an_error(tmp_path: Path, kept_bytes: int) -> None:
    write_splits(tmp_path, [shp(n, human_ref_A=f"{n * 7919}") for n in range(200)], suffix=".jsonl.gz")
    file = tmp_path / "train.jsonl.gz"
    file.write_bytes(file.read_bytes()[:kept_bytes])
    with pytest.raises(
        PairsError, match=r"train\.jsonl\.gz after row \d+: cannot be read|train\.jsonl\.gz row \d+: not"
    ):
        load_pairs(local(tmp_path), "train")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("pairs.jsonl.gz", b"not an archive", r"pairs\.jsonl\.gz after row 0: cannot be read"),
        ("pairs.jsonl", b"\xff\xfe\x00", r"pairs\.jsonl after row 0: cannot be read"),
        ("pairs.parquet", b"PAR1 not really", r"pairs\.parquet: cannot be read as parquet"),
        ("pairs.jsonl", b"", r"pairs\.jsonl: holds no rows"),
    ],
)
def test_a_file_that_is_not_what_its_name_says(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(PairsError, match=message):
        load_pairs(local(tmp_path / name), "train")


def test_a_place_without_pairs(tmp_path: Path) -> None:
    with pytest.raises(PairsError, match=r"data\.path: .*nowhere does not exist"):
        load_pairs(local(tmp_path / "nowhere"), "train")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(PairsError, match=r"holds no \.jsonl, \.jsonl\.gz, .*, \.parquet file"):
        load_pairs(local(tmp_path), "train")
    with pytest.raises(PairsError, match="unknown split 'dev'; splits: reward_model, train, validation, test"):
        load_pairs(local(tmp_path), "dev")  # type: ignore[arg-type]


def test_a_split_from_which_everything_is_dropped_is_an_error_with_the_reasons(tmp_path: Path) -> None:
    with pytest.raises(PairsError, match=r"no pairs left in split 'train' of .* \(empty text: 1; equal responses: 1\)"):
        train_of(tmp_path, [shp(0, history=" \n"), shp(1, human_ref_A="x", human_ref_B="x ")])
    with pytest.raises(PairsError, match=r"no pairs left in split 'reward_model'"):
        load_pairs(local(write_splits(tmp_path, [shp(0)]), reward_model_share=0.0), "reward_model")


# Faults that are reported drops


@pytest.mark.parametrize(
    ("reason", "bad"),
    [
        ("empty text", shp(5, history="")),
        ("empty text", shp(5, human_ref_A=" \t\n")),
        ("empty text", shp(5, human_ref_B=None)),
        ("empty text", shp(5, human_ref_A="[removed]")),
        ("empty text", shp(5, history="\u200b\u00a0")),
        ("empty text", shp(5, history="\n\nHuman: Hello\n\nAssistant: Hi.\n\nHuman: [deleted]\n\nAssistant:")),
        ("empty text", {name: value for name, value in shp(5).items() if name != "human_ref_B"}),
        ("equal responses", shp(5, human_ref_B="A good answer to 5. ")),
        ("equal responses", shp(5, human_ref_B="\ufeffA  good an\u200bswer\nto 5.")),
        ("label against votes", shp(5, labels=0)),
        ("label against votes", shp(5, score_A=2, score_B=8)),
        ("equal votes", shp(5, score_A=8, score_B=8)),
        ("label against ratings", shp(5, rating_A=1.5, rating_B=2)),
        ("equal ratings", shp(5, rating_A=4, rating_B=4)),
        ("repeated pair", shp(1)),
        ("repeated pair", shp(1, post_id="another", history="question\t1? ", human_ref_A="A good\n answer to 1.")),
        (
            "repeated pair",
            shp(
                1, human_ref_A=shp(1)["human_ref_B"], human_ref_B=shp(1)["human_ref_A"], labels=0, score_A=2, score_B=8
            ),
        ),
        ("post in a later split", shp(9001)),
        ("post in a later split", shp(9002)),
    ],
)
def test_a_faulty_pair_is_dropped_counted_and_named(tmp_path: Path, reason: str, bad: Row) -> None:
    split = train_split(tmp_path, [shp(0), shp(1), shp(2), bad, shp(3)])
    pairs = split.table
    assert list(pairs["given_post_id"]) == ["post0", "post1", "post2", "post3"]
    report = split.report
    assert report.dropped == {reason: {"pairs": 1, "first": ["train.jsonl row 4"]}}
    assert (report.read, report.kept, report.posts) == (5, 4, 4)


OPPOSITE = {"human_ref_A": shp(1)["human_ref_B"], "human_ref_B": shp(1)["human_ref_A"]}
"""The pair of post 1 with its sides exchanged, and so with the other label."""


@pytest.mark.parametrize("backwards", [False, True])
def test_the_majority_of_annotators_decides_whatever_the_order(tmp_path: Path, backwards: bool) -> None:
    voteless = [
        {name: value for name, value in row.items() if not name.startswith("score")}
        for row in [shp(1, **OPPOSITE), shp(0), shp(1), shp(1), shp(1, labels=0), shp(1), shp(2), shp(2, labels=0)]
    ]
    split = train_split(tmp_path, voteless[::-1] if backwards else voteless)
    kept = split.table.sort_values("given_post_id")
    assert list(kept["given_post_id"]) == ["post0", "post1"]
    assert list(kept["human_ref_A"]) == ["A good answer to 0.", "A good answer to 1."]
    assert list(kept["labels"]) == [1, 1]
    assert dropped(split) == {"annotators tied": 2, "outvoted by other annotators": 2, "repeated pair": 2}
    found = split.report.annotators
    assert found is not None
    assert (found["pairs"], found["judgements"], found["with_majority"]) == (2, 7, pytest.approx(4 / 7))


@pytest.mark.parametrize("ids", ["rows", "one", "numbers", "none"])
def test_no_post_is_in_two_splits_whatever_its_ids_case_and_spaces(tmp_path: Path, ids: str) -> None:
    rows = [shp(n % 100, human_ref_B=f"Answer {n}.") for n in range(300)]
    changed = [str.upper, " {}\n".format, lambda text: text.replace(" ", "\u00a0\u200b ")]
    for n, row in enumerate(rows):
        row["post_id"] = {"rows": n, "one": "x", "numbers": n / 2, "none": None}[ids]
        row["history"] = changed[n // 100](row["history"])
    source = write(tmp_path / "pairs.jsonl", rows)
    splits = load_splits(local(source, reward_model_share=0.5), ("reward_model", *SPLITS))
    texts = [{" ".join(text.replace("\u200b", "").lower().split()) for text in split.table["history"]}
             for split in splits.values()]  # fmt: skip
    assert sum(map(len, texts)) == len(set.union(*texts)) == 100
    assert [split.report.posts for split in splits.values()] == list(map(len, texts))
    assert sum(split.report.kept for split in splits.values()) == 300


def test_a_post_under_another_id_in_a_later_split_is_not_trained_on(tmp_path: Path) -> None:
    test = shp(3, history="Question 0?\n", human_ref_A="Other.")
    write_splits(tmp_path, [shp(0), shp(1)], [test])
    found = split_of(local(tmp_path), "train")
    assert list(found.table["given_post_id"]) == ["post1"]
    assert dropped(found) == {"post in a later split": 1}


def test_a_history_that_no_response_can_answer_is_left_out(tmp_path: Path) -> None:
    split = train_split(tmp_path, [shp(0), shp(1, history="\n\nHuman: Why?\n\nAssistant: So.")])
    assert list(split.table["given_post_id"]) == ["post0"]
    (reason,) = dropped(split)
    assert reason.startswith("the prompt ends in an assistant turn")


def test_a_post_of_validation_that_test_holds_is_dropped_there_too(tmp_path: Path) -> None:
    write_splits(tmp_path, [shp(0)], [shp(1), shp(2)])
    write(tmp_path / "validation.jsonl", [shp(2, human_ref_A="other"), shp(3)])
    found = split_of(local(tmp_path), "validation")
    pairs = found.table
    assert list(pairs["given_post_id"]) == ["post3"]
    assert dropped(found) == {"post in a later split": 1}
    assert list(load_pairs(local(tmp_path), "test")["given_post_id"]) == ["post1", "post2"]


def test_a_post_of_a_capped_test_split_is_still_no_training_post(tmp_path: Path) -> None:
    """Another cap must not move a post of test into training."""
    write_splits(tmp_path, [shp(n) for n in range(10)], [shp(n) for n in range(5)])
    pairs = load_pairs(local(tmp_path, splits={"test": 1}), "train")
    assert list(pairs["given_post_id"]) == [f"post{n}" for n in range(5, 10)]


def test_labels_that_mostly_contradict_the_votes_are_an_error(tmp_path: Path) -> None:
    wrong = [shp(n, labels=0) for n in range(3)]
    with pytest.raises(PairsError, match=r"train\.jsonl: 60% of the labels contradict the votes; labels = 1 must mean"):
        train_of(tmp_path, [*wrong, shp(3), shp(4)])
    assert dropped(train_split(tmp_path, [*wrong, *(shp(n) for n in range(3, 7))])) == {"label against votes": 3}


def test_slips_in_a_small_file_are_no_error(tmp_path: Path) -> None:
    rows = [shp(0, labels=0), shp(1, labels=0), shp(2)]
    assert dropped(train_split(tmp_path, rows)) == {"label against votes": 2}
    with pytest.raises(PairsError, match=r"no pairs left .* \(label against votes: 1\)"):
        train_of(tmp_path, rows[:1])


def test_two_comments_on_different_posts_are_no_duplicates(tmp_path: Path) -> None:
    rows = [shp(n, human_ref_A="Yes.", human_ref_B="No.") for n in range(3)]
    assert len(train_of(tmp_path, rows)) == 3


def test_the_report_names_five_rows_of_a_fault_and_counts_all(tmp_path: Path) -> None:
    split = train_split(tmp_path, [shp(0), *(shp(n, history="") for n in range(1, 8))])
    assert split.report.dropped["empty text"] == {
        "pairs": 7,
        "first": [f"train.jsonl row {n}" for n in range(2, 7)],
    }


def test_only_the_domains_asked_for(tmp_path: Path) -> None:
    rows = [shp(0, domain="askvet_train"), shp(1, domain="askbaking"), shp(2, domain="legaladvice_train")]
    split = train_split(tmp_path, rows, domains=["askvet", "askbaking"])
    pairs = split.table
    assert list(pairs["given_post_id"]) == ["post0", "post1"]
    assert dropped(split) == {"other domain": 1}


row_faults = st.sampled_from(
    [
        {},
        {},
        {},
        {"history": ""},
        {"labels": 0},
        {"human_ref_B": "same", "human_ref_A": "same"},
        {"history": "QUESTION 9002?"},
        {"post_id": None},
        {"human_ref_B": "A twin."},
        {"human_ref_B": "A twin.", "score_A": 2, "score_B": 8, "labels": 0},
        {"score_B": 0},
        {"score_A": 0, "score_B": -2},
    ]
)


@pytest.mark.slow
@given(
    faults=st.lists(st.tuples(st.integers(0, 12), row_faults), min_size=1, max_size=30),
    options=st.fixed_dictionaries(
        {},
        optional={
            "min_score_ratio": st.sampled_from([2.0, 5.0]),
            "max_pairs_per_post": st.integers(1, 2),
            "reward_model_share": st.sampled_from([0.1, 0.3]),
            "splits": st.fixed_dictionaries({"train": st.integers(30, 60)}),
        },
    ),
)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_row_read_is_kept_or_counted(
    tmp_path: Path, faults: list[tuple[int, Row]], options: dict[str, Any]
) -> None:
    rows = [
        shp(post, human_ref_B=f"Answer {n}.", score_B=3, score_ratio=2.67) | fault
        for n, (post, fault) in enumerate(faults)
    ]
    enough = [shp(100 + n, score_B=1, score_ratio=8.0) for n in range(40)]  # so that labels mostly agree with the votes
    split = train_split(tmp_path, [*rows, *enough], **options)
    pairs = split.table
    report = split.report
    assert report.read == report.kept + sum(dropped(split).values())
    assert report.read == min(len(rows) + len(enough), options.get("splits", {}).get("train", 1000))
    assert report.kept == len(pairs)
    assert report.posts == pairs["post_id"].nunique()
    assert not (pairs["history"] == "QUESTION 9002?").any()


# Filters of training, shares, caps


def several_a_post() -> list[Row]:
    return [
        shp(n % 40, human_ref_B=f"Answer {n}.", score_B=votes, score_ratio=8 / votes)
        for n, votes in enumerate([2, 7, 4, 5, 2, 3, 6, 4] * 20)
    ]


def test_filters_touch_training_only(tmp_path: Path) -> None:
    rows = several_a_post()
    folder = write_splits(tmp_path, rows, [row | {"history": "t" + row["history"]} for row in rows])
    write(folder / "validation.jsonl", [row | {"history": "v" + row["history"]} for row in rows])
    data = local(folder, min_score_ratio=2.0, max_pairs_per_post=2, reward_model_share=0.5)
    for split in ("validation", "test"):
        assert len(load_pairs(data, split)) == len(rows)  # type: ignore[arg-type]
    splits = load_splits(data, ("train", "reward_model"))
    both = [split.table for split in splits.values()]
    for split in splits.values():
        pairs = split.table
        assert (pairs["score_ratio"] >= 2.0).all()
        assert pairs.groupby("post_id").size().max() == 2
        assert set(dropped(split)) == {
            "post kept for the other training split",
            "votes too close",
            "more pairs than max_pairs_per_post",
        }
    # The pairs that stay are the first of their post that are clear enough, in the file's order.
    frame = pd.DataFrame(rows)
    expected = frame[frame["score_ratio"] >= 2.0].groupby("post_id").head(2)
    kept = pd.concat(both).sort_values("human_ref_B")["human_ref_B"]
    assert list(kept) == sorted(expected["human_ref_B"])


def test_the_ratio_is_made_of_the_votes_where_it_is_missing(tmp_path: Path) -> None:
    rows = [{name: value for name, value in row.items() if name != "score_ratio"} for row in several_a_post()]
    pairs = train_of(tmp_path, rows, min_score_ratio=2.0)
    assert list(pairs["score_ratio"]) == list(8 / pairs["score_B"])
    assert pairs["score_ratio"].min() == 2.0


def test_a_ratio_cannot_be_asked_of_pairs_without_votes(tmp_path: Path) -> None:
    rows = [{"prompt": f"Ask {n}", "chosen": "good", "rejected": "bad"} for n in range(3)]
    with pytest.raises(PairsError, match=r"data\.min_score_ratio needs votes \(score_A and score_B\)"):
        train_of(tmp_path, rows, min_score_ratio=2.0)


def test_a_pair_whose_votes_are_missing_does_not_pass_the_ratio(tmp_path: Path) -> None:
    split = train_split(tmp_path, [shp(0), shp(1, score_A=None, score_B=None, score_ratio=None)], min_score_ratio=2.0)
    pairs = split.table
    assert list(pairs["given_post_id"]) == ["post0"]
    assert dropped(split) == {"votes missing": 1}


def test_votes_at_or_below_zero_are_not_too_close(tmp_path: Path) -> None:
    votes = [(50, -3), (50, 0), (0, -3), (-1, -2), (3, 2)]
    rows = [shp(n, score_A=a, score_B=b) for n, (a, b) in enumerate(votes)]
    for row in rows:
        del row["score_ratio"]
    assert list(train_of(tmp_path, rows)["score_ratio"]) == pytest.approx(
        [np.inf, np.inf, np.nan, np.nan, 1.5], nan_ok=True
    )
    split = train_split(tmp_path, rows, min_score_ratio=2.0)
    assert list(split.table["given_post_id"]) == ["post0", "post1"]
    assert dropped(split) == {"votes at or below zero": 2, "votes too close": 1}


def test_a_ratio_that_is_not_that_of_the_votes_is_reported(tmp_path: Path) -> None:
    split = train_split(tmp_path, [shp(0), shp(1, score_ratio=9.0), shp(2, score_A=7, score_B=3, score_ratio=2.33)])
    assert list(split.table["score_ratio"]) == [4.0, 4.0, 7 / 3]
    assert split.report.other_ratios == {"pairs": 1, "first": ["train.jsonl row 2"]}


def test_the_reward_models_posts_are_not_the_combiners(tmp_path: Path) -> None:
    rows = [shp(n // 2, human_ref_B=f"Answer {n}.") for n in range(1000)]
    folder = write_splits(tmp_path, rows)
    posts = {}
    for share in (0.2, 0.6):
        data = local(folder, reward_model_share=share)
        mine, others = (set(load_pairs(data, split)["given_post_id"]) for split in ("reward_model", "train"))  # type: ignore[arg-type]
        assert not mine & others
        assert len(mine | others) == 500
        assert len(mine) / 500 == pytest.approx(share, abs=0.07)
        posts[share] = mine
    assert posts[0.2] < posts[0.6]
    # A post keeps its place when other posts come and go.
    write(folder / "train.jsonl", reversed(rows[200:600]))
    again = set(load_pairs(local(folder, reward_model_share=0.6), "reward_model")["given_post_id"])
    assert again == posts[0.6] & {f"post{n}" for n in range(100, 300)}


def test_a_cap_takes_whole_posts_in_an_order_of_its_own(tmp_path: Path) -> None:
    rows = [shp(n // 5, human_ref_B=f"Answer {n}.") for n in range(500)]
    folder = write_splits(tmp_path, rows)

    def capped(size: int, seed: int = 42) -> pd.DataFrame:
        return load_pairs(local(folder, splits={"train": size}, seed=seed), "train")

    pairs = capped(52)
    assert len(pairs) == 52
    sizes = pairs.groupby("post_id").size()
    assert sorted(sizes) == [2, *[5] * 10]
    assert pairs["given_post_id"].str.removeprefix("post").astype(int).is_monotonic_increasing  # the file's order
    assert set(pairs["given_post_id"]) != {f"post{n}" for n in range(11)}  # not the file's first
    assert set(capped(25)["given_post_id"]) < set(pairs["given_post_id"])
    assert set(capped(52, seed=1)["given_post_id"]) != set(pairs["given_post_id"])
    pd.testing.assert_frame_equal(capped(52), pairs)
    assert len(capped(10_000)) == 500


# Cutting


def test_posts_are_cut_and_comments_never(tmp_path: Path) -> None:
    long = " ".join(f"word{n}" for n in range(50))
    rows = [
        shp(0, history=long, human_ref_A=long + " A", human_ref_B=long + " B"),
        shp(0, history=long, human_ref_A=long + " A", human_ref_B=long + " C"),
        shp(1, history="one two  three\nfour five"),
        shp(2, history="a b c d e f"),
    ]
    split = train_split(tmp_path, rows, preprocessing={"max_length": 5})
    pairs = split.table
    assert list(pairs["history"]) == ["word0 word1 word2 word3 word4"] * 2 + ["one two  three\nfour five", "a b c d e"]
    assert list(pairs["human_ref_A"][:2]) == [long + " A"] * 2
    assert list(pairs["human_ref_B"][:2]) == [long + " B", long + " C"]
    assert split.report.posts_cut == 2


@pytest.mark.slow
@given(
    words=st.lists(st.text("ab\xe9\u4f60", min_size=1, max_size=4), min_size=1, max_size=12), limit=st.integers(1, 12)
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_cut_post_is_a_beginning_of_it(tmp_path: Path, words: list[str], limit: int) -> None:
    post = "  ".join(words)
    split = train_split(tmp_path, [shp(0, history=post)], preprocessing={"max_length": limit})
    pairs = split.table
    assert post.startswith(pairs["history"][0])
    assert words_of(pairs["history"][0]) == words_of(post)[:limit]
    assert split.report.posts_cut == int(len(words_of(post)) > limit)


def test_a_long_dialogue_loses_its_oldest_turns(tmp_path: Path) -> None:
    dialogue = "\n\nSystem: be kind\n\nHuman: a b c\n\nAssistant: d e\n\nHuman: f g h"
    split = train_split(tmp_path, [shp(0, history=dialogue)], preprocessing={"max_length": 4})
    assert list(split.table["history"]) == ["\n\nSystem: be kind\n\nHuman: f g"]
    assert split.report.posts_cut == 1


# Small public pieces


def test_distinct_texts_holds_each_once() -> None:
    pairs = pd.DataFrame(
        {
            "history": ["p", "p", "q"],
            "human_ref_A": ["x", "y", "x"],
            "human_ref_B": ["y", "z", "z"],
        }
    )
    texts = distinct_texts(pairs)
    assert list(texts.columns) == ["prompt", "response"]
    assert sorted(texts.itertuples(index=False, name=None)) == sorted(
        [("p", "x"), ("p", "y"), ("p", "z"), ("q", "x"), ("q", "z")]
    )


def test_the_texts_of_each_pair_are_found_among_the_distinct_ones() -> None:
    rng = np.random.default_rng(0)
    drawn = {name: rng.choice(["x", "y", "z", "\u4e2d"], 40) for name in ("history", "human_ref_A", "human_ref_B")}
    pairs = pd.DataFrame(drawn, index=rng.permutation(40)).sample(30, random_state=0)
    texts = distinct_texts(pairs)
    for name, places in zip(("human_ref_A", "human_ref_B"), places_of_texts(pairs), strict=True):
        assert texts["prompt"].iloc[places].tolist() == pairs["history"].tolist()
        assert texts["response"].iloc[places].tolist() == pairs[name].tolist()
    prompts, responses = sides_of(texts)
    assert (prompts, responses) == (texts["prompt"].tolist(), texts["response"].tolist())
    assert len(set(map(id, prompts))) == pairs["history"].nunique()


@pytest.mark.parametrize(
    ("domain", "bare"),
    [("askbaking_train", "askbaking"), ("askvet_test", "askvet"), ("x_validation", "x"), ("train_x", "train_x")],
)
def test_bare_domain(domain: str, bare: str) -> None:
    assert bare_domain(domain) == bare


def test_labels_come_as_integers_whatever_they_were_written_as(tmp_path: Path) -> None:
    rows = [shp(0, labels=True), shp(1, labels="1"), shp(2, labels=1.0)]
    labels = train_of(tmp_path, rows)["labels"]
    assert labels.dtype == np.int64
    assert list(labels) == [1, 1, 1]
