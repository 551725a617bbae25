"""The shell's door: what each command prints, and that a user's error is one message and exit code 1."""

import json
import re
import shutil
import subprocess
import sys
import tempfile
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
    assert all(
        name in shown
        for name in (
            "predict",
            "score",
            "plan",
            "status",
            "prepare",
            "execute",
            "report",
            "verify",
            "reference",
            "spread",
            "tables",
        )
    )


@pytest.mark.parametrize(
    "command",
    ["predict", "score", "plan", "status", "prepare", "execute", "report", "verify", "reference", "spread", "tables"],
)
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
        (["plan", "nope"], "params/nope.yaml: no such parameter file"),
        (["status", "outputs/nope"], "run `make` first"),
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


@pytest.mark.usefixtures("project")
def test_a_plan_is_said_and_what_would_stop_the_run_ends_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = ("--set", "run.name=mine data.preprocessing.cache_dir=cache")
    assert realm(monkeypatch, "plan", "demo", *changes) == 0
    assert "Nothing that was looked at would stop this run." in capsys.readouterr().out
    said = realm(monkeypatch, "plan", "demo", *changes, "--set", "data={source: local, path: nowhere}", "--json")
    assert isinstance(said, str)
    assert said.startswith("realm: 1 thing would stop this run; nothing was loaded or paid:\n- data: data.path: ")
    assert json.loads(capsys.readouterr().out)["faults"][0].startswith("data: data.path: ")
    assert realm(monkeypatch, "prepare", "demo", *changes) == 0
    capsys.readouterr()
    assert realm(monkeypatch, "plan", "outputs/mine", "--brief") == 0
    assert capsys.readouterr().out.startswith("mine: 227 pairs of the simulator")
    assert realm(monkeypatch, "status", "outputs/mine") == 0
    assert "0 of 1 notebooks done; left: 01_load" in capsys.readouterr().out


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


def test_a_fault_of_ours_keeps_its_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A message without its place would hide a defect of the library."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    @cli.app.command(name="divide")
    def divide() -> None:
        raise ValueError("ours")

    try:
        assert realm(monkeypatch, "divide") == 70
    finally:
        cli.app.registered_commands.pop()
    (kept,) = tmp_path.glob("realm-fault-*.txt")
    said = capsys.readouterr().err
    assert "ValueError in test_cli.py" in said
    assert "https://" in said
    assert str(kept) in said
    assert "in divide\n" in kept.read_text()
    assert "ValueError: ours" in kept.read_text()


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


def write_run(folder: Path, **metrics: object) -> str:
    (folder / "metrics").mkdir(parents=True)
    (folder / "figures").mkdir()
    (folder / "params.yaml").write_text("run: {seed: 42}\n")
    (folder / "manifest.json").write_text("{}\n")
    (folder / "figures" / "evaluation_accuracy.svg").write_text("<svg/>")
    (folder / "metrics" / "features.json").write_text(json.dumps({"pairs": 10, "seconds": 1.0, **metrics}))
    return str(folder)


def test_verify_shows_what_is_outside_and_exits_with_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    one, other = write_run(tmp_path / "one"), write_run(tmp_path / "other", pairs=11, tokens=5)
    assert realm(monkeypatch, "verify", other, one) == 1
    shown = capsys.readouterr().out
    assert re.search(r"^features: pairs +10 +11 +\+1 +0 +OUTSIDE$", shown, flags=re.MULTILINE)
    assert re.search(r"^features: tokens +5 +OUTSIDE: not in the reference$", shown, flags=re.MULTILINE)
    assert shown.splitlines()[-1] == f"{other} does not reproduce {one}: 2 values outside the tolerances"
    kept = (tmp_path / "other" / "verification.csv").read_text().splitlines()
    assert "features.json,pairs,10,11,1,0,OUTSIDE" in kept


def test_verify_ends_well_for_a_run_that_reproduces(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    one, other = write_run(tmp_path / "one"), write_run(tmp_path / "other", seconds=2.0)
    assert realm(monkeypatch, "verify", other, one) == 0
    shown = capsys.readouterr().out
    assert "features: pairs" not in shown
    assert "not compared, a timing: 1 number" in shown
    assert shown.splitlines()[-1].startswith(f"{other} reproduces {one}")
    assert realm(monkeypatch, "verify", other, one, "--all") == 0
    assert re.search(r"^features: pairs +10 +10 +\+0 +0 +same$", capsys.readouterr().out, flags=re.MULTILINE)


def test_a_reference_is_kept_and_its_spread_allows_what_moved(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    one, other, third = (write_run(tmp_path / str(index), loss=loss) for index, loss in enumerate((0.5, 0.6, 0.75)))
    reference = str(tmp_path / "reference")
    assert realm(monkeypatch, "reference", one, reference) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4
    assert realm(monkeypatch, "verify", third, reference) == 1
    assert realm(monkeypatch, "spread", reference, other) == 0
    assert "spread.json: 1 kind of number moves between 2 runs" in capsys.readouterr().out
    assert realm(monkeypatch, "verify", third, reference) == 0
    assert realm(monkeypatch, "spread", reference, other, third) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{third} by the others: 0 of 4 outside"


def test_tables_are_written_once_and_checked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    reference = tmp_path / "outputs" / "reference" / "demo"
    shutil.copytree(ROOT / "outputs" / "reference" / "demo" / "metrics", reference / "metrics")
    (tmp_path / "docs").mkdir()
    for name in ("README.md", "docs/measurements.md"):
        (tmp_path / name).write_text("<!-- realm: demo_rewards -->\n<!-- end -->\n")
    monkeypatch.chdir(tmp_path)
    assert realm(monkeypatch, "tables", "--check") == 1
    assert "README.md: is not what the reference gives: run `make tables`" in capsys.readouterr().out
    assert realm(monkeypatch, "tables") == 0
    assert "docs/measurements.md: written" in capsys.readouterr().out
    assert realm(monkeypatch, "tables", "--check") == 0
