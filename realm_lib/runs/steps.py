"""How far the notebooks of a run are: make's own view of them, read and never written."""

import fcntl
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from realm_lib.config.base import project_root
from realm_lib.runs.reading import MissingStepError, read_text
from realm_lib.runs.run import Run

State = Literal["done", "stale", "running", "failed", "stopped", "left"]
"""stale: done, and what it depends on has changed since. stopped: it was begun, and ended neither well nor badly."""
_ENDS: dict[str, State] = {"failed": "failed", "running": "stopped", "interrupted": "stopped"}


@dataclass(frozen=True)
class Step:
    """One notebook of a run."""

    name: str
    state: State
    started: str | None
    """When it was last begun, in ISO 8601; None where it never was."""
    seconds: float | None
    """How long it took when it last ended."""


def steps_of(run: Run) -> list[Step]:
    """The notebooks of a run in their order. Raises :class:`MissingStepError` where `realm prepare` never was."""
    rules = _rules(run)
    kept = run.manifest.get("steps", {})
    steps: list[Step] = []
    again: set[str] = set()
    for name, needs in rules.items():
        entry = kept.get(name, {})
        if not _is_current(run, name, needs, again):
            again.add(name)
        ended = entry.get("exit")
        if _at_work(run, name):
            state: State = "running"
        elif name not in again:
            state = "done"
        elif ended in _ENDS:
            state = _ENDS[ended]
        else:
            state = "stale" if run.path("notebooks", f"{name}.ipynb").exists() else "left"
        steps.append(Step(name, state, entry.get("started"), entry.get("seconds")))
    return steps


def is_done(steps: Iterable[Step], name: str | None = None) -> bool:
    """Whether all notebooks are done, or the one of that ``name``."""
    asked = [step.state for step in steps if name in (None, step.name)]
    return bool(asked) and set(asked) == {"done"}


def seconds_so_far(steps: Iterable[Step]) -> float:
    """What notebooks have taken when they last ended, and those at work until now."""
    now = datetime.now(UTC)
    return sum(_since(step.started, now) if step.state == "running" else step.seconds or 0.0 for step in steps)


def _since(started: str | None, now: datetime) -> float:
    return (now - datetime.fromisoformat(started)).total_seconds() if started else 0.0


@contextmanager
def at_work(run: Run, name: str) -> Iterator[None]:
    """Hold a mark that the notebook ``name`` is being executed; it goes with the process, however that ends."""
    descriptor = os.open(run.path(".steps", f"{name}.yaml"), os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


def _at_work(run: Run, name: str) -> bool:
    """Whether a process holds :func:`at_work`'s mark: a manifest says "running" of a killed one too."""
    descriptor = os.open(run.path(".steps", f"{name}.yaml"), os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _rules(run: Run) -> dict[str, list[str]]:
    """What each notebook depends on beside itself and its parameters, as `realm prepare` wrote it for make."""
    path = run.path(".steps", "depends.mk")
    if not path.exists():
        raise MissingStepError(f"{path} is missing: run `make` first, which prepares the run")
    first, *lines = read_text(path).splitlines()
    needs = dict.fromkeys(first.partition(":=")[2].split(), "")
    needs |= {Path(target).stem: rest for target, _, rest in (line.partition(": ") for line in lines)}
    return {
        name: [need.replace("\\ ", " ") for need in re.split(r"(?<!\\) +", rest) if need]
        for name, rest in needs.items()
    }


def _is_current(run: Run, name: str, needs: list[str], again: set[str]) -> bool:
    """Whether the executed notebook is newer than all that it depends on, and none of that is made ``again``."""
    made = run.path("notebooks", f"{name}.ipynb")
    root = project_root()
    files = [root / "notebooks" / f"{name}.ipynb", run.path(".steps", f"{name}.yaml")]
    for need in needs:
        if need.startswith("$(RUN)/"):
            if Path(need).stem in again:
                return False
            files.append(run.path(need.removeprefix("$(RUN)/")))
        else:
            files.append(root / need)
    if not made.exists():
        return False
    time = made.stat().st_mtime_ns
    return all(file.exists() and file.stat().st_mtime_ns <= time for file in files)
