"""The shell's door: what each command prints, and that a user's error is one message and exit code 1."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from realm_lib import cli

ROOT = Path(__file__).parents[1]
REALM = Path(sys.executable).parent / "realm"
NOTEBOOK = """\
from realm_lib.config.profile import Params
from realm_lib.data.pairs import load_pairs

pairs = load_pairs(Params.from_sections(run=run, data=data).data, "test")"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with one notebook that loads pairs, as the working directory."""
    cells = [
        {
            "cell_type": "code",
            "source": text,
            "metadata": {"tags": tags},
            "outputs": [],
            "execution_count": None,
            "id": n,
        }
        for n, text, tags in (("a", "run = {}\ndata = {}", ["parameters"]), ("b", NOTEBOOK, []))
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    content = {"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "01_load.ipynb").write_text(json.dumps(content))
    (tmp_path / "params").mkdir()
    (tmp_path / "params" / "demo.yaml").write_bytes((ROOT / "params" / "test.yaml").read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def realm(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> object:
    """What ``realm`` exits with: an exit code, or the message that goes to standard error with exit code 1."""
    monkeypatch.setattr(sys, "argv", ["realm", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code


def in_a_shell(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([REALM, *arguments], capture_output=True, text=True, check=False, timeout=300)


def test_help_lists_the_commands(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert realm(monkeypatch, "--help") == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("predict", "score", "prepare", "execute", "report", "verify"))


@pytest.mark.parametrize("command", ["predict", "score", "prepare", "execute", "report", "verify"])
def test_each_command_says_what_it_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    assert realm(monkeypatch, command, "--help") == 0
    shown = capsys.readouterr().out
    assert "Usage: " in shown
    assert f" {command} [OPTIONS]" in shown


def test_prepare_prints_the_folder_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], project: Path
) -> None:
    """make reads it."""
    arguments = ("prepare", "demo", "--set", "run.name=mine", "--set", "training.seed=7")
    assert realm(monkeypatch, *arguments) == 0
    assert capsys.readouterr().out == "outputs/mine\n"
    assert yaml.safe_load((project / "outputs" / "mine" / "params.yaml").read_text())["training"]["seed"] == 7


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prepare", "nope"], "params/nope.yaml: no such parameter file"),
        (["prepare", "nope.yaml"], "nope.yaml: no such parameter file"),
        (["prepare", "demo", "--set", "training.seeed=7"], "training.seeed: unknown key"),
        (["prepare", "demo", "--set", "trainning.seed=7"], "trainning"),
        (["prepare", "demo", "--set", "training.seed=seven"], "training.seed"),
        (["prepare", "demo", "--set", "training.learning_rate=1e-3"], "write 1.0e-3"),
        (["prepare", "demo", "--set", "training.seed"], "section.key=value"),
        (["prepare", "demo", "--set", "run.output_dir=params/demo.yaml"], "cannot write to"),
        (["prepare", "demo", "--set", "run.name=a/b"], "run.name"),
        (["execute", "outputs/nope", "01_load"], "outputs/nope/params.yaml"),
        (["report", "outputs/nope"], "run `make`"),
        (["verify", "outputs/nope", "outputs/nope"], "outputs/nope"),
        (["predict", "--run", "outputs/nope", "--prompt", "a", "--response", "b"], "02_combiner_training"),
    ],
)
def test_a_users_error_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    said = realm(monkeypatch, *arguments)
    assert isinstance(said, str), "Python prints a string to standard error and exits with 1"
    assert said.startswith("realm: ")
    assert message in said
    assert "\n" not in said
    assert capsys.readouterr().out == ""


def test_in_a_shell_too(project: Path) -> None:
    done = in_a_shell("prepare", "demo", "--set", "training.seeed=7")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == "realm: params/demo.yaml with overrides: training.seeed: unknown key\n".replace(
        "params/", f"{project}/params/"
    )


def test_a_mistyped_command_is_a_usage_error() -> None:
    done = in_a_shell("prepair")
    assert done.returncode == 2
    assert "prepair" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message without its place would hide a defect of the library."""

    @cli.app.command(name="divide")
    def divide() -> None:
        raise ValueError("ours")

    try:
        monkeypatch.setattr(sys, "argv", ["realm", "divide"])
        with pytest.raises(ValueError, match="ours"):
            cli.main()
    finally:
        cli.app.registered_commands.pop()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (None, "pairs.jsonl"),
        ('{"post_id": "p", "history": "Why?"}\n', "human_ref_A"),
        ('{"post_id": "p", "history": "Why?", "human_ref_A": "Yes."\n', "row 1"),
    ],
    ids=["no file", "no column", "a broken row"],
)
def test_unusable_pairs_stop_the_notebook_with_their_place(
    monkeypatch: pytest.MonkeyPatch, project: Path, rows: str | None, message: str
) -> None:
    if rows is not None:
        (project / "pairs.jsonl").write_text(rows)
    arguments = ("prepare", "demo", "--set", "data.source=local", "--set", "data.path=pairs.jsonl")
    assert realm(monkeypatch, *arguments) == 0
    said = realm(monkeypatch, "execute", "outputs/test", "01_load")
    assert isinstance(said, str)
    first, *rest = said.splitlines()
    assert first.startswith("realm: 01_load.ipynb, cell ")
    assert "PairsError: " in first
    assert message in first
    assert any("load_pairs" in line for line in rest), "the cell is shown"
    assert "Traceback" not in said
    assert (project / "outputs" / "test" / "notebooks" / "01_load.failed.ipynb").exists()


def test_verify_lists_what_differs_and_exits_with_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for name, pairs in (("a", 10), ("b", 11)):
        (tmp_path / name / "metrics").mkdir(parents=True)
        (tmp_path / name / "params.yaml").write_text("run: {seed: 42}\n")
        (tmp_path / name / "metrics" / "features.json").write_text(json.dumps({"pairs": pairs}))
    assert realm(monkeypatch, "verify", str(tmp_path / "a"), str(tmp_path / "b")) == 1
    assert capsys.readouterr().out == "metrics/features.json: pairs is 10, was 11 in the reference\n"
    assert realm(monkeypatch, "verify", str(tmp_path / "a"), str(tmp_path / "a")) == 0
    assert "reproduces" in capsys.readouterr().out
