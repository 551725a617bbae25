"""Dropout off for good, in training mode too.

Preference losses and PPO's ratios compare two passes of one policy. Dropout makes the two differ, so that a policy
which nothing has moved has margins, and ratios, that are noise. ``nn.Dropout`` layers are only a part of it: most
models of transformers hand a number, as ``self.attention_dropout``, to a function while ``self.training`` holds.
"""

import re
from typing import Any

from torch.nn.modules.dropout import _DropoutNd

_NOISE = re.compile(r"drop|jitter")  # attention_dropout, attn_pdrop, layerdrop, drop_path_rate, router_jitter_noise


def switch_off_dropout(model: Any) -> None:
    """Set every rate of dropout and of router noise in ``model`` to 0: layers, numbers on modules, configurations.

    Its passes in training mode are then those in evaluation mode. What is saved of the model says 0 as well.
    """
    seen: set[int] = set()
    for module in model.modules():
        if isinstance(module, _DropoutNd):
            module.p = 0.0
        _zero_rates(module)
        _silence(getattr(module, "config", None), seen)


def _silence(config: Any, seen: set[int]) -> None:
    """The rates of a configuration and of those in it: some models read them from there in every pass."""
    from transformers import PreTrainedConfig

    if not isinstance(config, PreTrainedConfig) or id(config) in seen:
        return
    seen.add(id(config))
    _zero_rates(config)
    for inner in list(vars(config).values()):
        _silence(inner, seen)


def _zero_rates(owner: Any) -> None:
    for name, value in list(vars(owner).items()):
        rate = isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool))
        if rate and value > 0 and _NOISE.search(name):
            setattr(owner, name, 0.0)
