"""Files of a run read back: what is missing or damaged is named, with the notebook that writes it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from realm_lib.runs.files import write_json, write_table
from realm_lib.runs.reading import DamagedFileError, MissingStepError, read_json, read_note, read_table, read_text

DAMAGED = {
    "half": (b'{"rewards": {"realm"', "not JSON"),
    "empty": (b"", "not JSON"),
    "not_utf8": (b"\xff", "not UTF-8 at byte 0"),
    "number": (b"7", "holds a int, where a JSON object is meant"),
    "list": (b"[1, 2]", "holds a list, where a JSON object is meant"),
    "deep": (b"[" * 100_000, "nested too deep"),
    "digits": (b'{"a": ' + b"9" * 5000 + b"}", "too many digits"),
}


@pytest.fixture
def metrics(tmp_path: Path) -> Path:
    return tmp_path / "metrics" / "evaluation.json"


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_file_is_named_with_its_notebook(metrics: Path, damage: str) -> None:
    content, fault = DAMAGED[damage]
    metrics.parent.mkdir()
    metrics.write_bytes(content)
    with pytest.raises(DamagedFileError) as error:
        read_json(metrics)
    assert str(error.value).startswith(f"{metrics}: ")
    assert fault in str(error.value)
    assert str(error.value).endswith("run notebook 03_evaluation again")


def test_a_key_that_is_not_there_is_the_files_fault_at_any_depth(metrics: Path) -> None:
    write_json(metrics, {"rewards": {"realm": {"accuracy": 0.5}}})
    content = read_json(metrics)
    assert content == {"rewards": {"realm": {"accuracy": 0.5}}}
    assert content.get("verdict") is None
    with pytest.raises(DamagedFileError, match=r"evaluation\.json: holds no 'ci'.*03_evaluation again"):
        content["rewards"]["realm"]["ci"]


@pytest.mark.parametrize("read", [read_text, read_json, read_table])
def test_what_is_not_there_is_missing_and_a_folder_is_no_file(metrics: Path, read: Callable[[Path], Any]) -> None:
    with pytest.raises(MissingStepError, match=r"evaluation\.json is missing: run notebook 03_evaluation first"):
        read(metrics)
    metrics.mkdir(parents=True)
    with pytest.raises(DamagedFileError, match=r"evaluation\.json: "):
        read(metrics)


@pytest.mark.parametrize("keep", [0, 4, 200, -8])
def test_a_cut_table_is_named_with_its_notebook(tmp_path: Path, keep: int) -> None:
    file = tmp_path / "features" / "train.parquet"
    write_table(file, pd.DataFrame({"score_A": [0.5, 1.5]}), {"models": "two"})
    assert read_note(file) == {"models": "two"}
    assert read_table(file, ["score_A"])["score_A"].tolist() == [0.5, 1.5]
    with pytest.raises(DamagedFileError, match=r"train\.parquet: has no column score_B: .*01_feature_extraction again"):
        read_table(file, ["score_B"])
    file.write_bytes(file.read_bytes()[:keep])
    for read in (read_table, read_note):
        with pytest.raises(DamagedFileError, match=r"train\.parquet: not a parquet file.*01_feature_extraction again"):
            read(file)
