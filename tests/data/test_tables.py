"""Files of rows: every kind gives the same table, and what cannot be read is named."""

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from realm_lib.data.chats import PairsError
from realm_lib.data.tables import (
    PLACE,
    SUFFIXES,
    frame_of,
    is_table,
    local_files,
    read_rows,
    read_table,
    told,
    without_suffix,
)

Table = dict[str, list[Any]]
CHAT = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]


def as_lines(file: Path, table: pd.DataFrame) -> None:
    table.to_json(file, orient="records", lines=True, force_ascii=False)


def as_array(file: Path, table: pd.DataFrame) -> None:
    table.to_json(file, orient="records", indent=1)


def as_csv(file: Path, table: pd.DataFrame) -> None:
    table.to_csv(file, index=False, quoting=2)


def as_parquet(file: Path, table: pd.DataFrame) -> None:
    table.to_parquet(file)


def as_dataset(folder: Path, table: pd.DataFrame) -> None:
    import datasets

    datasets.Dataset.from_pandas(table, preserve_index=False).save_to_disk(folder)


WRITERS: dict[str, Callable[[Path, pd.DataFrame], None]] = {
    "rows.jsonl": as_lines,
    "rows.jsonl.gz": as_lines,
    "lines.json": as_lines,
    "rows.json": as_array,
    "rows.json.gz": as_array,
    "ROWS.CSV": as_csv,
    "rows.csv.gz": as_csv,
    "rows.parquet": as_parquet,
    "rows": as_dataset,
}


def texts(frame: pd.DataFrame) -> Table:
    return {str(name): frame[name].tolist() for name in frame.columns.drop(list(PLACE))}


TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)


@pytest.mark.parametrize("name", WRITERS)
@given(table=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=4))
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_kind_of_file_gives_back_the_texts(
    tmp_path_factory: pytest.TempPathFactory, name: str, table: list[tuple[str, str]]
) -> None:
    columns = {"prompt": [first for first, _ in table], "history": [second for _, second in table]}
    file = tmp_path_factory.mktemp("one") / name
    WRITERS[name](file, pd.DataFrame(columns, dtype=object))
    frame = read_table(file)
    assert texts(frame) == columns
    assert set(frame["_file"]) == {name}
    assert frame["_reason"].isna().all()
    assert frame["_row"].is_monotonic_increasing
    assert [row.values for row in read_rows(file)] == pd.DataFrame(columns).to_dict("records")


@pytest.mark.parametrize("name", [name for name in WRITERS if ".csv" not in name.lower()])
def test_messages_numbers_and_missing_values_are_plain(tmp_path: Path, name: str) -> None:
    rows = {"chosen": [CHAT, None], "post_id": [0, 7], "votes": [None, 3], "score": [0.5, None], "kept": [True, False]}
    WRITERS[name](tmp_path / name, pd.DataFrame(rows, dtype=object))
    frame = read_table(tmp_path / name)
    assert texts(frame) == rows
    assert isinstance(frame["chosen"][0], list)
    assert isinstance(frame["chosen"][0][0], dict)
    assert isinstance(frame["votes"][1], int), "a number beside a missing one is no fraction"


def test_a_row_may_lack_a_column(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"a": 1}\n{"b": "x"}\n')
    assert texts(read_table(tmp_path / "rows.jsonl")) == {"a": [1, None], "b": [None, "x"]}


def test_rows_that_cannot_be_read_stand_between_the_others(tmp_path: Path) -> None:
    lines = ['{"prompt": "a"}', "", "{", '{"prompt": "\\ud83d"}', "[]", '{"prompt": "b"}']
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    frame = read_table(tmp_path / "rows.jsonl")
    assert frame["_row"].tolist() == [1, 3, 4, 5, 6]
    assert frame["_reason"].tolist() == [None, "not JSON", "not Unicode text in prompt", "not an object", None]
    assert frame["prompt"].tolist() == ["a", None, None, None, "b"]
    (tmp_path / "rows.json").write_text('[{"prompt": "a"}, 7, {"prompt": "\\ud83d"}, {"a": 1, "a": 1}]')
    frame = read_table(tmp_path / "rows.json")
    reasons = [None, "not an object", "not Unicode text in prompt", "duplicate keys"]
    assert frame["_reason"].tolist() == reasons
    assert frame["_row"].tolist() == [1, 2, 3, 4]


def test_reasons_are_told_all_at_once_with_their_first_rows() -> None:
    reasons = ["not JSON"] * 7 + [None, "duplicate keys"] + ["tie"] * 5
    frame = pd.DataFrame({"_row": range(1, 15), "_reason": pd.Series(reasons, dtype=object)})
    assert told(frame) == ("row 1, 2, 3, 4, 5 and 2 more: not JSON; row 9: duplicate keys; row 10, 11, 12, 13, 14: tie")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.jsonl", b"", "rows.jsonl: holds no rows"),
        ("rows.jsonl", b"\xef\xbb\xbf\n\n", "rows.jsonl: holds no rows"),
        ("rows.json", b"[]", "rows.json: holds no rows"),
        ("rows.csv", b"prompt,response\n", "rows.csv: holds no rows"),
        ("rows.jsonl.gz", gzip.compress(b"\n", mtime=0), "rows.jsonl.gz: holds no rows"),
        ("rows.jsonl", b"{\n[]\n{\n", "none of its rows can be read: row 1, 3: not JSON; row 2: not an object"),
        ("rows.json", b'[{"a": 1}, {"a"', "rows.json after row 0: cannot be read: Expecting"),
        ("rows.json", b"[" * 100_000, "rows.json after row 0: cannot be read: .*recursion"),
        ("rows.json", b'[{"a": "\xff"}]', "rows.json after row 0: cannot be read: .*0xff"),
        ("rows.jsonl", b"\xff\xfe\x00", "rows.jsonl after row 0: cannot be read: .*truncated"),
        ("rows.csv", b'a,b\n1,2\n3,"4\n', "rows.csv after row 2: cannot be read: unexpected end of data"),
        ("rows.csv", b"a,a\n1,2\n", "rows.csv after row 0: cannot be read: two columns"),
        ("rows.csv.gz", b"a,b\n1,2\n", "rows.csv.gz after row 0: cannot be read: Not a gzipped file"),
        ("rows.parquet", b"PAR1 not really", "rows.parquet: cannot be read as parquet"),
        ("rows.parquet", b"", "rows.parquet: cannot be read as parquet"),
        ("rows.jsonl", b'{"_row": 1}', "has a column _row, a name that is used here: rename it"),
    ],
)
def test_a_file_that_is_not_what_its_name_says(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(PairsError, match=message) as found:
        read_table(tmp_path / name)
    assert str(tmp_path / name) in str(found.value)


@pytest.mark.parametrize("kept", [5, 12, 100, 400])
@pytest.mark.parametrize("end", [b"", bytes(64)])
def test_an_archive_that_is_cut_short_or_damaged(tmp_path: Path, kept: int, end: bytes) -> None:
    rng = np.random.default_rng(0)
    packed = gzip.compress("".join(json.dumps({"a": str(rng.random())}) + "\n" for _ in range(200)).encode())
    (tmp_path / "rows.jsonl.gz").write_bytes(packed[:kept] + end)
    with pytest.raises(PairsError, match=r"rows\.jsonl\.gz(: none|: holds no rows| after row \d+: cannot be read)"):
        read_table(tmp_path / "rows.jsonl.gz")


def test_what_parquet_can_hold_and_text_cannot(tmp_path: Path) -> None:
    ends = pa.array([0, 2], pa.int32()).buffers()[1]
    broken = pa.Array.from_buffers(pa.string(), 1, [None, ends, pa.py_buffer(b"\xff\xff")])
    pq.write_table(pa.table({"prompt": broken}), tmp_path / "rows.parquet")
    with pytest.raises(PairsError, match=r"rows\.parquet: cannot be read as parquet: .*UTF8"):
        read_table(tmp_path / "rows.parquet")
    twice = pa.Table.from_arrays([pa.array(["a"])] * 2, names=["prompt", "prompt"])
    pq.write_table(twice, tmp_path / "rows.parquet")
    with pytest.raises(PairsError, match="two columns have the name 'prompt'"):
        read_table(tmp_path / "rows.parquet")


@pytest.mark.parametrize("kind", [pa.timestamp("us"), pa.date32(), pa.timestamp("us", "Mars/Base")], ids=str)
def test_a_column_that_python_has_no_values_for_is_named(tmp_path: Path, kind: pa.DataType) -> None:
    far = pa.array([2**30 if kind == pa.date32() else 2**62], kind)
    pq.write_table(pa.table({"prompt": ["a"], "far": far}), tmp_path / "rows.parquet")
    for door in (read_table, lambda file: list(read_rows(file))):
        with pytest.raises(PairsError, match=r"rows\.parquet: the column 'far' cannot be read \("):
            door(tmp_path / "rows.parquet")


def test_a_file_whose_name_is_not_unicode_or_looks_like_an_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (os.fsdecode(b"a\xff.parquet"), "file:a.parquet", "s3:a.parquet"):
        pd.DataFrame({"prompt": ["a"]}).to_parquet(tmp_path / "a.parquet")
        (tmp_path / "a.parquet").rename(name)
        assert texts(read_table(Path(name))) == {"prompt": ["a"]}


def test_the_rows_of_a_table_are_counted_through_its_parts(tmp_path: Path) -> None:
    rows = [{"n": n, "text": str(n)} for n in range(10_000)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet", row_group_size=999)
    found = list(read_rows(tmp_path / "rows.parquet"))
    assert [row.number for row in found] == list(range(1, 10_001))
    assert [row.values for row in found] == rows


def test_the_index_that_pandas_adds_is_no_column_and_a_folders_name_neither(tmp_path: Path) -> None:
    (tmp_path / "part=7").mkdir()
    file = tmp_path / "part=7" / "rows.parquet"
    pd.DataFrame({"a": [1, 2]}, index=[5, 3]).to_parquet(file)
    assert texts(read_table(file)) == {"a": [1, 2]}


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(PairsError, match=r"none\.jsonl: cannot be read: No such file or directory"):
        read_table(tmp_path / "none.jsonl")


# Where files are


def test_a_folder_is_its_files_of_rows_and_nothing_else(tmp_path: Path) -> None:
    kept = ["b.JSONL", "c.csv.gz", "d.json", "train.parquet"]
    for name in [*kept, "._b.jsonl", ".hidden.csv", "README.md", "dataset_infos.json", "state.jsonx"]:
        (tmp_path / name).touch()
    (tmp_path / "more.jsonl.d").mkdir()
    assert [file.name for file in local_files(str(tmp_path))] == kept
    assert local_files(str(tmp_path / "d.json")) == [tmp_path / "d.json"]
    for name in ("README.md", "more.jsonl.d"):
        with pytest.raises(PairsError, match=r"holds no \.jsonl, .* file, and nothing saved by `datasets`"):
            local_files(str(tmp_path / name))
    with pytest.raises(PairsError, match="nowhere does not exist"):
        local_files(str(tmp_path / "nowhere"))


def test_what_datasets_saved_is_a_folder_a_split(tmp_path: Path) -> None:
    import datasets

    one = datasets.Dataset.from_dict({"prompt": ["a", "b", "c"], "chosen": [CHAT] * 3}).select([2, 0])
    datasets.DatasetDict({"train": one, "test": one.select([1])}).save_to_disk(tmp_path / "both")
    one.save_to_disk(tmp_path / "one")
    assert local_files(str(tmp_path / "one")) == [tmp_path / "one"]
    assert local_files(str(tmp_path)) == [tmp_path / "one"]
    test, train = local_files(str(tmp_path / "both"))
    assert (test.name, train.name) == ("test", "train")
    assert texts(read_table(train)) == {"prompt": ["c", "a"], "chosen": [CHAT] * 2}
    assert texts(read_table(test)) == {"prompt": ["a"], "chosen": [CHAT]}
    with pytest.raises(PairsError, match=r"both: .* saved nothing here; of splits name one"):
        read_table(tmp_path / "both")
    (tmp_path / "one" / "data-00000-of-00001.arrow").write_bytes(b"broken")
    with pytest.raises(PairsError, match="one: cannot be read as a folder of `datasets`"):
        read_table(tmp_path / "one")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_names_and_endings(suffix: str) -> None:
    assert is_table(Path(f"x/test.v2{suffix}"))
    assert without_suffix(f"test.v2{suffix.upper()}") == "test.v2"
    assert without_suffix("test.txt") == "test.txt"


def test_equal_texts_of_rows_are_one_object_and_values_stay_what_they_are() -> None:
    post = "a post of many responses"
    rows = [{"a": "".join(post), "b": 1}, {"a": post[:2] + post[2:], "c": [1]}, {}, {"b": True, "a": None}]
    frame = frame_of(rows)
    assert frame.astype(object).where(frame.notna(), None).to_dict("records") == [
        {"a": post, "b": 1, "c": None},
        {"a": post, "b": None, "c": [1]},
        {"a": None, "b": None, "c": None},
        {"a": None, "b": True, "c": None},
    ]
    assert frame["a"][0] is frame["a"][1]
    assert frame["b"][3] is True
    assert (frame_of([]).shape, frame_of([{}, {}]).shape) == ((0, 0), (2, 0))
