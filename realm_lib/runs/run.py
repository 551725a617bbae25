"""A run's folder: where each output lands, written whole or not at all, with its seeds, log and manifest."""

import fcntl
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from realm_lib.config.base import ParamsError, project_root
from realm_lib.config.profile import Params, dump_yaml
from realm_lib.runs.files import atomic_path, write_json, write_table
from realm_lib.runs.functions import function_files
from realm_lib.runs.reading import MissingStepError as MissingStepError  # noqa: PLC0414, it is named as the run's
from realm_lib.runs.reading import read_json
from realm_lib.runs.seeds import seed_everything
from realm_lib.runs.threads import take_threads

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


_SEEDED = ("run", "data", "training")


def _loggable(value: Any) -> Any:
    """``value`` for the log, which must stay strict JSON even when what it reports is NaN."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _loggable(child) for key, child in value.items()}
    if isinstance(value, (list, tuple)):
        return [_loggable(child) for child in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


class Run:
    """The folder of one run, as ``outputs/demo``; see notebooks/README.md for what lies in it."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).resolve()

    @classmethod
    def existing(cls, folder: str | Path) -> Self:
        """The run in ``folder``. Raises :class:`MissingStepError` where none is."""
        run = cls(folder)
        if not run.path("params.yaml").exists():
            file = run.folder.exists() and not run.folder.is_dir()
            reason = "a file, not a folder" if file else f"{run.path('params.yaml')} is missing"
            raise MissingStepError(f"{run.folder}: no run here ({reason}): run `make` first, which writes outputs/demo")
        return run

    def path(self, *parts: str) -> Path:
        """A path inside the run."""
        return self.folder.joinpath(*parts)

    def require(self, *parts: str, made_by: str) -> Path:
        """A path that an earlier notebook makes; :class:`MissingStepError` names that notebook when it is missing."""
        path = self.path(*parts)
        if not path.exists():
            fault = f"{path} is missing: run notebook {made_by} first (or `make`, which runs them all)"
            raise MissingStepError(fault if self.folder.is_dir() else f"{self.folder}: no run here: {fault}")
        return path

    def write_metrics(self, name: str, content: Mapping[str, Any]) -> dict[str, Any]:
        """Write metrics/NAME.json and return it as read back, so that what is shown is what was written."""
        write_json(self.path("metrics", f"{name}.json"), content)
        self.log("metrics", name=name)
        return self.read_metrics(name)

    def read_metrics(self, name: str) -> dict[str, Any]:
        """metrics/NAME.json of this run."""
        return read_json(self.path("metrics", f"{name}.json"))

    def write_table(self, table: "pd.DataFrame", *parts: str, note: Mapping[str, Any] | None = None) -> None:
        """Write ``table`` as parquet to :meth:`path` of ``parts``; see :func:`realm_lib.runs.files.write_table`."""
        write_table(self.path(*parts), table, note)

    def save_figure(self, figure: "Figure", name: str) -> None:
        """Write figures/NAME.png and figures/NAME.svg, the same bytes for the same figure."""
        import matplotlib as mpl

        for suffix, options in (("png", {"dpi": 160}), ("svg", {"metadata": {"Date": None}})):
            path = self.path("figures", f"{name}.{suffix}")
            # Without a salt the ids inside an SVG are random.
            with atomic_path(path) as temporary, mpl.rc_context({"svg.hashsalt": name}):
                figure.savefig(temporary, bbox_inches="tight", **options)

    def log(self, event: str, **fields: Any) -> None:
        """Append one line to logs/run.jsonl: time, event, fields. NaN and infinity are logged as text."""
        line = json.dumps(_loggable({"time": _now(), "event": event, **fields}), allow_nan=False)
        path = self.path("logs", "run.jsonl")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    @property
    def manifest(self) -> dict[str, Any]:
        """manifest.json as it stands; empty before the first step."""
        path = self.path("manifest.json")
        return read_json(path) if path.exists() else {}

    @contextmanager
    def step(self, name: str, params: Params) -> Iterator[None]:
        """Record a step in manifest.json: when it began, how long it took and how it ended (ok, failed, running)."""
        self._update_manifest(params, name, {"started": _now(), "seconds": None, "exit": "running"})
        start = time.monotonic()
        exit_word = "failed"
        try:
            yield
            exit_word = "ok"
        except KeyboardInterrupt:
            exit_word = "interrupted"
            raise
        finally:
            seconds = round(time.monotonic() - start, 1)
            self._update_manifest(params, name, {"seconds": seconds, "exit": exit_word})
            self.log("step", name=name, seconds=seconds, exit=exit_word)

    def _update_manifest(self, params: Params, step: str, fields: Mapping[str, Any]) -> None:
        """One process at a time: steps that make runs in parallel update the same manifest."""
        self.folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            self._rewrite_manifest(params, step, fields)
        finally:
            os.close(descriptor)

    def _rewrite_manifest(self, params: Params, step: str, fields: Mapping[str, Any]) -> None:
        manifest = self.manifest
        steps = manifest.get("steps", {})
        steps[step] = {**steps.get(step, {}), **fields}
        # A notebook has some sections only; the other seeds were written by the notebooks that have them.
        seeds = {name: getattr(params, name).seed for name in _SEEDED if name in params.sections}
        rlhf = params.rlhf if "rlhf" in params.sections else None
        trained = (("ppo", rlhf.ppo), ("dpo", rlhf.dpo)) if rlhf else ()
        seeds |= {name: section.seed for name, section in trained if section}
        resolved = self.path("params.yaml")
        text = resolved.read_bytes() if resolved.exists() else dump_yaml(params).encode()
        packages = sorted(importlib.metadata.distributions(), key=lambda package: package.metadata["Name"].lower())
        content = {
            "run": params.run.name,
            "commit": source_commit(),
            "params_sha256": hashlib.sha256(text).hexdigest(),
            "seeds": {**manifest.get("seeds", {}), **seeds},
            "hardware": _hardware(),
            "python": platform.python_version(),
            "packages": {package.metadata["Name"]: package.version for package in packages},
            "steps": dict(sorted(steps.items())),
        }
        write_json(self.path("manifest.json"), content)


def open_run(params: Params) -> Run:
    """Make the run's folder, seed everything from ``run.seed``, take ``run.threads``; what a notebook calls first.

    Raises :class:`ParamsError` when the folder cannot be written, and for a signal's function that is not there: before
    anything is computed.
    """
    if "signals" in params.sections:
        function_files(params.signals)
    run = Run(params.run.folder)
    try:
        run.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=run.folder):
            pass
    except OSError as error:
        reason = f"cannot write to {run.folder}: {error.strerror}"
        raise ParamsError(f"run.output_dir: {reason}; choose another folder") from error
    seed_everything(params.run.seed)
    if params.run.threads:
        take_threads(params.run.threads)
    return run


def source_commit() -> dict[str, Any]:
    """The commit of the source and whether files differ from it; null outside a git checkout."""
    git = ["git", "-C", str(project_root())]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        status = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return {"id": None, "dirty": None}
    return {"id": commit.stdout.strip(), "dirty": bool(status.stdout.strip())}


def _hardware() -> dict[str, Any]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "machine": platform.machine(),
        "system": platform.system(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory, 1),
        "gpus": gpus(),
    }


def gpus() -> list[str]:
    """The names of the GPUs as nvidia-smi gives them; importing torch for this would cost seconds in every step."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        listing = subprocess.run(query, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return []
    return [line.strip() for line in listing.stdout.splitlines() if line.strip()]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def show_progress() -> bool:
    """Whether somebody watches: make sets REALM_QUIET, so that progress bars stay out of executed notebooks."""
    return not os.environ.get("REALM_QUIET")
