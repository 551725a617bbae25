"""The state of a training in safetensors, written whole or not at all: one file, or one for each part of cut weights.

There are no generators to save: every random number comes from the seed, the step and the episode's number.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from realm_lib.rlhf.errors import PPOError
from realm_lib.rlhf.ppo.processes import Processes
from realm_lib.runs.files import atomic_path, write_json

_log = logging.getLogger(__name__)


@dataclass
class Progress:
    """All of a training besides tensors: counts, coefficients, and what was logged."""

    step: int = 0
    """Updates done; the position in the prompts follows from it."""
    kl_coefficient: float = 0.0
    reward_scale: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    """One row an update: what logs/ppo.jsonl holds."""
    evaluations: list[dict[str, float]] = field(default_factory=list)
    samples: list[dict[str, Any]] = field(default_factory=list)
    judged: list[dict[str, Any]] = field(default_factory=list)
    """The held-out answers before training, where others choose."""
    best_step: int = 0
    references: dict[str, float] = field(default_factory=dict)
    """What the policy as it came gets for each prompt (its index) of the training, with ``reference_samples``."""
    rollouts: list[dict[str, float]] = field(default_factory=list)
    """The first responses' rewards, plain and transformed."""


def fingerprint(settings: Mapping[str, Any], rows: Sequence[Any], parameters: Mapping[str, Tensor]) -> str:
    """A hash of all that decides a training: settings, torch's version, and the weights it starts from.

    ``rows`` is what else does: the prompts' tokens, and which reward it is. Of each tensor about a thousand numbers are
    read.
    """
    digest = hashlib.sha256(json.dumps([settings, rows, torch.__version__], sort_keys=True).encode())
    for name, value in parameters.items():
        flat = value.detach().flatten()
        some = flat[:: max(1, len(flat) // 1024)].float().cpu().numpy()
        digest.update(f"{name} {list(value.shape)}".encode() + some.tobytes())
    return digest.hexdigest()


def save(
    path: Path,
    identity: str,
    progress: Progress,
    parameters: Mapping[str, Tensor],
    best: Mapping[str, Tensor],
    optimiser: torch.optim.Optimizer,
) -> None:
    """Write everything that a killed training needs to go on; one file, so that its parts are of one step."""
    tensors = {f"parameter/{name}": value.detach() for name, value in parameters.items()}
    tensors |= {f"best/{name}": value for name, value in best.items()}
    for number, moments in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser/{number}/{name}": value for name, value in moments.items()}
    metadata = {"identity": identity, "progress": json.dumps(vars(progress), allow_nan=False)}
    # Tensors that share memory are refused by safetensors, hence the copies.
    copies = {name: value.cpu().clone().contiguous() for name, value in tensors.items()}
    try:
        with atomic_path(path) as temporary:
            save_file(copies, temporary, metadata)
    except (OSError, SafetensorError) as error:
        raise PPOError(f"{path}: the checkpoint cannot be written: {error}") from error


def restore(
    path: Path, identity: str, parameters: Mapping[str, Tensor], optimiser: torch.optim.Optimizer
) -> tuple[Progress, dict[str, Tensor]] | None:
    """Fill ``parameters`` and ``optimiser`` from the checkpoint of this very training; its progress and best weights.

    None where there is none, or where it belongs to another training (which is said in the log).
    Raises :class:`PPOError` for a damaged file.
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (OSError, SafetensorError) as error:
        raise PPOError(f"{path}: the checkpoint cannot be read: {error}. Delete it: training starts over") from error
    if metadata.get("identity") != identity:
        _log.warning("%s: a checkpoint of other parameters, prompts, reward or weights: training starts over", path)
        return None
    best: dict[str, Tensor] = {}
    moments: dict[int, dict[str, Tensor]] = {}
    with torch.no_grad():
        for key, tensor in tensors.items():
            kind, _, name = key.partition("/")
            if kind == "parameter":
                parameters[name].copy_(tensor)
            elif kind == "best":
                best[name] = tensor
            else:
                number, _, moment = name.partition("/")
                moments.setdefault(int(number), {})[moment] = tensor
    optimiser.load_state_dict({**optimiser.state_dict(), "state": moments})
    return Progress(**json.loads(metadata["progress"])), best


class Checkpoints:
    """The checkpoint of one training at ``path``: a file, or a folder where weights are cut over processes.

    In the folder each process has a file of its own part, and ``latest.json`` names those that belong together: it is
    written when all are there. Processes on several machines need a disk in common.
    """

    def __init__(self, path: Path, identity: str, processes: Processes) -> None:
        self.path, self._identity, self._processes = path, identity, processes
        self._latest = path / "latest.json"

    def save(
        self,
        progress: Progress,
        parameters: Mapping[str, Tensor],
        best: Mapping[str, Tensor],
        optimiser: torch.optim.Optimizer,
    ) -> None:
        """Write the state after ``progress.step`` updates; raises what :func:`save` raises."""
        processes = self._processes
        written = (self._identity, progress, parameters, best, optimiser)
        if processes.sharding is None:
            if processes.is_main:
                save(self.path, *written)
            return
        (number,) = processes.together(lambda: [(self._told() or {"number": 0})["number"] + 1] * processes.is_main)
        processes.agreed(lambda: save(self._part(number), *written))
        if processes.is_main:
            write_json(self._latest, {"number": number, "processes": processes.count})
            for old in self.path.iterdir():
                if old.is_dir() and old.name != str(number):
                    shutil.rmtree(old)

    def restore(
        self, parameters: Mapping[str, Tensor], optimiser: torch.optim.Optimizer
    ) -> tuple[Progress, dict[str, Tensor]] | None:
        """As :func:`restore`. Raises :class:`PPOError` too where the weights were cut into other parts."""
        processes = self._processes
        parts = self._told()
        written = 1 if parts is None else parts["processes"]
        count = 1 if processes.sharding is None else processes.count
        if self.path.exists() and written != count:
            raise PPOError(
                f"{self.path}: the checkpoint holds weights cut into {written} parts, here they are cut into {count}: "
                "launch as many processes as then, or delete it: training starts over"
            )
        path = self.path if parts is None else self._part(parts["number"])
        return processes.agreed(lambda: restore(path, self._identity, parameters, optimiser))

    def remove(self) -> None:
        """Delete the checkpoint of a training that is done."""
        if self._processes.is_main and self.path.is_dir():
            shutil.rmtree(self.path)
        elif self._processes.is_main:
            self.path.unlink(missing_ok=True)

    def _part(self, number: int) -> Path:
        return self.path / str(number) / f"part_{self._processes.rank}.safetensors"

    def _told(self) -> dict[str, int] | None:
        """Which files belong together, and how many processes wrote them; None where there is no folder of parts."""
        if not self._latest.exists():
            return None
        told: dict[str, int] = json.loads(self._latest.read_text(encoding="utf-8"))
        return told
