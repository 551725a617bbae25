"""The state of a training between two epochs, and the one file from which a killed training goes on."""

import hashlib
import json
import logging
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from realm_lib.config.training import ModelParams, TrainingParams
from realm_lib.reward.combiner.network import Layers
from realm_lib.reward.combiner.pairs import CombinerError
from realm_lib.runs.files import atomic_path

_log = logging.getLogger(__name__)


@dataclass
class TrainingHistory:
    """How a training went. One value an epoch in the lists, all of the mean over members, without dropout.

    With the prior the lists begin with epoch 0, the weighted sum; without it with the first epoch.
    """

    train_loss: list[float] = field(default_factory=list)
    """Mean -log sigmoid(margin), in nats, over the training pairs (over 8,192 of them where there are more; with the
    prior, which validation does not stop, so are the two of validation)."""
    validation_loss: list[float] = field(default_factory=list)
    validation_accuracy: list[float] = field(default_factory=list)
    """Share of the validation pairs in the right order; a tie counts half."""
    out_of_fold_loss: list[float] = field(default_factory=list)
    """Of training pairs by networks that were trained without their posts; empty without the prior."""
    best_epoch: int = 0
    """The epoch with the lowest out-of-fold loss, or the lowest validation loss without the prior."""
    member_epochs: list[int] = field(default_factory=list)
    """The epoch whose weights each member kept."""
    seconds: float = 0.0
    batch_size: int = 0
    """Pairs a step, as used: see :func:`effective_batch_size`."""
    learning_rate: float = 0.0
    """Adam's rate, as used: see :func:`effective_learning_rate`."""
    evidence: dict[str, float | int | None] | None = None
    """What unseen pairs say of the bend: see :class:`realm_lib.reward.combiner.prior.Evidence`."""
    prior_pairs: float | None = None
    """``training.prior_pairs``, or less where unseen pairs said that the prior was too strong; null without one."""
    bend: float = 1.0
    temperature: float = 1.0
    linear: dict[str, float] = field(default_factory=dict)
    kept: dict[str, float] = field(default_factory=dict)
    """train_loss, validation_loss and validation_accuracy of the model as kept."""

    def metrics(self) -> dict[str, Any]:
        """What metrics/combiner.json holds; the losses and the accuracy are those of the model as kept."""
        names = ("seconds", "prior_pairs", "bend", "temperature", "evidence", "linear")
        return {"best_epoch": self.best_epoch, **self.kept} | {name: getattr(self, name) for name in names}


@dataclass
class State:
    """All that a training has learned so far, between two epochs."""

    layers: Layers
    skip: Tensor
    """Weights [members, features] that a member adds to the weighted sum's; 0 unless it has to be monotone."""
    optimiser: torch.optim.AdamW
    epoch: int
    """Epochs done."""
    history: TrainingHistory
    kept: dict[str, Tensor] = field(default_factory=dict)
    """What the best epochs so far have left."""


def fingerprint(tensors: Iterable[Tensor], model: ModelParams, params: TrainingParams) -> str:
    """A hash of all that decides the weights: parameters, pairs, and the version of torch, whose sums may differ."""
    digest = hashlib.sha256()
    settings = {"model": model.model_dump(), "training": params.model_dump(), "torch": torch.__version__}
    digest.update(json.dumps(settings, sort_keys=True).encode())
    for tensor in tensors:
        digest.update(str(list(tensor.shape)).encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def _tensors(state: State) -> dict[str, Tensor]:
    """Every tensor of the state by name, the optimiser's moments included; those of a new optimiser are not there."""
    tensors = {"skip": state.skip.detach()}
    for number, layer in enumerate(state.layers):
        for name, tensor in zip(("weight", "bias"), layer, strict=True):
            tensors[f"layers.{number}.{name}"] = tensor.detach()
    tensors |= {f"kept.{name}": tensor for name, tensor in state.kept.items()}
    for number, moments in state.optimiser.state_dict()["state"].items():
        for name, tensor in moments.items():
            tensors[f"optimiser.{number}.{name}"] = tensor
    return tensors


def save(state: State, path: Path, identity: str) -> None:
    """Write ``state`` to one file, so that weights and history can never be of different epochs."""
    progress = {"epoch": state.epoch, "history": asdict(state.history)}
    try:
        with atomic_path(path) as temporary:
            save_file(_tensors(state), temporary, {"identity": identity, "progress": json.dumps(progress)})
    except (OSError, SafetensorError) as error:
        raise CombinerError(f"{path}: the checkpoint cannot be written: {error}") from error


def restore(state: State, path: Path, identity: str) -> None:
    """Fill ``state`` from the checkpoint at ``path``, where there is one of this very training."""
    if not path.exists():
        return
    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (OSError, SafetensorError) as error:
        raise CombinerError(
            f"{path}: the checkpoint cannot be read: {error}. Delete it: training starts over"
        ) from error
    if metadata.get("identity") != identity:
        _log.warning("%s: a checkpoint of other parameters, pairs or torch: training starts over", path)
        return
    progress: dict[str, Any] = json.loads(metadata["progress"])
    moments: dict[int, dict[str, Tensor]] = {}
    for name in [name for name in tensors if name.startswith("optimiser.")]:
        _, number, moment = name.split(".")
        moments.setdefault(int(number), {})[moment] = tensors.pop(name)
    state.optimiser.load_state_dict({**state.optimiser.state_dict(), "state": moments})
    with torch.no_grad():
        own = _tensors(state)
        for name, tensor in tensors.items():
            own[name].copy_(tensor)
    state.epoch = progress["epoch"]
    state.history = TrainingHistory(**progress["history"])
