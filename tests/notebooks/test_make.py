"""What make does again after a change: the notebooks that the change reaches, and no other."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.project_copy import STEPS, Project, times


@contextmanager
def restored(run: Path, extra: Path) -> Iterator[None]:
    """Put back, times included, what a changed parameter or an edited file leaves behind."""
    files = [run / "params.yaml", *(run / ".steps").iterdir(), extra]
    kept = {path: (path.read_bytes(), path.stat()) for path in files}
    try:
        yield
    finally:
        for path, (content, state) in kept.items():
            path.write_bytes(content)
            os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def would_run(project: Project, **changes: str) -> list[str]:
    """What make would do, told by a dry run (which resolves the parameters all the same)."""
    done = project.make("whole", "--dry-run", **changes)
    assert done.returncode == 0, done.stdout + done.stderr
    *steps, last = re.findall(r"realm (?:execute|report) \S*whole ?(\w*)", done.stdout) or [""]
    assert last == "", "the report comes last"
    return sorted(steps)


def test_a_second_make_does_nothing(project: Project, whole: Path) -> None:
    before = times(whole, "**/*")
    again = project.make("whole")
    assert again.returncode == 0, again.stderr
    assert "running" not in again.stdout
    assert "rendering" not in again.stdout
    assert times(whole, "**/*") == before


@pytest.mark.parametrize(
    ("change", "rerun"),
    [
        ({"training.seed": "7"}, STEPS[2:]),
        ({"model.dropout": "0.2"}, STEPS[2:]),
        ({"embedding.batch_size": "4"}, STEPS[1:]),
        ({"offline_models.reward_model.num_epochs": "2"}, STEPS),
        ({"data.seed": "7"}, STEPS),
        ({"rlhf.ppo.seed": "7"}, STEPS[4:]),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_changed_parameter_reruns_what_it_reaches(
    project: Project, whole: Path, change: dict[str, str], rerun: list[str]
) -> None:
    with restored(whole, project.folder / "Makefile"):
        assert would_run(project, **change) == rerun
    assert would_run(project) == []


@pytest.mark.parametrize(
    ("file", "rerun"),
    [
        ("notebooks/03_evaluation.ipynb", STEPS[3:4]),
        ("realm_lib/evaluation/resampling.py", STEPS),  # 00 says with an interval how strong its models are
        ("realm_lib/reward/combiner/network.py", STEPS[2:]),
        ("realm_lib/features/store.py", STEPS[1:]),
        ("realm_lib/data/simulator/knowledge/askvet.yaml", STEPS),
        ("realm_lib/rlhf/ppo/trainer.py", [STEPS[4], STEPS[6]]),  # DPO does not wait for PPO
        ("realm_lib/report/pages/index.py", []),
        ("realm_lib/report/templates/style.css", []),
    ],
)
def test_an_edited_file_reruns_what_depends_on_it(project: Project, whole: Path, file: str, rerun: list[str]) -> None:
    with restored(whole, project.folder / file):
        (project.folder / file).touch()
        assert would_run(project) == rerun
    assert would_run(project) == []


@pytest.mark.parametrize("file", ["README.md", "realm_lib/cli.py", "params/demo.yaml"])
def test_an_edit_that_no_step_reads_reruns_nothing(project: Project, whole: Path, file: str) -> None:
    (project.folder / file).touch()
    assert would_run(project) == []
    assert whole.exists()
