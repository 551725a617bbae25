"""What a GGUF file says before its weights: metadata, and which tensors it holds."""

import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

_NEEDED = (
    "context_length",
    "embedding_length",
    "block_count",
    "feed_forward_length",
    "attention.head_count",
    "attention.layer_norm_rms_epsilon",
)
"""What llama.cpp does not load a model without, either."""


class GGUFError(ValueError):
    """A GGUF file that is not read, or not exactly; the message names the file and says what to do."""


class HeldTensor(NamedTuple):
    """A tensor, as a header describes it."""

    shape: tuple[int, ...]
    """As torch has it."""
    type: str
    """ggml's name for how its numbers are stored, as ``Q4_1``."""


@dataclass(frozen=True)
class Header:
    """The part of a GGUF file that comes before its weights."""

    metadata: dict[str, Any]
    """By the file's keys; a vocabulary as its length."""
    tensors: dict[str, HeldTensor]
    """By the file's names."""

    @property
    def kind(self) -> str:
        """Its architecture."""
        return str(self.metadata["general.architecture"])

    def about(self, key: str) -> Any:
        """What it says of its architecture's ``key``; None where it does not."""
        return self.metadata.get(f"{self.kind}.{key}")

    def lacks(self) -> str | None:
        """The first key that a language model's file has and this one does not."""
        return next((f"{self.kind}.{key}" for key in _NEEDED if self.about(key) is None), None)


def read_header(file: Path) -> Header:
    """Read what comes before the weights, in some hundredths of a second.

    Raises :class:`GGUFError` for what is no GGUF file, and for one that ends before its weights do.
    """
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
    from transformers.integrations.gguf import reader  # its GgufHeader refuses types that the package gguf unpacks

    tensors = {}
    try:
        content = reader._mapped(str(file))
        metadata, count, position = reader._read_metadata(content, str(file))
        table, position = reader._read_tensor_table(content, count, position)
        alignment = metadata.get("general.alignment", 32)
        end = start = -(-position // alignment) * alignment
        for name, shape, number, offset in table:
            stored = GGMLQuantizationType(number)
            elements, size = GGML_QUANT_SIZES[stored]
            end = max(end, start + offset + prod(shape) // elements * size)
            tensors[name] = HeldTensor(tuple(shape), stored.name)
    except (ValueError, TypeError, OverflowError, ZeroDivisionError, struct.error) as error:
        raise unreadable(file, error) from error
    if end > len(content):
        raise unreadable(file, f"its weights end at byte {end:,}, the file at {len(content):,}")
    return Header(metadata, tensors)


def unreadable(file: Path, fault: object) -> GGUFError:
    """The error for a file that is not whole."""
    return GGUFError(f"{file}: cannot be read as GGUF ({fault}): download it again")
