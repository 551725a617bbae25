"""Keeping a finished run as the reference that others are compared with: the part of it that git keeps."""

import shutil
from pathlib import Path

from realm_lib.runs.files import atomic_path
from realm_lib.runs.run import MissingStepError, Run

_FIGURES = ("evaluation_accuracy.svg",)
"""The run's figures that the README shows."""


def keep_reference(run: Path, reference: Path) -> list[Path]:
    """Copy parameters, manifest, metrics and the README's figures of ``run`` into ``reference``; what was copied.

    Metrics that the run does not have are removed, as is the spread of older runs, which says nothing of this one.
    Raises :class:`MissingStepError` when the run has no parameters, no manifest, no metrics or lacks such a figure.
    """
    Run.existing(run)
    files = [run / "params.yaml", run / "manifest.json", *(run / "figures" / name for name in _FIGURES)]
    metrics = sorted((run / "metrics").glob("*.json"))
    missing = [path for path in files if not path.exists()] or ([] if metrics else [run / "metrics" / "*.json"])
    if missing:
        raise MissingStepError(f"{missing[0]} is missing: the run is not finished")
    for old in [*(reference / "metrics").glob("*.json"), reference / "spread.json"]:
        old.unlink(missing_ok=True)
    copied = []
    for path in [*files, *metrics]:
        target = reference / path.relative_to(run)
        with atomic_path(target) as temporary:
            shutil.copyfile(path, temporary)
        copied.append(target)
    return copied
