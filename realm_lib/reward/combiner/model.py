"""The combiner as the rest of the library uses it: fit, reward, save, load."""

import hashlib
import importlib.metadata
import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from realm_lib.config.training import ModelParams, TrainingParams
from realm_lib.data.seen import keys_of
from realm_lib.reward.combiner.checkpoint import TrainingHistory
from realm_lib.reward.combiner.network import member_rewards
from realm_lib.reward.combiner.pairs import FEATURES, CombinerError, check_features, chosen_and_rejected, mean_and_std
from realm_lib.reward.combiner.training import TrainingPairs, train_members
from realm_lib.runs.files import atomic_path, write_json
from realm_lib.runs.trained_on import read_trained_on, write_trained_on

_WEIGHTS_FILE = "model.safetensors"
_CONFIG_FILE = "config.json"
_MODEL_TYPE = "realm_combiner"
_CHUNK_ROWS = 8192


class Combiner(nn.Module):
    """A small network from (score, similarity) to one reward, learned from preferences.

    Standardise, then Linear and ReLU for each of ``hidden_dims``, then Linear to one number; ``ensemble`` such members,
    whose mean is the reward. Differences of rewards are log-odds of being preferred on pairs of the kind that it was
    trained on: where those were chosen for clear votes (``data.min_score_ratio``), they are too sure of other pairs,
    by the factor that the evaluation finds (``temperature``). The zero is the mean training response, for every member
    alike, so that members disagree about responses and not about an arbitrary constant.

    huggingface_hub's PyTorchModelHubMixin is not used, although the files are those that it would write: it loads
    weights that do not fit in silence, falls back to pickled ones, and overwrites a saved model in place.

    ``features`` names other columns than the standard two for an ablation, which cannot be saved.
    """

    feature_mean: Tensor
    feature_std: Tensor

    def __init__(self, params: ModelParams | None = None, features: Sequence[str] = FEATURES) -> None:
        super().__init__()
        self.params = params if params is not None else ModelParams()
        self.features = tuple(features)
        widths = [len(self.features), *self.params.hidden_dims, self.params.output_dim]
        shapes = list(pairwise(widths))
        members = self.params.ensemble
        # Zeros, which fit or from_pretrained replace; a combiner that has seen neither refuses to answer.
        self.weights = nn.ParameterList([nn.Parameter(torch.zeros(members, *shape)) for shape in shapes])
        self.biases = nn.ParameterList([nn.Parameter(torch.zeros(members, 1, outputs)) for _, outputs in shapes])
        self.register_buffer("feature_mean", torch.zeros(len(self.features)))
        self.register_buffer("feature_std", torch.ones(len(self.features)))
        self._fitted = False
        self.trained_on: frozenset[str] | None = None
        """Keys of the posts that it was trained on and stopped by; None where the tables did not hold them."""

    def forward(self, features: Tensor) -> Tensor:
        """The reward that each member gives: [members, n] from raw ``features`` [n, features], differentiable.

        Dropout belongs to ``fit`` alone, whatever ``train()`` and ``eval()`` say.
        """
        standardised = (features - self.feature_mean) / self.feature_std
        layers = list(zip(self.weights, self.biases, strict=True))
        return member_rewards(standardised.expand(self.params.ensemble, -1, -1), layers)

    def fit(
        self,
        train: pd.DataFrame,
        validation: pd.DataFrame,
        params: TrainingParams,
        *,
        progress: bool = False,
        checkpoint: Path | None = None,
    ) -> TrainingHistory:
        """Train from the start on the pairs of ``train``, stop early by those of ``validation``.

        Both tables have a row a pair, with labels (1: A is preferred) and the features of A and B. The same parameters
        and pairs give the same weights, bit for bit, on the same machine; member k is, up to rounding, the member k of
        an ensemble of any size. ``progress`` shows a bar; ``checkpoint`` names a file to go on from after a kill.

        Raises :class:`CombinerError` for missing columns, values that are not finite, labels other than 0 and 1, no
        pairs, features that are all constant, a training that diverges, and a damaged checkpoint.
        """
        chosen, rejected = chosen_and_rejected(train, self.features)
        mean, std = mean_and_std(chosen, rejected, self.features)
        validation_pairs = np.stack(chosen_and_rejected(validation, self.features), axis=1)
        if not len(validation_pairs):
            raise CombinerError("there are no validation pairs: without them training cannot know when to stop")
        train_pairs = np.stack([chosen, rejected], axis=1)
        pairs = TrainingPairs(
            train=torch.from_numpy((train_pairs - mean) / std),
            validation=torch.from_numpy((validation_pairs - mean) / std),
        )
        layers, history = train_members(pairs, self.params, params, progress=progress, checkpoint=checkpoint)
        with torch.no_grad():
            self.feature_mean.copy_(torch.from_numpy(mean))
            self.feature_std.copy_(torch.from_numpy(std))
            for number, (weight, bias) in enumerate(layers):
                self.weights[number].copy_(weight)
                self.biases[number].copy_(bias)
            self._fitted = True
            # The loss does not know the zero of a reward: set it, or members would differ by where training left it.
            members = self._member_rewards(train_pairs.reshape(-1, len(self.features)))
            zeros = torch.from_numpy(members.mean(axis=1, dtype=np.float64))
            self.biases[-1] -= zeros.view(-1, 1, 1).to(self.biases[-1])
        with_posts = all("history" in pairs for pairs in (train, validation))
        self.trained_on = keys_of(train) | keys_of(validation) if with_posts else None
        return history

    def reward(self, features: ArrayLike) -> NDArray[np.float32]:
        """The rewards of responses with ``features`` [n, 2] in the order of ``FEATURES``: float32 [n].

        Raises :class:`CombinerError` before training, and for features of another shape or not finite.
        """
        return self.reward_and_spread(features)[0]

    def reward_and_spread(self, features: ArrayLike) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The mean and the standard deviation over members, each float32 [n]; see :meth:`reward`.

        The spread is what members trained from different seeds disagree by; that of a single member is 0.
        """
        members = self.member_rewards(features)
        return members.mean(axis=0), members.std(axis=0)

    def member_rewards(self, features: ArrayLike) -> NDArray[np.float32]:
        """The reward that each member gives, float32 [members, n]; see :meth:`reward`."""
        return self._member_rewards(check_features(features, self.features))

    def serialized(self) -> bytes:
        """The weights as model.safetensors holds them."""
        return save({name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()})

    def save_pretrained(self, folder: str | Path) -> None:
        """Write model.safetensors, config.json and trained_on.json into ``folder``, each whole or not at all.

        The configuration carries the weights' SHA-256: a kill between the files is found on loading. Raises
        :class:`CombinerError` before training, and for an ablation: only the standard features can be loaded again.
        """
        self._require_fitted()
        if self.features != FEATURES:
            raise CombinerError(f"a combiner of {self.features} is an ablation: only one of {FEATURES} can be saved")
        folder = Path(folder)
        content = self.serialized()
        with atomic_path(folder / _WEIGHTS_FILE) as temporary:
            temporary.write_bytes(content)
        write_trained_on(folder, self.trained_on)
        config = {
            "model_type": _MODEL_TYPE,
            "realm_version": importlib.metadata.version("realm-lib"),
            "features": list(FEATURES),
            "model": self.params.model_dump(mode="json"),
            "weights_sha256": hashlib.sha256(content).hexdigest(),
        }
        write_json(folder / _CONFIG_FILE, config)

    @classmethod
    def from_pretrained(cls, location: str | Path, *, revision: str | None = None, token: str | None = None) -> Self:
        """Load what :meth:`save_pretrained` wrote, from a folder or, where there is no such folder, a hub id.

        Raises :class:`CombinerError` for files that are missing or unreadable, a configuration of another kind of
        model, and weights that do not fit it.
        """
        config_path, weights_path = _locate(location, revision, token)
        config = _read_config(config_path)
        try:
            params = ModelParams.model_validate(config["model"])
        except ValidationError as error:
            faults = "; ".join(f"model.{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
            raise CombinerError(f"{config_path}: not a network that this version has: {faults}") from error
        combiner = cls(params)
        combiner._load_weights(weights_path, config["weights_sha256"])
        combiner.trained_on = read_trained_on(weights_path.parent)
        return combiner.eval()

    def _require_fitted(self) -> None:
        if not self._fitted:
            raise CombinerError("this Combiner is not trained: call fit, or load one with Combiner.from_pretrained")

    @torch.no_grad()
    def _member_rewards(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32 [members, n]"""
        self._require_fitted()
        device = self.feature_mean.device
        chunks = torch.split(torch.from_numpy(features), max(1, _CHUNK_ROWS // self.params.ensemble))
        return torch.cat([self(chunk.to(device)).cpu() for chunk in chunks], dim=1).numpy()

    def _load_weights(self, path: Path, expected_sha256: str) -> None:
        try:
            content = path.read_bytes()
            tensors = load(content)
        except (OSError, SafetensorError) as error:
            raise CombinerError(f"{path}: the weights cannot be read: {error}") from error
        if hashlib.sha256(content).hexdigest() != expected_sha256:
            raise CombinerError(f"{path}: not the weights that {_CONFIG_FILE} was saved with: save the model again")
        own = self.state_dict()
        faults = [f"{name} is missing" for name in own if name not in tensors]
        faults += [f"{name} is unexpected" for name in tensors if name not in own]
        for name in own.keys() & tensors.keys():
            read, wanted = tensors[name], own[name]
            if read.shape != wanted.shape or read.dtype != wanted.dtype:
                faults.append(f"{name} is {read.dtype} {list(read.shape)}, not {wanted.dtype} {list(wanted.shape)}")
            elif read.isnan().any():
                faults.append(f"{name} holds NaN")
        if faults:
            raise CombinerError(f"{path}: does not fit its configuration: {'; '.join(sorted(faults))}")
        self.load_state_dict(tensors)
        self._fitted = True


def _locate(location: str | Path, revision: str | None, token: str | None) -> tuple[Path, Path]:
    """The configuration and the weights of a model, downloaded where ``location`` is not a folder."""
    folder = Path(location)
    if folder.is_dir():
        missing = [name for name in (_CONFIG_FILE, _WEIGHTS_FILE) if not (folder / name).is_file()]
        if missing:
            raise CombinerError(f"{folder}: no combiner here: {' and '.join(missing)} missing")
        return folder / _CONFIG_FILE, folder / _WEIGHTS_FILE
    # A Path, or a string with any but the one slash of OWNER/NAME, can only have meant a folder.
    if isinstance(location, Path) or location.count("/") != 1:
        raise CombinerError(f"{location}: no such folder, and not a hub id (OWNER/NAME)")
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        config = hf_hub_download(location, _CONFIG_FILE, revision=revision, token=token)
        return Path(config), Path(hf_hub_download(location, _WEIGHTS_FILE, revision=revision, token=token))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise CombinerError(f"{location}: neither a folder nor a model that the hub gives: {error}") from error


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CombinerError(f"{path}: cannot be read: {error}") from error
    if not isinstance(config, dict) or config.get("model_type") != _MODEL_TYPE:
        raise CombinerError(f"{path}: not the configuration of a REALM combiner")
    missing = [key for key in ("features", "model", "weights_sha256") if key not in config]
    if missing:
        raise CombinerError(f"{path}: the configuration lacks {', '.join(missing)}")
    if config["features"] == ["reward", "similarity"]:
        raise CombinerError(
            f"{path}: saved by an earlier version, which called the score a reward: run notebooks "
            "01_feature_extraction and 02_combiner_training again"
        )
    if config["features"] != list(FEATURES):
        raise CombinerError(f"{path}: takes the features {config['features']}, this version gives {list(FEATURES)}")
    return config
