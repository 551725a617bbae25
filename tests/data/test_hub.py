"""Data sets of the hub's layout: in every form, with any splits, and the same as from files."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pytest
from support.faulty_server import running
from support.form_samples import SAMPLES, Sample
from support.hub_server import HubFault, HubServer
from support.shp_like import write_shp

from realm_lib.config.data import DataParams
from realm_lib.data.chats import PairsError
from realm_lib.data.hub import split_names
from realm_lib.data.pairs import load_pairs, load_splits
from realm_lib.data.sources import Source

Row = dict[str, Any]
SPLITS = ("train", "validation", "test")


def rows(name: str, count: int) -> list[Row]:
    return [{"prompt": f"{name} {n}?", "chosen": "Good.", "rejected": "Bad."} for n in range(count)]


def write(file: Path, lines: Iterable[Row]) -> None:
    file.parent.mkdir(exist_ok=True, parents=True)
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a data set of the hub's layout may lie, and a cache that other tests do not see."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    return tmp_path / "set"


def hub(path: Path, **options: Any) -> DataParams:
    return DataParams.model_validate({"source": "hub", "dataset_name": str(path), **options})


def prompts(data: DataParams) -> dict[str, set[str]]:
    return {split: set(load_pairs(data, split)["history"]) for split in SPLITS}  # type: ignore[arg-type]


def named_splits(folder: Path, **files: Iterable[Row]) -> None:
    """A data set whose card names its splits, as those of the hub do."""
    for name, lines in files.items():
        write(folder / f"{name}-00000.jsonl", lines)
    places = "".join(f"  - split: {name}\n    path: {name}-*\n" for name in files)
    (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: default\n  data_files:\n{places}---\n")


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["train", "validation", "test"], {"train": "train", "validation": "validation", "test": "test"}),
        (["train", "test"], {"train": "train", "test": "test"}),
        (["train", "val"], {"train": "train", "validation": "val"}),
        (["train_sft", "test_sft", "train_gen", "train_prefs", "test_prefs"], {"train": "train_prefs"}),
        (["train", "train_prefs"], {"train": "train"}),
        (["filtered"], {"train": "filtered"}),
        (["test"], {"train": "test"}),
    ],
)
def test_which_split_is_which(names: list[str], found: dict[str, str]) -> None:
    assert split_names(names, "set").items() >= found.items()


def test_splits_that_could_be_two_things_are_refused() -> None:
    with pytest.raises(PairsError, match=r"set: which split is for train: train_sft, train_gen\? Save the one"):
        split_names(["train_sft", "train_gen", "test"], "set")
    with pytest.raises(PairsError, match=r"set: none of its splits is for training: human, gpt4_pair\. Save the one"):
        split_names(["human", "gpt4_pair"], "set")


def test_splits_by_their_published_names(folder: Path) -> None:
    named_splits(
        folder, train_prefs=rows("t", 200), test_prefs=rows("e", 5), train_sft=rows("s", 9), test_sft=rows("f", 9)
    )
    found = prompts(hub(folder))
    assert found["test"] == {f"e {n}?" for n in range(5)}
    assert found["train"] | found["validation"] == {f"t {n}?" for n in range(200)}
    assert not found["train"] & found["validation"]
    assert 8 <= len(found["validation"]) <= 35


def test_a_set_of_one_split_is_divided_as_a_file_is(folder: Path, tmp_path: Path) -> None:
    named_splits(folder, filtered=rows("p", 200))
    file = tmp_path / "pairs.jsonl"
    write(file, rows("p", 200))
    found = prompts(hub(folder))
    assert found == prompts(DataParams(source="local", path=str(file)))
    assert found == prompts(hub(file)), "a file may be given as a data set's name"
    assert sum(map(len, found.values())) == len(set.union(*found.values())) == 200


def test_each_split_of_a_set_is_read_once_and_named(folder: Path) -> None:
    named_splits(folder, train=[*rows("p", 30), {"prompt": "x", "chosen": "y", "rejected": 3}], test=rows("e", 3))
    source = Source(hub(folder))
    source.whole("train")
    assert source.whole("validation")["_file"].eq(f"{folder} train").all()
    assert len(source._parts) == 1
    dropped = [load_splits(hub(folder), (split,))[split].report.dropped for split in ("train", "validation")]
    (entry,) = [reasons["not text"] for reasons in dropped if reasons]
    assert entry == {"pairs": 1, "first": [f"{folder} train row 31"]}


def test_a_configuration_may_be_a_folder_of_the_set(folder: Path) -> None:
    write(folder / "train.jsonl", rows("plain", 3))
    write(folder / "preference" / "train.jsonl", rows("preferred", 40))
    assert all(p.startswith("preferred") for p in prompts_of_train(hub(folder, dataset_config="preference")))
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: a\n  data_files: train.jsonl\n"
        "- config_name: b\n  data_files: preference/train.jsonl\n---\n"
    )
    assert all(prompt.startswith("preferred") for prompt in prompts_of_train(hub(folder, dataset_config="b")))
    with pytest.raises(
        PairsError, match=r"could not be loaded \(data\.dataset_config: None\): .*Config name is missing"
    ):
        prompts_of_train(hub(folder))


def prompts_of_train(data: DataParams) -> list[str]:
    return list(load_pairs(data, "train")["history"])


@pytest.mark.parametrize(("name", "sample"), SAMPLES.items(), ids=list(SAMPLES))
def test_every_form_is_read_from_the_hub_and_from_files(folder: Path, name: str, sample: Sample) -> None:
    """Arrow gives every object the keys of all, and hands lists over as arrays."""
    train = Source(hub(folder))
    if name == "chosen and rejected":  # its sample mixes texts and lists in a column, which Arrow cannot hold
        sample = Sample(sample.rows[1:2], sample.pairs[1:2])
    if name == "SHP":
        sample = Sample([row for row in sample.rows if row["labels"] != "B"], sample.pairs[:2], sample.left_out)
    if name == "Chatbot Arena, MT-bench":
        sample = Sample(sample.rows[:4], sample.pairs[:2], {"tie": 2})
    parts = datasets.DatasetDict({split: datasets.Dataset.from_list(sample.rows) for split in SPLITS})
    folder.mkdir()
    for split, part in parts.items():
        part.to_parquet(folder / f"{split}.parquet")
    files = Source(DataParams(source="local", path=str(folder)))
    for source in (train, files):
        pairs = source.whole("train")
        used = pairs[pairs["_reason"].isna()]
        better = used["human_ref_A"].where(used["labels"] == 1, used["human_ref_B"])
        assert list(zip(used["history"], better, strict=True)) == [pair[:2] for pair in sample.pairs]
        assert pairs["_reason"].value_counts().to_dict() == sample.left_out


def test_a_folder_saved_by_datasets_is_read_as_a_data_set(folder: Path) -> None:
    saved = datasets.DatasetDict({split: datasets.Dataset.from_list(rows(split, 3)) for split in SPLITS})
    saved.save_to_disk(str(folder))
    assert prompts(hub(folder)) == {split: {f"{split} {n}?" for n in range(3)} for split in SPLITS}


def test_domains_that_are_no_folders_are_those_of_the_column(folder: Path) -> None:
    lines = [row | {"domain": ("code", "general")[n % 2]} for n, row in enumerate(rows("p", 60))]
    named_splits(folder, train=lines)
    table = load_pairs(hub(folder, domains=["code"]), "train")
    assert set(table["domain"]) == {"code"}
    assert isinstance(table, pd.DataFrame)


def test_a_column_of_texts_and_lists_is_read_as_it_was_written(folder: Path) -> None:
    """`datasets` stores such a column as JSON, and hands it over so to who asks for Arrow."""
    lines = [{"prompt": "a", "chosen": "Yes.", "rejected": "No."}]
    lines.append({"prompt": "b", "chosen": [{"role": "assistant", "content": "Yes."}], "rejected": "No."})
    named_splits(folder, train=lines)
    pairs = pd.concat([Source(hub(folder)).whole(split) for split in SPLITS])
    assert set(pairs["history"]) == {"a", "b"}
    assert set(pairs["human_ref_A"]) | set(pairs["human_ref_B"]) == {"Yes.", "No."}


DOWNLOAD = """
import sys
from realm_lib.config.data import DataParams
from realm_lib.data.pairs import load_pairs
for name in sys.argv[1:]:
    data = DataParams(source="hub", dataset_name=name, domains=["askbaking"])
    print(len(load_pairs(data, "train")), len(load_pairs(data, "test")))
"""


@pytest.mark.slow
def test_a_set_in_shps_layout_is_downloaded_though_the_connection_breaks(tmp_path: Path) -> None:
    """In a process of its own: where the hub is, is read as ``huggingface_hub`` is imported."""
    online = {"HF_HUB_OFFLINE": "0", "HF_DATASETS_OFFLINE": "0"}
    write_shp(tmp_path / "repositories", 120)
    with running(HubServer(tmp_path / "repositories")) as server:
        server.faults = [
            HubFault(cut_off=True, only_if=lambda path: path.endswith("/train.json") and path.startswith("/content/")),
            HubFault(status=429, only_if=lambda path: path.endswith("/test.json") and path.startswith("/content/")),
        ]
        done = subprocess.run(
            [sys.executable, "-c", DOWNLOAD, "stanfordnlp/SHP", "stanfordnlp/SPH"],
            env=os.environ | online | {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "home")},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.stdout, done.stderr
    train, test = map(int, done.stdout.split())
    assert train > 20, done.stderr
    assert test > 20
    assert not server.faults
    for split in ("train", "test"):
        assert server.asked.count(f"GET /content/datasets/stanfordnlp/SHP/askbaking/{split}.json") == 2, "tried again"
    assert not [asked for asked in server.asked if "askphysics" in asked], "only the domain that is asked for"
    assert "data.dataset_name: stanfordnlp/SPH could not be loaded" in done.stderr
