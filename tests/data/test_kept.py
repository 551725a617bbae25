"""The pairs of a run: made once, read afterwards, made again when what they come from has changed."""

import json
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pytest

from realm_lib.config.data import DataParams
from realm_lib.config.rlhf import SamplingParams
from realm_lib.data import kept, sources
from realm_lib.data.kept import keep_pairs
from realm_lib.data.pairs import load_splits
from realm_lib.data.prompts import load_prompts
from realm_lib.runs.run import Run

SIMULATED: dict[str, Any] = {
    "source": "simulator",
    "splits": {"train": 60, "validation": 12, "test": 12},
    "reward_model_share": 0.5,
}


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The splits that were read from their source, in order; the real reading goes on underneath."""
    read: list[str] = []
    whole = sources.Source.whole

    def counted(self: sources.Source, split: str) -> pd.DataFrame:
        if split not in self._whole:
            read.append(split)
        return whole(self, split)

    monkeypatch.setattr(sources.Source, "whole", counted)
    return read


def write_rows(path: Path, count: int) -> None:
    rows = [{"prompt": f"Question {n}?", "chosen": f"Good {n}.", "rejected": f"Poor {n}."} for n in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def test_every_split_is_read_from_its_source_once_a_run(tmp_path: Path, readings: list[str]) -> None:
    data, run = DataParams.model_validate(SIMULATED), Run(tmp_path)
    first = keep_pairs(run, data)
    assert list(first) == ["reward_model", "train", "validation", "test"]
    assert sorted(readings) == ["test", "train", "validation"]  # reward_model is a part of train
    again = keep_pairs(Run(tmp_path), data, ("train", "test"))
    assert len(readings) == 3
    for split in ("train", "test"):
        pd.testing.assert_frame_equal(again[split].table, first[split].table)
        assert again[split].report == first[split].report


def test_what_is_kept_is_what_was_loaded(tmp_path: Path) -> None:
    data = DataParams.model_validate(SIMULATED)
    kept_splits, loaded = keep_pairs(Run(tmp_path), data), load_splits(data, ("train", "reward_model", "test"))
    for split, pairs in loaded.items():
        pd.testing.assert_frame_equal(kept_splits[split].table, pairs.table, check_dtype=False)
        assert kept_splits[split].report == pairs.report


def test_other_parameters_make_the_pairs_again_and_those_of_the_work_do_not(
    tmp_path: Path, readings: list[str]
) -> None:
    run = Run(tmp_path)
    keep_pairs(run, DataParams.model_validate(SIMULATED))
    keep_pairs(run, DataParams.model_validate(SIMULATED | {"preprocessing": {"cache_dir": "elsewhere"}}))
    assert len(readings) == 3
    other = keep_pairs(run, DataParams.model_validate(SIMULATED | {"seed": 7}))
    assert len(readings) == 6
    assert not set(other["test"].table["post_id"]) & set(load_splits(
        DataParams.model_validate(SIMULATED), ("test",))["test"].table["post_id"])  # fmt: skip


def test_pairs_of_some_domains_lie_beside_the_others(tmp_path: Path) -> None:
    run, data = Run(tmp_path), DataParams.model_validate(SIMULATED)
    keep_pairs(run, data)
    few = keep_pairs(run, data.model_copy(update={"domains": ["askvet", "askhr"]}), ("test",))
    assert {name.removesuffix("_test") for name in few["test"].table["domain"]} <= {"askvet", "askhr"}
    assert (tmp_path / "pairs" / "askvet+askhr" / "test.parquet").exists()
    assert keep_pairs(run, data)["test"].table["domain"].nunique() > 2
    sampling = SamplingParams(max_prompt_tokens=9, max_new_tokens=9, held_out_prompts=2, domains=["askvet", "askhr"])
    prompts = load_prompts(data, sampling, "test", run)
    assert prompts == load_prompts(data, sampling, "test") == few["test"].table["history"].unique().tolist()[:2]


def test_a_post_is_one_prompt_however_it_is_written(tmp_path: Path) -> None:
    source = tmp_path / "mine.jsonl"
    written = ["Why {}?", "WHY {}?", "Why  {}? "]
    rows = [
        {"prompt": written[n % 3].format(n // 3), "chosen": f"Good {n}.", "rejected": f"Poor {n}."} for n in range(90)
    ]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    data = DataParams(source="local", path=str(source))
    sampling = SamplingParams(max_prompt_tokens=9, max_new_tokens=9, held_out_prompts=2)
    prompts = load_prompts(data, sampling, "train")
    assert set(prompts) < {f"Why {n}?" for n in range(30)}
    assert len(prompts) > 15


def test_a_file_that_changed_is_read_again(tmp_path: Path, readings: list[str]) -> None:
    source = tmp_path / "mine.jsonl"
    write_rows(source, 40)
    data, run = DataParams(source="local", path=str(source)), Run(tmp_path / "run")
    before = sum(len(pairs.table) for pairs in keep_pairs(run, data).values())
    keep_pairs(run, data)
    assert sorted(readings) == ["test", "train", "validation"]
    write_rows(source, 50)
    assert sum(len(pairs.table) for pairs in keep_pairs(run, data).values()) == before + 10 == 50


def test_a_folder_of_datasets_that_changed_is_read_again(tmp_path: Path, readings: list[str]) -> None:
    rows = [{"prompt": f"Ask {n}", "chosen": "good", "rejected": "bad"} for n in range(4)]
    parts = {"train": rows[:2], "validation": rows[2:3], "test": rows[3:]}
    data, run = DataParams(source="local", path=str(tmp_path / "saved")), Run(tmp_path / "run")
    for size in (1, 2):
        saved = {name: datasets.Dataset.from_list(part[:size]) for name, part in parts.items()}
        datasets.DatasetDict(saved).save_to_disk(tmp_path / "saved")
        assert len(keep_pairs(run, data)["train"].table) == size
        keep_pairs(run, data)
        assert len(readings) == 3 * size


def test_columns_of_several_types_are_kept_as_text(tmp_path: Path) -> None:
    texts = {"human_ref_A": "good", "human_ref_B": "bad", "labels": 1}
    for name, mine in (("train", [1, "x", None, {}]), ("validation", [{}]), ("test", [10**30])):
        rows = [{"post_id": f"{name}{n}", "history": f"{name} {n}?", "mine": value} for n, value in enumerate(mine)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row | texts) + "\n" for row in rows))
    kept_splits = keep_pairs(Run(tmp_path / "run"), DataParams(source="local", path=str(tmp_path)))
    mine = {name: pairs.table["mine"].astype(object) for name, pairs in kept_splits.items()}
    assert mine["train"].where(mine["train"].notna(), None).tolist() == ["1", "x", None, "{}"]
    assert [mine["validation"][0], mine["test"][0]] == ["{}", str(10**30)]


def test_a_change_of_the_code_makes_them_again(
    tmp_path: Path, readings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    room = tmp_path / "room"
    room.mkdir()
    (room / "pairs.py").write_text("x = 1")
    monkeypatch.setattr(kept, "__file__", str(room / "kept.py"))
    data, run = DataParams.model_validate(SIMULATED), Run(tmp_path / "run")
    keep_pairs(run, data, ("test",))
    (room / "pairs.py").write_text("x = 2")
    keep_pairs(run, data, ("test",))
    assert readings == ["test", "test"]
