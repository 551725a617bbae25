"""The combiner as the rest of the library uses it: fit, reward, save, load."""

import hashlib
import importlib.metadata
import math
import warnings
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from pydantic import ValidationError
from safetensors.torch import save
from torch import Tensor, nn

from realm_lib.config.feature_models import FEATURES
from realm_lib.config.training import ModelParams, TrainingParams
from realm_lib.data.seen import keys_of
from realm_lib.reward.combiner.checkpoint import TrainingHistory
from realm_lib.reward.combiner.files import CONFIG_FILE, MODEL_TYPE, WEIGHTS_FILE, locate, read_config, read_weights
from realm_lib.reward.combiner.network import member_rewards
from realm_lib.reward.combiner.pairs import CombinerError, Standardisation, check_features, chosen_and_rejected
from realm_lib.reward.combiner.plain import train_plain
from realm_lib.reward.combiner.prior import train_with_prior
from realm_lib.reward.combiner.training import Members, TrainingPairs, alone, loss_and_accuracy, sample
from realm_lib.reward.temperature import likely_scale
from realm_lib.runs.files import atomic_path, write_json
from realm_lib.runs.trained_on import read_trained_on, write_trained_on

_CHUNK_ROWS = 8192


class Combiner(nn.Module):
    """From the features of a response, (score, similarity) unless others are named, to one reward.

    A weighted sum of the standardised features, and a small network beside it that bends the sum as far as unseen
    pairs bear it out (:mod:`realm_lib.reward.combiner.prior`): Linear and ReLU for each of ``hidden_dims``, then Linear
    to one number. ``ensemble`` such members, whose mean is the reward. With ``prior`` null there is no weighted sum.

    Differences of rewards are log-odds of being preferred on pairs like those of validation. The zero is the mean
    training response, for every member alike, so that members disagree about responses and not about an arbitrary
    constant. Beyond the range of the training responses, a feature counts as if it were at the border
    (:meth:`outside`).

    huggingface_hub's PyTorchModelHubMixin is not used, although the files are those that it would write: it loads
    weights that do not fit in silence, falls back to pickled ones, and overwrites a saved model in place.
    """

    feature_mean: Tensor
    feature_std: Tensor
    feature_low: Tensor
    feature_high: Tensor

    def __init__(self, params: ModelParams | None = None, features: Sequence[str] = FEATURES) -> None:
        super().__init__()
        self.params = params if params is not None else ModelParams()
        self.features = tuple(features)
        inputs, members = len(self.features), self.params.ensemble
        shapes = list(pairwise([inputs, *self.params.hidden_dims, self.params.output_dim]))
        # Zeros, which fit or from_pretrained replace; a combiner that has seen neither refuses to answer.
        self.weights = nn.ParameterList([nn.Parameter(torch.zeros(members, *shape)) for shape in shapes])
        self.biases = nn.ParameterList([nn.Parameter(torch.zeros(members, 1, outputs)) for _, outputs in shapes])
        self.linear_weights = nn.Parameter(torch.zeros(members, inputs, 1))
        self.register_buffer("feature_mean", torch.zeros(inputs))
        self.register_buffer("feature_std", torch.ones(inputs))
        self.register_buffer("feature_low", torch.full((inputs,), -math.inf))
        self.register_buffer("feature_high", torch.full((inputs,), math.inf))
        self._fitted = False
        self.scale = 1.0
        """The factor that makes differences of rewards log-odds of pairs like validation's; it is in the weights."""
        self.bend = 1.0
        """How much of the network the evidence has left in the reward, from 0 to 1; it is in the weights too."""
        self.trained_on: frozenset[str] | None = None
        """Keys of the posts that it was trained on and stopped by; None where the tables did not hold them."""

    @property
    def linear(self) -> dict[str, float]:
        """The weighted sum's part of the reward: log-odds for one standard deviation of each feature."""
        weights = self.linear_weights.detach().double().mean(dim=0)[:, 0]
        return dict(zip(self.features, weights.tolist(), strict=True))

    def forward(self, features: Tensor) -> Tensor:
        """The reward that each member gives: [members, n] from raw ``features`` [n, features], differentiable.

        Dropout belongs to ``fit`` alone, whatever ``train()`` and ``eval()`` say.
        """
        standardised = self._standardised(features).clamp(self.feature_low, self.feature_high)
        standardised = standardised.expand(self.params.ensemble, -1, -1)
        layers = list(zip(self.weights, self.biases, strict=True))
        return member_rewards(standardised, layers) + (standardised @ self.linear_weights).squeeze(-1)

    def outside(self, features: ArrayLike) -> NDArray[np.bool_]:
        """Whether any feature of a response lies beyond the training responses' range, bool [n]: see :meth:`beyond`."""
        result: NDArray[np.bool_] = np.logical_or.reduce(self.beyond(features), axis=1)
        return result

    def beyond(self, features: ArrayLike) -> NDArray[np.bool_]:
        """Which features of a response lie beyond the training responses' range, bool [n, features].

        The range is that between their 0.1 % and 99.9 % quantiles; a feature that was constant in training is ignored
        here as everywhere. Raises as :meth:`reward`.
        """
        self._require_fitted()
        checked = torch.from_numpy(check_features(features, self.features))
        standardised = self._standardised(checked.to(self.feature_mean.device))
        beyond = (standardised < self.feature_low) | (standardised > self.feature_high)
        result: NDArray[np.bool_] = beyond.cpu().numpy()
        return result

    def fit(
        self,
        train: pd.DataFrame,
        validation: pd.DataFrame,
        params: TrainingParams,
        *,
        progress: bool = False,
        checkpoint: Path | None = None,
    ) -> TrainingHistory:
        """Train from the start on the pairs of ``train``; those of ``validation`` set the scale.

        Both tables have a row a pair, with labels (1: A is preferred) and the features of A and B. Pairs of one post,
        by the column post_id or history, are held out together. Without a prior ``validation`` stops the training too.
        The same parameters and pairs give the same weights, bit for bit, on the same machine. ``progress`` shows a
        bar; ``checkpoint`` names a file to go on from after a kill.

        Warns where validation pairs say that the reward is no better than chance. Raises :class:`CombinerError` for
        missing columns, values that are not finite, labels other than 0 and 1, no pairs, features that are all
        constant, a training that diverges, and a damaged checkpoint.
        """
        chosen, rejected = chosen_and_rejected(train, self.features)
        standardise = Standardisation.of(chosen, rejected, self.features)
        validation_pairs = np.stack(chosen_and_rejected(validation, self.features), axis=1)
        if not len(validation_pairs):
            raise CombinerError("there are no validation pairs: without them nobody knows how far to trust the reward")
        pairs = TrainingPairs(
            train=torch.from_numpy(standardise(np.stack([chosen, rejected], axis=1))),
            validation=torch.from_numpy(standardise(validation_pairs)),
            posts=torch.from_numpy(_posts(train)),
        )
        # An ablation may lack a feature that the reward cannot fall with.
        monotone = tuple(place for place, name in enumerate(self.features) if name in self.params.monotone)
        with alone():
            how = train_plain if self.params.prior is None else train_with_prior
            members, history = how(pairs, self.params, params, monotone, progress=progress, checkpoint=checkpoint)
            history.scale = self._scale_of(members.margins(pairs.validation))
            validation_loss, accuracy = loss_and_accuracy(history.scale * members.margins(pairs.validation))
            train_loss, _ = loss_and_accuracy(history.scale * members.margins(sample(pairs.train)))
        history.kept = {"train_loss": train_loss, "validation_loss": validation_loss, "validation_accuracy": accuracy}
        self._take(members, history.scale, standardise, pairs)
        self.bend, self.scale, history.linear = history.bend, history.scale, self.linear
        with_posts = all("history" in table for table in (train, validation))
        self.trained_on = keys_of(train) | keys_of(validation) if with_posts else None
        return history

    def reward(self, features: ArrayLike) -> NDArray[np.float32]:
        """The rewards of responses with ``features`` [n, features] in the order of ``self.features``: float32 [n].

        Raises :class:`CombinerError` before training, and for features of another shape or not finite.
        """
        return self.reward_and_spread(features)[0]

    def reward_and_spread(self, features: ArrayLike) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The mean and the standard deviation over members, each float32 [n]; see :meth:`reward`.

        Members have weighted sums as far apart as the pairs leave them uncertain, and networks from different seeds;
        the spread of a single member is 0.
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
        :class:`CombinerError` before training.
        """
        self._require_fitted()
        folder = Path(folder)
        content = self.serialized()
        with atomic_path(folder / WEIGHTS_FILE) as temporary:
            temporary.write_bytes(content)
        write_trained_on(folder, self.trained_on)
        config = {
            "model_type": MODEL_TYPE,
            "realm_version": importlib.metadata.version("realm-lib"),
            "features": list(self.features),
            "model": self.params.model_dump(mode="json"),
            "bend": self.bend,
            "scale": self.scale,
            "weights_sha256": hashlib.sha256(content).hexdigest(),
        }
        write_json(folder / CONFIG_FILE, config)

    @classmethod
    def from_pretrained(cls, location: str | Path, *, revision: str | None = None, token: str | None = None) -> Self:
        """Load what :meth:`save_pretrained` wrote, from a folder or, where there is no such folder, a hub id.

        Raises :class:`CombinerError` for files that are missing or unreadable, a configuration of another kind of
        model, and weights that do not fit it.
        """
        config_path, weights_path = locate(location, revision, token)
        config = read_config(config_path)
        try:
            params = ModelParams.model_validate(config["model"])
        except ValidationError as error:
            faults = "; ".join(f"model.{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
            raise CombinerError(f"{config_path}: not a network that this version has: {faults}") from error
        combiner = cls(params, config["features"])
        combiner.load_state_dict(read_weights(weights_path, config["weights_sha256"], combiner.state_dict()))
        combiner._fitted = True
        combiner.bend, combiner.scale = config["bend"], config["scale"]
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

    def _standardised(self, features: Tensor) -> Tensor:
        return (features - self.feature_mean) / self.feature_std

    def _scale_of(self, margins: Tensor) -> float:
        """From the members' margins of validation pairs, [members, pairs]."""
        scale = likely_scale(margins.mean(dim=0).numpy())
        if scale > 0:
            return scale
        warnings.warn(
            f"on {margins.shape[1]} validation pairs the reward of {', '.join(self.features)} is no better than "
            "chance: its differences are left as training made them, and are no log-odds",
            UserWarning,
            stacklevel=3,
        )
        return 1.0

    @torch.no_grad()
    def _take(self, members: Members, scale: float, standardise: Standardisation, pairs: TrainingPairs) -> None:
        """Take over what was trained, times ``scale``, rounded to float32."""
        for name in ("mean", "std", "low", "high"):
            getattr(self, f"feature_{name}").copy_(torch.from_numpy(getattr(standardise, name)))
        # The loss does not know the zero of a reward: set it, or members would differ by where training left it.
        zeros = members.rewards(pairs.train.flatten(0, 1)).mean(dim=1)
        *layers, (weight, bias) = members.layers
        layers.append((scale * weight, scale * (bias - zeros.view(-1, 1, 1))))
        for own, (weight, bias) in zip(zip(self.weights, self.biases, strict=True), layers, strict=True):
            own[0].copy_(weight)
            own[1].copy_(bias)
        self.linear_weights.copy_(scale * members.linear.unsqueeze(2))
        self._fitted = True


def _posts(pairs: pd.DataFrame) -> NDArray[np.int64]:
    """A number for each pair's post; every pair is its own where the table does not say."""
    for column in ("post_id", "history"):
        if column in pairs:
            return pd.factorize(pairs[column])[0].astype(np.int64)
    return np.arange(len(pairs))
