"""The state of a training in one safetensors file, written whole or not at all.

There are no generators to save: every random number comes from the seed, the step and the episode's number.
"""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from realm_lib.rlhf.errors import PPOError
from realm_lib.runs.files import atomic_path

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
