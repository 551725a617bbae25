"""Small Llamas in float64, so that the rounding of one processor does not decide what a training makes of them.

Two processors sum in another order, and differ in the last bit. A training carries that on from step to step: in
float32 the demo's stand-in ended up to 2.5 points of accuracy apart; in float64 its weights agree to thirteen digits.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def double_llama(make: Callable[[], Any]) -> Any:
    """The transformers Llama that ``make`` builds, its initial weights drawn and everything computed in float64.

    Llama's norms and rotations compute in float32 whatever the weights are: here they are replaced by modules with the
    same weights that do not.
    """
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    with _default_dtype(torch.float64):
        model = make()
        decoder = model.base_model
        decoder.rotary_emb = _Rotations(decoder.config)
        for name, module in list(model.named_modules()):
            if isinstance(module, LlamaRMSNorm):
                norm = nn.RMSNorm(module.weight.shape, eps=module.variance_epsilon)
                norm.weight = module.weight
                model.set_submodule(name, norm)
    return model


def rounded(model: nn.Module, into: Any) -> Any:
    """``into``, a float32 model of the same class as transformers has it, with the weights of ``model``."""
    into.load_state_dict(model.state_dict())
    return into


class _Rotations(nn.Module):
    """Cosines and sines [n, tokens, head] of the rotations of plain RoPE (arXiv 2104.09864)."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        size = config.hidden_size // config.num_attention_heads
        powers = -torch.arange(0, size, 2, dtype=torch.float64) / size
        self.turns = nn.Buffer(config.rope_parameters["rope_theta"] ** powers, persistent=False)

    def forward(self, _: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        angles = (position_ids[..., None] * self.turns).repeat(1, 1, 2)
        return angles.cos(), angles.sin()


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
