"""One real run of all notebooks through make, and one that is killed twice on the way: made once for all tests here.

They happen in a copy of the project, so that an edit during the tests, or the tests themselves, reach nothing.
"""

import json
import re
from pathlib import Path

import pytest
from support.project_copy import PATIENCE, STEPS, Project, metrics, rows_in, times


def pytest_itemcollected(item: pytest.Item) -> None:
    """Whatever needs the run takes minutes, and may be the one that waits for it."""
    if "project" in getattr(item, "fixturenames", ()):
        item.add_marker(pytest.mark.slow)
        item.add_marker(pytest.mark.timeout(2 * PATIENCE))


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="session")
def whole(project: Project) -> Path:
    """A run from nothing to the report."""
    done = project.make("whole")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "whole is up to date" in done.stdout
    return project.run("whole")


@pytest.fixture(scope="session")
def killed(project: Project) -> Path:
    """The same run with a cache of its own, killed while it scores and again while it trains, then completed."""
    run, cache = project.run("killed"), project.folder / "cache-killed"
    project.make_until("killed", lambda: rows_in(cache) > 0)
    stored = rows_in(cache)
    assert stored > 0
    assert not (run / "metrics" / "features.json").exists(), "killed too late to show anything"
    before = times(run, "notebooks/00*.ipynb", "models/reward_model/*")
    assert before

    checkpoint = run / "models" / ".combiner_checkpoint"
    project.make_until("killed", checkpoint.exists)
    assert not (run / "metrics" / "combiner.json").exists(), "killed too late to show anything"
    before |= times(run, "notebooks/01*.ipynb", "features/*")
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["steps"]["02_combiner_training"]["exit"] == "running"
    assert metrics(run, "features")["cache_hits"] >= stored

    done = project.make("killed")
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(re.findall(r"running (\w+)", done.stdout)) == STEPS[2:]
    assert {name: time_ for name, time_ in times(run, "**/*").items() if name in before} == before
    return run
