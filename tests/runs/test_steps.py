"""How far a run's notebooks are, as make would see them."""

import os
from pathlib import Path

import pytest

from realm_lib.runs.run import MissingStepError, Run
from realm_lib.runs.steps import at_work, is_done, seconds_so_far, steps_of

NAMES = ("01_first", "02_second", "03_third")
OLD, NEW = 1_700_000_000, 1_700_000_100


def at(path: Path, time: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    os.utime(path, (time, time))
    return path


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Three notebooks, each after the one before, all executed after all that they depend on."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params").mkdir()
    run = Run(tmp_path / "out")
    rules = [f"STEPS := {' '.join(NAMES)}"]
    for place, name in enumerate(NAMES):
        at(tmp_path / "notebooks" / f"{name}.ipynb", OLD)
        at(run.path(".steps", f"{name}.yaml"), OLD)
        at(run.path("notebooks", f"{name}.ipynb"), NEW + place)
        before = f" $(RUN)/notebooks/{NAMES[place - 1]}.ipynb" if place else ""
        rules.append(f"$(RUN)/notebooks/{name}.ipynb: a\\ library.py{before}")
    at(tmp_path / "a library.py", OLD)
    run.path(".steps", "depends.mk").write_text("\n".join(rules) + "\n")
    steps = {name: {"started": "2026-11-27T08:00:00+00:00", "seconds": 10.0, "exit": "ok"} for name in NAMES}
    run.path("manifest.json").write_text(str({"steps": steps}).replace("'", '"'))
    return run


def states(run: Run) -> list[str]:
    return [step.state for step in steps_of(run)]


def test_what_is_newer_than_all_that_it_depends_on_is_done(run: Run) -> None:
    assert states(run) == ["done"] * 3
    assert is_done(steps_of(run))
    assert seconds_so_far(steps_of(run)) == 30.0


def test_a_changed_file_makes_stale_what_depends_on_it_and_what_comes_after(run: Run) -> None:
    at(run.path(".steps", "02_second.yaml"), NEW + 50)
    assert states(run) == ["done", "stale", "stale"]
    assert is_done(steps_of(run), "01_first")
    assert not is_done(steps_of(run), "02_second")
    assert not is_done(steps_of(run), "99_unknown")
    at(run.folder.parent / "a library.py", NEW + 50)
    assert states(run) == ["stale"] * 3


def test_a_notebook_at_work_is_told_from_one_that_was_killed(run: Run) -> None:
    """The manifest says "running" of both; the mark goes with the process."""
    manifest = run.path("manifest.json")
    manifest.write_text(manifest.read_text().replace('"ok"', '"running"'))
    run.path("notebooks", "03_third.ipynb").unlink()
    assert states(run) == ["done", "done", "stopped"]
    with at_work(run, "03_third"):
        assert states(run) == ["done", "done", "running"]
        assert seconds_so_far(steps_of(run)) > 1000
    assert states(run) == ["done", "done", "stopped"]


def test_one_that_never_ran_is_left_and_one_that_failed_says_so(run: Run) -> None:
    run.path("notebooks", "03_third.ipynb").unlink()
    manifest = run.path("manifest.json")
    manifest.write_text(manifest.read_text().replace('"ok"', '"failed"'))
    assert states(run) == ["done", "done", "failed"]
    manifest.unlink()
    assert states(run) == ["done", "done", "left"]


def test_a_run_that_was_not_prepared_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MissingStepError, match="run `make` first"):
        steps_of(Run(tmp_path))
