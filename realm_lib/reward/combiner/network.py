"""The members' arithmetic: Linear, ReLU, dropout, for several members at once.

The weights of all members lie in one tensor with the member as its first dimension, so that small batches of many
members fill the processor as one large batch does.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

Layers = list[tuple[Tensor, Tensor]]
"""A (weight [members, inputs, outputs], bias [members, 1, outputs]) for each linear layer."""

_LEVELS = 2**16  # dropout is decided by 16 random bits a unit


def new_layers(widths: Sequence[int], seeds: Sequence[int]) -> Layers:
    """Layers at their start, float64: uniform within 1/sqrt(inputs), as torch.nn.Linear, a member from each seed.

    ``widths`` are the numbers of inputs, of each hidden layer's units, and of outputs.
    """
    layers = []
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    for width, outputs in pairwise(widths):
        bound = width**-0.5
        # From 0 to 1 first, which is exact: torch's float32 draws between other ends differ between processors.
        weight, bias = (
            torch.stack([torch.rand(rows, outputs, generator=generator) for generator in generators]).double()
            for rows in (width, 1)
        )
        layers.append(((2 * weight - 1) * bound, (2 * bias - 1) * bound))
    return layers


def monotone_signs(widths: Sequence[int], monotone: Sequence[int]) -> list[Tensor]:
    """The sign that each weight may have for an output that never falls when an input of ``monotone`` rises.

    float64 [inputs, outputs] for each layer: 1 and -1 are signs, 0 is either. Half of the hidden units rise with those
    inputs and count for the output, half fall with them and count against it, so that the output can bend both ways:
    with weights that are all positive it would be convex (Runje & Shankaranarayana 2023, arXiv 2205.11775).
    """
    units = [torch.ones(width, dtype=torch.float64) for width in widths]
    for hidden in units[1:-1]:
        hidden[1::2] = -1
    units[0][:] = 0
    units[0][list(monotone)] = 1
    return [torch.outer(before, after) for before, after in pairwise(units)]


@torch.no_grad()
def keep_signs(layers: Layers, signs: Sequence[Tensor]) -> None:
    """Set the weights to 0 whose sign is not that of ``signs``, in place."""
    for (weight, _), sign in zip(layers, signs, strict=True):
        weight[weight * sign < 0] = 0


def member_rewards(
    features: Tensor, layers: Layers, dropped: Sequence[Tensor] | None = None, keep: float = 1.0
) -> Tensor:
    """The reward that each member gives: [members, n] from standardised features [members, n, inputs].

    With ``dropped``, a boolean [members, n, width] for each hidden layer, the marked units are zeroed and the others
    divided by ``keep``, the share of units that stays (Srivastava et al. 2014); without it, all units count.
    """
    hidden = features
    for number, (weight, bias) in enumerate(layers):
        # The division by keep is done on the next weight, which is small, not on the units, which are many.
        scaled = weight / keep if dropped is not None and number > 0 else weight
        hidden = torch.baddbmm(bias, hidden, scaled)
        if number < len(layers) - 1:
            hidden = _DropRelu.apply(hidden, dropped[number] if dropped is not None else None)  # type: ignore[no-untyped-call]
    return hidden.squeeze(-1)


def bradley_terry_loss(margins: Tensor) -> Tensor:
    """-log sigmoid(margin) of each pair, where margin is r(chosen) - r(rejected).

    Bradley & Terry 1952; as the loss of a reward model, Ouyang et al. 2022, arXiv 2203.02155, equation 1.
    """
    return -torch.nn.functional.logsigmoid(margins)


def dropout_threshold(dropout: float) -> int:
    """How many of the 2**16 values of a unit's random bits drop it; ``dropout`` is met to within 2**-17."""
    return min(round(dropout * _LEVELS), _LEVELS - 1)


def draw_dropped(
    generators: Sequence[torch.Generator], rows: int, widths: Sequence[int], threshold: int
) -> list[Tensor]:
    """Which units to drop: a boolean [members, rows, width] for each width, each member from its own generator.

    Four units share one draw of 64 bits: with a draw for each unit, dropout would take most of the training time.
    """
    units = rows * sum(widths)
    draws = torch.empty(len(generators), -(-units // 4), dtype=torch.int64)
    for row, generator in zip(draws, generators, strict=True):
        row.random_(-(2**63), None, generator=generator)
    bits = draws.view(torch.int16)[:, :units]
    parts = torch.split(bits < threshold - _LEVELS // 2, [rows * width for width in widths], dim=1)
    return [part.view(len(generators), rows, width) for part, width in zip(parts, widths, strict=True)]


class _DropRelu(torch.autograd.Function):
    """ReLU with some units zeroed, in place, so that dropout costs little more than its random bits."""

    @staticmethod
    def forward(context: Any, hidden: Tensor, dropped: Tensor | None) -> Tensor:
        if dropped is not None:
            hidden.masked_fill_(dropped, 0.0)
        hidden.relu_()
        context.mark_dirty(hidden)
        context.save_for_backward(hidden)
        return hidden

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        # A dropped unit is 0 in the output, and so has no gradient, by ReLU's own rule.
        (hidden,) = context.saved_tensors
        return torch.ops.aten.threshold_backward(gradients[0], hidden, 0), None
