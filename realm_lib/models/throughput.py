"""How fast a card reads tokens through a model, calculated before anything is loaded: for plans, not for reports.

A token takes two operations a weight that it is multiplied with: embeddings are looked up, not multiplied. Attention is
left out: its part, 2 x layers x width x tokens of the row, is 0.4 % of a 70B model's operations for rows of 400 tokens.
A pass takes no less time than its weights take to be read once. How much of a card's peak remains stands in
:data:`UTILISATION`, which says what of it is measured.
"""

import math
from dataclasses import dataclass
from typing import Literal

Precision = Literal["float32", "bfloat16", "float16", "8bit", "4bit"]

BYTES_A_WEIGHT: dict[Precision, float] = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0, "8bit": 1.0, "4bit": 0.52}
"""4 bit is nf4 with double quantisation: half a byte, and the scales of its blocks."""

UTILISATION: dict[Precision, float] = {"float32": 0.6, "bfloat16": 0.5, "float16": 0.5, "8bit": 0.15, "4bit": 0.35}
"""The share of a card's peak that scoring reaches: padding, attention, masks and waiting are in it. Guesses so far."""

WORKING_SHARE = 0.1
"""The share of a card's memory that is kept free of weights, for activations and CUDA's own."""


@dataclass(frozen=True)
class Card:
    """An accelerator by its vendor's data sheet."""

    name: str
    memory: float
    """GiB."""
    bf16: float
    """10^12 operations a second in bfloat16 or float16, dense."""
    fp32: float
    """The same in float32, without tensor cores: PyTorch's default for matrix products."""
    bandwidth: float
    """10^12 bytes a second of its memory."""
    price: float
    """An example of a price in dollars an hour, not confirmed: what you pay is your provider's."""


CARDS = (
    Card("T4", 15.0, 65.0, 8.1, 0.32, 0.4),
    Card("L4", 22.5, 121.0, 30.3, 0.3, 0.8),
    Card("RTX 3090", 24.0, 71.0, 35.6, 0.936, 0.3),
    Card("RTX 4090", 24.0, 165.2, 82.6, 1.008, 0.5),
    Card("L40S", 45.0, 362.0, 91.6, 0.864, 1.0),
    Card("A100 40GB", 40.0, 312.0, 19.5, 1.555, 1.2),
    Card("A100 80GB", 80.0, 312.0, 19.5, 2.039, 1.5),
    Card("H100", 79.6, 989.0, 67.0, 3.35, 2.5),
    Card("H200", 140.4, 989.0, 67.0, 4.8, 3.5),
    Card("B200", 179.0, 2250.0, 75.0, 7.7, 5.0),
)
"""Their vendor's data sheets; H100 and H200 are the SXM modules, whose memory was read off such cards."""


def find_card(name: str) -> Card | None:
    """The card of a ``name`` as ``torch.cuda.get_device_name`` gives it ("NVIDIA A100-SXM4-80GB"); None if unknown.

    Every word of a card's own name must be a word of ``name``, so that an H100 PCIe, which is slower, is taken for an
    H100: a plan says which card it took.
    """
    words = set(name.upper().replace("-", " ").split())
    found = [card for card in CARDS if set(card.name.upper().split()) <= words]
    return max(found, key=lambda card: len(card.name), default=None)


def tokens_per_second(
    weights: float, card: Card, precision: Precision, batch_tokens: int, utilisation: float | None = None
) -> float:
    """Tokens a second through ``weights`` multiplied ones on one ``card``, in passes of ``batch_tokens`` tokens.

    ``utilisation`` is the share of the peak, :data:`UTILISATION`'s when it is not given. A model over several cards
    layer by layer (``device_map: auto``) is no faster: one card works at a time.
    """
    peak = 1e12 * (card.fp32 if precision == "float32" else card.bf16)
    computing = 2 * weights * batch_tokens / (peak * (UTILISATION[precision] if utilisation is None else utilisation))
    reading = weights * BYTES_A_WEIGHT[precision] / (1e12 * card.bandwidth)
    return batch_tokens / max(computing, reading)


def cards_to_hold(total: float, card: Card) -> int:
    """How many of ``card`` hold ``total`` bytes of weights, :data:`WORKING_SHARE` of each card's memory left free."""
    return math.ceil(total / 2**30 / (card.memory * (1 - WORKING_SHARE)))
