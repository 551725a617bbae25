"""The numbers of a training in tensorboard, wandb, trackio or a tracker of one's own, through accelerate's trackers.

A tracker only adds: what was told cannot be taken back. So what was told is noted beside the log, before it is told,
and a training that goes on after a kill tells only what comes after: updates that it makes again are not told again,
and the same run of the tracker is gone on with. A kill between note and tracker loses one step there; the run's own
logs/NAME.jsonl has every step.
"""

import importlib.util
import json
import math
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from realm_lib.config.base import ParamsError
from realm_lib.runs.files import write_json
from realm_lib.runs.run import Run

_PACKAGES = ("tensorboard", "wandb", "trackio")
_PROJECT = "realm"


class Tracking:
    """The trackers of one training; it does nothing without any, and in all processes but one."""

    def __init__(self, trackers: Sequence[Any], note: Path | None, told: dict[str, Any]) -> None:
        self._trackers, self._note, self._told = list(trackers), note, told

    @classmethod
    def start(
        cls,
        report_to: Sequence[str],
        name: str,
        identity: str,
        settings: Mapping[str, Any],
        run: Run | None,
        *,
        is_main: bool = True,
    ) -> Self:
        """Start the trackers ``report_to`` for the training ``name``, or go on with those of the same ``identity``.

        ``settings`` are shown beside the numbers; keys that name a secret are left out, though they hold its name only.
        wandb stays offline unless WANDB_MODE is set, and trackio is local. tensorboard writes into logs/tensorboard of
        ``run``. Raises :class:`ParamsError` for a tracker that is not known, not installed, or needs a run.
        """
        for tracker in report_to:
            _check(tracker, run)
        if not report_to or not is_main:
            return cls([], None, {})
        note = None if run is None else run.path("logs", f".{name}_tracked.json")
        told = _read(note, identity) or {
            "identity": identity,
            "run": f"{name}-{identity[:8]}-{datetime.now(UTC):%Y%m%d-%H%M%S}",
            "steps": {},
        }
        trackers = [_started(tracker, told["run"], run) for tracker in dict.fromkeys(report_to)]
        if not told["steps"]:
            shown = _flat(settings)
            for started in trackers:
                started.store_init_configuration(shown)
        return cls(trackers, note, told)

    def tell(self, kind: str, row: Mapping[str, Any]) -> None:
        """Tell the finite numbers of ``row`` as KIND/COLUMN at its ``step``, unless this step was told before."""
        step = int(row["step"])
        if not self._trackers or step <= self._told["steps"].get(kind, -1):
            return
        self._told["steps"][kind] = step
        if self._note is not None:
            write_json(self._note, self._told)
        numbers = {f"{kind}/{name}": float(value) for name, value in row.items() if name != "step" and _finite(value)}
        for tracker in self._trackers:
            tracker.log(numbers, step=step)

    def finish(self) -> None:
        """Close the trackers; the same training, started once more, is another run of theirs."""
        for tracker in self._trackers:
            tracker.finish()
        if self._note is not None:
            self._note.unlink(missing_ok=True)
        self._trackers = []


def _check(name: str, run: Run | None) -> None:
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    known = LOGGER_TYPE_TO_CLASS.get(name)
    own = known is not None and not known.__module__.startswith("accelerate.")
    if not own and name not in _PACKAGES:
        raise ParamsError(
            f"report_to: {name!r} is none of {', '.join(_PACKAGES)}, and no tracker of that name was registered with "
            "accelerate.tracking.register_tracker_class"
        )
    if not own and importlib.util.find_spec(name) is None:
        raise ParamsError(f"report_to: {name} is not installed: pip install {name}, or take it out of report_to")
    if known.requires_logging_directory and run is None:
        raise ParamsError(
            f"report_to: {name} writes into a run's folder, and this training has none: give run=Run(...)"
        )


def _started(name: str, run_name: str, run: Run | None) -> Any:
    """The tracker, made as accelerate makes it; its own name for what it shows is the run's."""
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    kind = LOGGER_TYPE_TO_CLASS[name]
    if kind.requires_logging_directory:
        assert run is not None
        tracker = kind(run_name, str(run.path("logs", name)))
    elif name == "wandb":
        mode = os.environ.get("WANDB_MODE", "offline")
        tracker = kind(_PROJECT, name=run_name, id=run_name, resume="allow", mode=mode)
    elif name == "trackio":
        tracker = kind(_PROJECT, name=run_name, resume="allow")
    else:
        tracker = kind(run_name)
    tracker.start()
    return tracker


def _read(note: Path | None, identity: str) -> dict[str, Any] | None:
    """What was told by a killed training of this identity."""
    if note is None or not note.is_file():
        return None
    told: dict[str, Any] = json.loads(note.read_text(encoding="utf-8"))
    return told if told["identity"] == identity else None


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as ``lora.r``: numbers and words, and lists as words."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        elif value is not None and "key" not in key:
            flat[f"{prefix}{key}"] = value if isinstance(value, bool | int | float | str) else str(value)
    return flat
