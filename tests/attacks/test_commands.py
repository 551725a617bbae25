"""Each command on what is no run, and on damaged files of one: one message that names the path, and no traceback."""

import shutil
import sys
from pathlib import Path

import pytest

from realm_lib import cli

COMMANDS = {
    "predict": ["predict", "--run", "RUN", "--prompt", "Why?", "--response", "Yeast."],
    "score": ["score", "--run", "RUN", "--input", "pairs.jsonl", "--output", "scored.parquet"],
    "serve": ["serve", "--run", "RUN", "--port", "0"],
    "evaluate": ["evaluate", "--run", "RUN", "--pairs", "pairs.jsonl"],
    "report": ["report", "RUN"],
    "side_by_side": ["report", "RUN", "RUN"],
    "execute": ["execute", "RUN", "01_feature_extraction"],
    "verify": ["verify", "RUN", "RUN"],
    "reference": ["reference", "RUN", "kept"],
    "spread": ["spread", "RUN", "RUN"],
}
WRONG = ("missing", "file", "empty", "loop", "under_a_file", "long")
DAMAGES = {
    "half": lambda content: content[: len(content) // 2],
    "empty": lambda _: b"",
    "not_utf8": lambda _: bytes(range(256)),
    "number": lambda _: b"7",
    "list": lambda _: b"[1, 2]",
    "deep": lambda _: b"[" * 100_000,
    "digits": lambda _: b'{"a": ' + b"9" * 5000 + b"}",
}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "Why?", "response": "Yeast."}\n')
    (tmp_path / "file").write_text("no run")
    (tmp_path / "empty").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    monkeypatch.chdir(tmp_path)


def said(monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> str:
    """The message that the command ends with."""
    monkeypatch.setattr(sys, "argv", ["realm", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    message = ended.value.code
    assert isinstance(message, str), f"exit code {message} instead of a message"
    assert message.startswith("realm: ")
    assert "Traceback" not in message
    return message


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_no_run_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str, wrong: str) -> None:
    place = {"under_a_file": "file/run", "long": "r" * 300}.get(wrong, wrong)
    before = sorted(tmp_path.rglob("*"))
    message = said(monkeypatch, [part.replace("RUN", place) for part in COMMANDS[command]])
    assert place in message
    assert "\n" not in message
    assert sorted(tmp_path.rglob("*")) == before, "something was left behind"


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["realm_reward.json", "config.json", "model.safetensors"])
def test_a_damaged_file_of_the_reward_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, run_folder: Path, name: str, damage: str
) -> None:
    run = tmp_path / "run"
    shutil.copytree(run_folder, run)
    file = run / "models" / "combiner" / name
    file.write_bytes(DAMAGES[damage](file.read_bytes()))
    assert name in said(monkeypatch, [part.replace("RUN", str(run)) for part in COMMANDS["predict"]])


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("command", ["score", "evaluate", "execute"])
def test_damaged_parameters_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str, damage: str
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "params.yaml").write_bytes(DAMAGES[damage](b"run: {name: x}\ndata: [1, 2\n"))
    assert "params.yaml" in said(monkeypatch, [part.replace("RUN", str(run)) for part in COMMANDS[command]])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"prompt": ' + "9" * 5000 + ', "response": "Yeast."}', "digits"),
        ("[" * 100_000, "nested"),
        ('{"prompt": "Why?", "response": "Yeast."', "not JSON"),
        ("\x00", "not JSON"),
    ],
    ids=["digits", "deep", "half", "nul"],
)
@pytest.mark.parametrize("command", ["predict", "score"])
def test_a_damaged_row_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, run_folder: Path, command: str, row: str, message: str
) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "Why?", "response": "Yeast."}\n' + row + "\n")
    arguments = {
        "predict": ["predict", "--run", str(run_folder), "--input", "rows.jsonl"],
        "score": ["score", "--run", str(run_folder), "--input", "rows.jsonl", "--output", "scored.parquet"],
    }[command]
    if command == "score":
        run = tmp_path / "run"
        run.mkdir()
        (run / "params.yaml").write_bytes((Path(__file__).parents[2] / "params" / "test.yaml").read_bytes())
        arguments[2] = str(run)
    told = said(monkeypatch, arguments)
    assert "rows.jsonl" in told
    assert "2" in told
    assert message in told
