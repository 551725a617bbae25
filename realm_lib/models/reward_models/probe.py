"""The class of a probe: the first layers of a language model, and a linear head over what they make of a response.

A language model's middle layers tell good answers from bad ones better than its last, which is about the next token.
Linear probes: Alain and Bengio, "Understanding intermediate layers using linear classifier probes" (arXiv 1610.01644).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import torch
from torch import nn
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel

POOLINGS = ("mean", "last")
"""Over the response's tokens and those that close its turn; or the last of them alone."""
_KEY = "probe"
"""Where a checkpoint's configuration says it."""


class ProbeError(ValueError):
    """A configuration that is no probe's; the message says why."""


@dataclass(frozen=True)
class Taps:
    """Which hidden states a head reads: of each of the ``layers``, each of the ``poolings``."""

    layers: tuple[int, ...]
    """How many layers came before, 1 the first."""
    poolings: tuple[str, ...]

    @property
    def number(self) -> int:
        """Hidden states of a text."""
        return len(self.layers) * len(self.poolings)

    def of(self, states: torch.Tensor, layers: Sequence[int]) -> torch.Tensor:
        """The features [texts, number * hidden] among ``states`` [texts, layers, poolings, hidden] of ``layers``."""
        places = [layers.index(layer) for layer in self.layers]
        ways = [POOLINGS.index(pooling) for pooling in self.poolings]
        return states[:, places][:, :, ways].flatten(start_dim=1)

    def write(self, config: Any) -> None:
        """Make ``config``, a language model's, that of a probe with these taps."""
        shorten(config, max(self.layers))
        config.num_labels = 1
        setattr(config, _KEY, {name: list(value) for name, value in asdict(self).items()})

    @classmethod
    def read(cls, config: Any) -> Self:
        """What :meth:`write` wrote. Raises :class:`ProbeError` for a configuration that does not say it, or not so."""
        said = getattr(config, _KEY, None)
        if not isinstance(said, dict) or said.keys() != {"layers", "poolings"}:
            raise ProbeError("its config.json does not say that it is a probe: notebook 00 trains one")
        taps = cls(tuple(said["layers"]), tuple(said["poolings"]))
        if not taps.number or not set(taps.poolings) <= set(POOLINGS):
            raise ProbeError(f"its config.json names poolings {said['poolings']}; there are {', '.join(POOLINGS)}")
        if max(taps.layers) != config.num_hidden_layers or min(taps.layers) < 1:
            raise ProbeError(f"its config.json names layers {said['layers']} of {config.num_hidden_layers}")
        return taps


def shorten(config: Any, layers: int) -> None:
    """Make ``config``, a language model's, one of its first so many ``layers``.

    Raises :class:`ProbeError` for a model that has not so many.
    """
    if layers > config.num_hidden_layers:
        raise ProbeError(f"has {config.num_hidden_layers} layers, not {layers}")
    config.num_hidden_layers = layers
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:layers]


def without_norm(body: Any) -> Any:
    """``body`` with nothing in place of its final norm. Raises :class:`ProbeError` for one that is built otherwise."""
    if not isinstance(getattr(body, "norm", None), nn.Module) or not hasattr(body, "layers"):
        raise ProbeError(f"a {type(body).__name__} is not built as Llama is: a probe needs its layers and its norm")
    body.norm = nn.Identity()
    return body


class ProbeModel(PreTrainedModel):  # type: ignore[misc]
    """A decoder's layers, as ``model``, and ``score``: Linear(taps * hidden, 1), which stays in float32."""

    config_class = PreTrainedConfig
    base_model_prefix = "model"
    _keep_in_fp32_modules_strict = frozenset({"score"})
    _supports_sdpa = True  # the body, which has all the attention there is, says for itself what it can do

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__(config)
        self.model = without_norm(AutoModel.from_config(config))
        self.score = nn.Linear(Taps.read(config).number * config.hidden_size, 1, dtype=torch.float32)
        self.post_init()
