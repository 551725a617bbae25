"""Files that `realm score` adds to: what was there comes back as it was, or is refused before anything is scored."""

import datetime
import decimal
import json
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.small_run import write_run

from realm_lib.data.chats import PairsError
from realm_lib.data.pairs import read_pairs
from realm_lib.data.tables import read_exactly, with_scores
from realm_lib.inference.score_file import score_file

ADDED = b"PANDAS_ATTRS"
TEXTS = {"prompt": ["Why?"] * 3, "response": ["Yeast.", "Gas.", "Yeast."]}
INT = pa.int8()
NOON = datetime.datetime(2020, 1, 1, 12)
TYPED: dict[str, pa.Array] = {
    "whole": pa.array([1152921504606846977, None, -1]),
    "unsigned": pa.array([2**64 - 1, None, 0], pa.uint64()),
    "half": pa.array([1.5, None, float("nan")], pa.float16()),
    "money": pa.array([decimal.Decimal("1.10"), None, decimal.Decimal(10**20)], pa.decimal128(25, 2)),
    "when": pa.array([NOON, None, NOON], pa.timestamp("us", "Europe/Berlin")),
    "nanoseconds": pa.array([1, None, 2**62], pa.timestamp("ns")),
    "far": pa.array([2**62, None, -(2**62)], pa.timestamp("us")),
    "kind": pa.array(["a", None, "a"]).dictionary_encode(),
    "large": pa.array(["a", None, "\0"], pa.large_string()),
    "viewed": pa.array(["a", None, "b"], pa.string_view()),
    "raw": pa.array([b"\xff", None, b""], pa.binary()),
    "fixed": pa.array([[1, 2], None, [3, 4]], pa.list_(pa.int8(), 2)),
    "map": pa.array([[("a", 1), ("a", 2)], None, []], pa.map_(pa.string(), pa.int64())),
    "nested": pa.array(
        [{"a": [{"b": None}]}, None, {"a": []}], pa.struct({"a": pa.list_(pa.struct({"b": pa.int8()}))})
    ),
    "nothing": pa.nulls(3),
    "_row": pa.array([7, 8, 9]),
    "_file": pa.array(["x", None, "y"]),
    "_reason": pa.array(["not JSON", None, "tie"]),
    "_id": pa.array([b"1" * 16, None, b"2" * 16], pa.uuid()),
    "said": pa.array(["{}", None, "[1]"], pa.json_()),
    "": pa.array([1, 2, 3]),
    "a.b": pa.array([1, 2, 3]),
}


@pytest.fixture
def run(tmp_path: Path, inform_folder: Path) -> Path:
    return write_run(tmp_path, inform_folder)


def added(before: pa.Table, after: pa.Table) -> list[str]:
    """The names of the columns of ``after`` that are new; all others must be those of ``before``, with their notes."""
    old = before.num_columns
    assert after.column_names[:old] == before.column_names
    for name, field, there in zip(before.column_names, before.schema, after.schema, strict=False):
        assert there.equals(field, check_metadata=True), name
        is_same = after[name].equals(before[name])
        assert is_same or repr(after[name].to_pylist()) == repr(before[name].to_pylist()), name  # of NaN none is equal
    notes, kept = ({**(table.schema.metadata or {})} for table in (before, after))
    assert {name: note for name, note in kept.items() if name != ADDED} == notes
    return list(after.column_names[old:])


def read(path: Path) -> pa.Table:
    return pq.ParquetFile(pa.BufferReader(path.read_bytes())).read()


def give_scores(folder: Path) -> None:
    """What `realm score` does besides scoring."""
    table, _ = read_exactly(folder / "in.parquet")
    pq.write_table(with_scores(table, {"a score": np.float32([1, 2, 3])}), folder / "out.parquet")


def test_every_type_of_parquet_comes_back_as_it_was(tmp_path: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a name that looks like an address, to one that is not Unicode."""
    monkeypatch.chdir(tmp_path)
    source, target = Path("file:in.parquet"), Path(os.fsdecode(b"out\xff.parquet"))
    fields = [pa.field(name, column.type, metadata={"unit": "m"}) for name, column in TYPED.items()]
    fields += [pa.field(name, pa.string(), nullable=False) for name in TEXTS]
    columns = [*TYPED.values(), *(pa.array(texts) for texts in TEXTS.values())]
    table = pa.Table.from_arrays(columns, schema=pa.schema(fields, {"mine": "\u00e9", b"raw": b"\xff"}))
    with source.open("wb") as file:
        pq.write_table(table, file, row_group_size=2)
    score_file(run, source, target)
    out = read(target)
    assert added(read(source), out) == ["score"]
    assert added(table.drop_columns(["nested", "map", "fixed"]), out.drop_columns(["nested", "map", "fixed"])) == [
        "score"
    ]
    first, second, third = out["score"].to_pylist()
    assert out["score"].type == pa.float32()
    assert first == third != second


COLUMNS = st.sampled_from(sorted(TYPED))
NAMES = st.text(st.characters(codec="utf-8"), max_size=5)


@given(
    st.dictionaries(NAMES, COLUMNS, max_size=4), st.dictionaries(NAMES, NAMES, max_size=2), st.permutations([2, 0, 1])
)
@settings(max_examples=60)
def test_a_table_with_scores_is_the_table_and_scores(
    tmp_path_factory: pytest.TempPathFactory, columns: dict[str, str], notes: dict[str, str], order: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("one")
    table = pa.table({**{name: TYPED[kind] for name, kind in columns.items()}, "new": order})
    table = table.replace_schema_metadata(notes)
    pq.write_table(table, folder / "in.parquet")
    give_scores(folder)
    assert added(read(folder / "in.parquet"), read(folder / "out.parquet")) == ["a score"]


INDICES: dict[str, Any] = {
    "named": pd.Index([5, 3, 9], name="id"),
    "called as a place": pd.Index(["a", "b", "c"], name="_row"),
    "without a name": pd.Index([5, 3, 9]),
    "of two": pd.MultiIndex.from_tuples([(1, "a"), (1, "b"), (2, "a")], names=["post", None]),
    "of times": pd.date_range("2020-01-01", periods=3, tz="Asia/Tokyo", name="day"),
    "a range": pd.RangeIndex(10, 16, 2, name="n"),
}


@pytest.mark.parametrize("index", INDICES)
def test_a_frame_of_pandas_comes_back_with_its_index_and_attributes(tmp_path: Path, index: str) -> None:
    frame = pd.DataFrame(TEXTS, INDICES[index]).assign(kind=pd.Categorical(["a", "b", "a"]))
    frame["n"] = pd.array([1152921504606846977, None, 3], "Int64")
    frame.attrs = {"mine": [1, None]}
    frame.to_parquet(tmp_path / "in.parquet")
    give_scores(tmp_path)
    out = pd.read_parquet(tmp_path / "out.parquet")
    assert out.attrs == {"mine": [1, None], "realm_scores": ["a score"]}
    assert out["a score"].dtype == np.float32
    pd.testing.assert_frame_equal(out.drop(columns="a score"), pd.read_parquet(tmp_path / "in.parquet"))


def test_what_datasets_saved_comes_back_with_its_features(tmp_path: Path, run: Path) -> None:
    features = datasets.Features(
        {name: datasets.Value("string") for name in TEXTS}
        | {"label": datasets.ClassLabel(names=["no", "yes"]), "grid": datasets.Array2D((1, 2), "float32")}
        | {"mixed": datasets.Json(), "_file": datasets.Value("large_string")}
    )
    columns = {"label": [0, 1, None], "grid": [[[1.0, 2.0]]] * 3, "mixed": [1, "a", {"b": [None]}], "_file": ["x"] * 3}
    saved = datasets.Dataset.from_dict(TEXTS | columns, features=features).select([2, 0, 1])
    saved.save_to_disk(tmp_path / "in")
    score_file(run, tmp_path / "in", tmp_path / "out.parquet")
    assert added(saved.with_format("arrow")[:], read(tmp_path / "out.parquet")) == ["score"]
    back = datasets.Dataset.from_parquet(str(tmp_path / "out.parquet"), cache_dir=str(tmp_path / "hub"))
    assert back.features == features | {"score": datasets.Value("float32")}
    assert back.remove_columns("score").to_list() == saved.to_list()


@pytest.mark.parametrize("dtype", ["int64", "Int64"])
def test_votes_are_votes_in_what_pandas_notes_too(tmp_path: Path, run: Path, dtype: str) -> None:
    rows = {"history": ["Why?"] * 2, "human_ref_A": ["Yeast.", "Gas."], "human_ref_B": ["No.", "So."], "labels": [1, 0]}
    frame = pd.DataFrame(rows).assign(score_A=pd.array([9, 2], dtype), score_B=pd.array([4, 8], dtype))
    frame.set_index("score_B").to_parquet(tmp_path / "in.parquet")
    score_file(run, tmp_path / "in.parquet", tmp_path / "out.parquet")
    out = pd.read_parquet(tmp_path / "out.parquet")
    assert (out["votes_A"].tolist(), out["votes_A"].dtype, out.index.name) == ([9, 2], dtype, "votes_B")
    assert out["score_A"].dtype == out["score_B"].dtype == np.float32
    assert (out["score_A"] % 1 != 0).all(), "a score is no whole number of votes"
    assert len(read_pairs(tmp_path / "out.parquet").table) == 2
    with pytest.raises(PairsError, match="has a column score_A already"):
        score_file(run, tmp_path / "out.parquet", tmp_path / "again.parquet")


def test_scores_that_were_taken_away_or_noted_by_a_stranger(tmp_path: Path, run: Path) -> None:
    """pandas keeps attributes of columns that are gone."""
    rows = {"prompt": ["Why?"] * 2, "chosen": ["Yeast.", "Gas."], "rejected": ["No.", "So."]}
    pd.DataFrame(rows).to_parquet(tmp_path / "in.parquet")
    score_file(run, tmp_path / "in.parquet", tmp_path / "out.parquet")
    out = pd.read_parquet(tmp_path / "out.parquet").drop(columns="score_chosen")
    out.to_parquet(tmp_path / "less.parquet")
    assert len(read_pairs(tmp_path / "less.parquet").table) == 2
    for note in (b"{", b"[]", b'{"realm_scores": "score"}', b'{"realm_scores": [[1]]}', b"[" * 100_000, b"\xff"):
        pq.write_table(pa.table(rows).replace_schema_metadata({ADDED: note}), tmp_path / "in.parquet")
        for door in (read_pairs, lambda path: score_file(run, path, tmp_path / "out.parquet")):
            with pytest.raises(PairsError, match=r"in\.parquet: cannot be read as parquet"):
                door(tmp_path / "in.parquet")


HARD: list[Any] = [2**70, "a", {}, [{}], {"a": {"b": {}}}, 0.5, True, None, float("inf"), "\0", [[1], "x"], -(2**63)]


def test_what_json_says_comes_back_as_it_was_or_as_its_json(tmp_path: Path, run: Path) -> None:
    """Each hard value alone in its column, beside nulls, and all of them in one."""
    rows = [{"prompt": "Why?", "response": "Yeast.", "all": value, f"_row{n}": value} for n, value in enumerate(HARD)]
    (tmp_path / "in.json").write_text(json.dumps(rows))
    score_file(run, tmp_path / "in.json", tmp_path / "out.parquet")
    out = read(tmp_path / "out.parquet").to_pylist()
    for value, row in zip(HARD, out, strict=True):
        assert row["all"] == value or json.loads(row["all"]) == value
    for place, value in enumerate(HARD):
        there = [row[f"_row{place}"] for row in out]
        assert there[place] == value or json.loads(there[place]) == value
        assert there[:place] + there[place + 1 :] == [None] * (len(HARD) - 1)


# The output's place


def refused(run: Path, source: Path, target: Path, message: str) -> None:
    """Refused with nothing scored, and nothing changed or left behind."""
    before = sorted(str(path) for path in run.parent.rglob("*"))
    content = source.read_bytes() if source.is_file() else b""
    with pytest.raises(PairsError, match=message):
        score_file(run, source, target)
    assert sorted(str(path) for path in run.parent.rglob("*")) == before
    assert content == (source.read_bytes() if source.is_file() else b"")


def test_the_output_is_not_the_input_nor_within_it(tmp_path: Path, run: Path) -> None:
    source = tmp_path / "in.parquet"
    source.write_bytes(b"not even read")
    (tmp_path / "other").mkdir()
    (tmp_path / "symbolic.parquet").symlink_to(source)
    os.link(source, tmp_path / "hard.parquet")
    places = ["in.parquet", "other/../in.parquet", "./in.parquet", "symbolic.parquet", "hard.parquet"]
    for place in places:
        refused(run, source, Path(f"{tmp_path}/{place}"), "the output is the input, which would be lost")
        refused(run, Path(f"{tmp_path}/{place}"), source, "the output is the input, which would be lost")
    datasets.Dataset.from_dict(TEXTS).save_to_disk(tmp_path / "saved")
    (tmp_path / "link").symlink_to(tmp_path / "saved")
    for place in ("saved/out.parquet", "link/out.parquet", "saved/new/out.parquet", "other/../saved/out.parquet"):
        refused(run, tmp_path / "saved", Path(f"{tmp_path}/{place}"), "the output lies in the input's folder")


def test_a_place_that_cannot_be_written_is_found_first(tmp_path: Path, run: Path) -> None:
    source = tmp_path / "in.parquet"
    source.write_bytes(b"not even read")
    (tmp_path / "folder.parquet").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    refused(run, source, tmp_path / "folder.parquet", "a folder has this name")
    for place in ("in.parquet/out.parquet", f"{'x' * 240}.parquet", f"{'x' * 300}.parquet", "loop/out.parquet"):
        refused(run, source, tmp_path / place, "out.parquet: cannot be written|x.parquet: cannot be written")
    with pytest.raises(PairsError, match="cannot be written"):
        score_file(run, source, Path("/proc/out.parquet"))


def test_a_column_that_parquet_does_not_have_is_refused_before_anything_is_scored(tmp_path: Path, run: Path) -> None:
    columns = TEXTS | {"mine": [{}, None, {}]}
    features = datasets.Features({name: datasets.Value("string") for name in TEXTS} | {"mine": {}})
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(tmp_path / "in")
    refused(run, tmp_path / "in", tmp_path / "out.parquet", "in: the column 'mine' cannot be written as parquet")
    pq.write_table(
        pa.Table.from_arrays([pa.array(["a"])] * 4, ["prompt", "response", "x", "x"]), tmp_path / "in.parquet"
    )
    refused(run, tmp_path / "in.parquet", tmp_path / "out.parquet", "two columns have the name 'x'")


@contextmanager
def no_file_beyond(size: int) -> Iterator[None]:
    """As on a disk that is full: no file of this process grows beyond ``size`` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_is_full_leaves_nothing_half_written_and_the_scores_are_kept(tmp_path: Path, run: Path) -> None:
    """Room for what is carried over and not for the scores, which are then only found at the end."""
    heavy = np.random.default_rng(0).bytes(400_000)
    table = pa.table({name: texts[:2] * 5000 for name, texts in TEXTS.items()} | {"heavy": [heavy] + [b""] * 9999})
    pq.write_table(table, tmp_path / "in.parquet")
    done = score_file(run, tmp_path / "in.parquet", tmp_path / "out.parquet")
    size, carried = ((tmp_path / name).stat().st_size for name in ("out.parquet", "in.parquet"))
    assert size > carried
    before = sorted(tmp_path.iterdir())
    content = (tmp_path / "out.parquet").read_bytes()
    with (
        no_file_beyond(size - 1),
        pytest.raises(PairsError, match=r"out\.parquet: cannot be written: .*in the run's store"),
    ):
        score_file(run, tmp_path / "in.parquet", tmp_path / "out.parquet")
    with no_file_beyond(carried // 2), pytest.raises(PairsError, match=r"out\.parquet: cannot be written: [^.]*$"):
        score_file(run, tmp_path / "in.parquet", tmp_path / "out.parquet")
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "out.parquet").read_bytes() == content
    again = score_file(run, tmp_path / "in.parquet", tmp_path / "out.parquet")
    assert (done.scored, again.scored, again.rows) == (2, 0, 10_000)
