"""Where pairs come from: every kind of file is a split by its name, or is divided by its posts."""

import codecs
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from realm_lib.config.data import DataParams
from realm_lib.data.chats import PairsError
from realm_lib.data.pairs import load_pairs, read_pairs

ROWS = [
    {"prompt": f"Question {n}?", "chosen": "Good, and long.", "rejected": f"Poor {n}.", "post_id": n} for n in range(6)
]
SPLITS = {"train": ROWS[:3], "validation": ROWS[3:4], "test": ROWS[4:]}


def prompts(path: Path, split: Any = "train") -> list[str]:
    return list(load_pairs(DataParams(source="local", path=str(path)), split)["history"])


def write(file: Path, rows: list[dict[str, Any]]) -> None:
    frame = pd.DataFrame(rows)
    if ".csv" in file.name:
        frame.to_csv(file, index=False)
    else:
        frame.to_json(file, orient="records", lines=".jsonl" in file.name)


@pytest.mark.parametrize("suffix", [".json", ".json.gz", ".jsonl.gz", ".csv", ".csv.gz"])
def test_files_named_as_splits(tmp_path: Path, suffix: str) -> None:
    for name, rows in SPLITS.items():
        write(tmp_path / f"{name}{suffix}", rows)
    for name, rows in SPLITS.items():
        assert prompts(tmp_path, name) == [row["prompt"] for row in rows]


def test_a_folder_that_datasets_saved(tmp_path: Path) -> None:
    import datasets

    saved = {name: datasets.Dataset.from_list(rows) for name, rows in SPLITS.items()}
    datasets.DatasetDict(saved).save_to_disk(tmp_path / "all")
    for name, rows in SPLITS.items():
        assert prompts(tmp_path / "all", name) == [row["prompt"] for row in rows]
    datasets.concatenate_datasets(list(saved.values())).save_to_disk(tmp_path / "one")
    assert sorted(read_pairs(tmp_path / "one").table["history"]) == [row["prompt"] for row in ROWS]


@pytest.mark.parametrize("source", ["local", "hub"])
def test_splits_that_datasets_saved_lend_their_training_posts_to_one_that_is_missing(
    tmp_path: Path, source: Any
) -> None:
    import datasets

    rows = [{"prompt": f"Question {n}?", "chosen": "Good.", "rejected": "Poor."} for n in range(60)]
    saved = {"train_prefs": rows[:50], "train_sft": rows[:50], "test_prefs": rows[50:]}
    datasets.DatasetDict({k: datasets.Dataset.from_list(part) for k, part in saved.items()}).save_to_disk(
        tmp_path / "d"
    )
    place = {"path": str(tmp_path / "d")} if source == "local" else {"dataset_name": str(tmp_path / "d")}
    data = DataParams(source=source, **place)
    found = {split: set(load_pairs(data, split)["history"]) for split in ("train", "validation", "test")}
    assert found["test"] == {row["prompt"] for row in rows[50:]}
    assert found["train"] | found["validation"] == {row["prompt"] for row in rows[:50]}
    assert found["validation"]
    assert not found["train"] & found["validation"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_marks_and_blank_lines_are_no_rows(tmp_path: Path, encoding: str) -> None:
    text = "\n\n" + "\n \r\n".join(json.dumps(row) for row in ROWS) + "\n\n"
    (tmp_path / "pairs.jsonl").write_bytes(text.encode(encoding))
    assert read_pairs(tmp_path / "pairs.jsonl").report.read == len(ROWS)


@pytest.mark.parametrize("content", [b"", b"\n\n", codecs.BOM_UTF8])
def test_an_empty_file_and_an_empty_folder_are_named(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(PairsError, match=rf"{tmp_path} holds no \.jsonl, .* file"):
        read_pairs(tmp_path)
    (tmp_path / "pairs.jsonl").write_bytes(content)
    with pytest.raises(PairsError, match=r"pairs\.jsonl: holds no rows"):
        read_pairs(tmp_path)
