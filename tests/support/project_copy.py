"""A copy of the project in which make runs the notebooks, and what its runs leave."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[2]
STEPS = [
    "00_offline_models",
    "01_feature_extraction",
    "02_combiner_training",
    "03_evaluation",
    "04_ppo",
    "05_dpo",
    "06_policy_comparison",
]
METRICS = ["offline_models", "features", "combiner", "evaluation", "ppo", "dpo", "policies"]
BIN = Path(sys.executable).parent
PATIENCE = 900.0  # seconds; a run takes about one minute on two idle cores


class Project:
    """A copy of the project, with make in the environment that runs these tests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("notebooks", "params", "realm_lib"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("Makefile", "pyproject.toml", "constraints.txt"):
            shutil.copy2(ROOT / name, folder / name)

    def command(self, run: str, *options: str, **changes: str) -> list[str]:
        """make for the run ``run``. ``-o``: whoever runs the tests has installed the project, nothing is installed."""
        settings = {
            "run.name": run,
            "run.output_dir": f"{self.folder}/outputs",
            "data.preprocessing.cache_dir": f"{self.folder}/cache-{run}",
            "data.preprocessing.batch_size": "32",  # several commits, so that a kill can fall between two
            **changes,
        }
        text = " ".join(f"{key}={value}" for key, value in settings.items())
        return ["make", "run", "-o", f"{BIN}/.installed", f"BIN={BIN}", "PROFILE=test", f"SET={text}", *options]

    @property
    def environment(self) -> dict[str, str]:
        # What an outer `make test` says to its own recipes is not for this make.
        outer = ("MAKE", "MFLAGS", "PROFILE", "SET", "RUN", "BIN", "VENV", "REALM_", "PYTEST")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(outer)}
        # Agg is what many servers set, and what would keep figures out of a notebook.
        return {**kept, "PYTHONPATH": str(self.folder), "MPLBACKEND": "Agg"}

    def make(self, run: str, *options: str, **changes: str) -> "subprocess.CompletedProcess[str]":
        command = self.command(run, *options, **changes)
        return self._call(command)

    def realm(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return self._call([str(BIN / "realm"), *arguments])

    def _call(self, command: list[str]) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    def make_until(self, run: str, reached: Callable[[], bool], **changes: str) -> str:
        """Start make, and kill -9 it with everything that it started as soon as ``reached`` is true; what it said."""
        log = self.folder / f"{run}.log"
        with log.open("w") as file:
            process = psutil.Popen(
                self.command(run, **changes),
                cwd=self.folder,
                env=self.environment,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + PATIENCE
        try:
            while not reached():
                assert process.poll() is None, f"make ended before it could be killed:\n{log.read_text()}"
                assert time.monotonic() < deadline, f"make never got there:\n{log.read_text()}"
                time.sleep(0.005)
        finally:
            # Kernels lead sessions of their own: a process group would miss them, and they would finish the work.
            # Parents first: make would end by itself, with a code of its own, once what it waits for is gone.
            family = [process, *process.children(recursive=True)]
            for member in family:
                with_patience(member.send_signal, signal.SIGKILL)
            psutil.wait_procs(family, timeout=30)
        assert process.wait() == -signal.SIGKILL
        return log.read_text()

    def run(self, name: str) -> Path:
        return self.folder / "outputs" / name


def with_patience(act: Callable[[Any], Any], argument: Any) -> None:
    """``act`` on a process that may have ended meanwhile."""
    try:
        act(argument)
    except psutil.NoSuchProcess:
        return


def rows_in(cache: Path) -> int:
    """Scores that are committed in a feature store."""
    total = 0
    for file in cache.glob("score-*.sqlite"):
        try:
            connection = sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=5)
            try:
                total += connection.execute("SELECT count(*) FROM entries").fetchone()[0]
            finally:
                connection.close()
        except sqlite3.OperationalError:
            continue  # its table is being made
    return total


def metrics(run: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "metrics" / f"{name}.json").read_text(encoding="utf-8"))
    return found


def times(run: Path, *patterns: str) -> dict[str, int]:
    files = [path for pattern in patterns for path in run.glob(pattern) if path.is_file()]
    return {str(path.relative_to(run)): path.stat().st_mtime_ns for path in files}
