"""What a reward model needs of this machine, calculated from its configuration before a byte of it is read."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from realm_lib.config.reward_model import RewardModelParams
from realm_lib.models.reward_models import ScorerError

HEADS = ("score", "classifier", "lm_head")
"""The layers that make the reward: small, and the whole reward hangs on them, so they are never quantised."""
_GIB = 2**30
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# Bytes a weight with what rescales it. nf4: 4 bits, and a float32 factor for each 64 weights; double quantisation
# (Dettmers et al. 2023, QLoRA, section 3) stores these factors in 8 bits with a float32 for each 256 of them.
_NF4 = 1 / 2 + 4 / 64
_NF4_DOUBLE = 1 / 2 + 1 / 64 + 4 / (64 * 256)
_RESERVE = 0.5 * _GIB
"""What the runtime itself takes: kernels, libraries, the allocator's rounding."""


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes that a model takes, calculated: its weights, and what a batch takes on its way through a layer."""

    model_id: str
    precision: str
    weights: float
    working: float

    @property
    def total(self) -> float:
        """Bytes in all."""
        return self.weights + self.working + _RESERVE

    def __str__(self) -> str:
        return (
            f"{self.model_id} in {self.precision} takes about {self.weights / _GIB:.1f} GiB for its weights and "
            f"{(self.total - self.weights) / _GIB:.1f} GiB to work in, {self.total / _GIB:.1f} GiB in all"
        )


def estimate_memory(model_class: Any, config: Any, params: RewardModelParams) -> MemoryEstimate:
    """The estimate for ``params``, from the model's layers without their weights."""
    precision = params.quantization or params.dtype
    weights = weight_bytes(lay_out(model_class, config), params.dtype, params.quantization)
    return MemoryEstimate(params.model_id, precision, weights, _working_bytes(config, params))


def lay_out(model_class: Any, config: Any) -> nn.Module:
    """The model of a configuration on torch's meta device, which holds shapes and no numbers."""
    own_class = isinstance(model_class, type) and issubclass(model_class, nn.Module)
    with torch.device("meta"):
        model: nn.Module = model_class(config) if own_class else model_class.from_config(config)
    return model


def weight_bytes(model: nn.Module, dtype: str, quantization: str | None, *, double: bool = True) -> float:
    """Bytes of ``model``'s weights: the linear layers of its body quantised, embeddings, norms and head in ``dtype``.

    ``double``: with double quantisation in 4 bit, as the scorer loads it.
    """
    heads = {id(weights) for name, part in model.named_children() if name in HEADS for weights in part.parameters()}
    quantised = {
        id(layer.weight): layer.out_features
        for layer in model.modules()
        if isinstance(layer, nn.Linear) and id(layer.weight) not in heads
    }
    total = 0.0
    for weights in model.parameters():  # a matrix that is used twice (tied embeddings) is counted once
        if quantization is None or id(weights) not in quantised:
            total += weights.numel() * _BYTES[dtype]
        elif quantization == "8bit":
            total += weights.numel() + 4 * quantised[id(weights)]  # and a float32 for each output
        else:
            total += weights.numel() * (_NF4_DOUBLE if double else _NF4)
    return total


def _working_bytes(config: Any, params: RewardModelParams) -> float:
    """The widest moment of a layer for ``batch_tokens``: the residual, its float32 norm and the MLP's three products.

    Beside it a mask of a row by a row, as bool and in the model's dtype, and in 4 or 8 bit one matrix taken apart.
    """
    size = _BYTES[params.dtype]
    hidden = getattr(config, "hidden_size", 0)
    inner = getattr(config, "intermediate_size", None) or 4 * hidden
    layer = params.batch_tokens * (hidden * (4 * size + 4) + 3 * inner * size)
    masks = params.batch_tokens * min(params.max_length, params.batch_tokens) * (2 + size)
    unpacked = hidden * inner * size if params.quantization else 0
    return float(layer + masks + unpacked)


def available_memory(device_map: str | None) -> tuple[float, str]:
    """Bytes that are free where ``device_map`` puts a model, and where that is in words."""
    wants_gpu = device_map is not None and not device_map.startswith("cpu")
    if wants_gpu and torch.cuda.is_available():
        first, _, number = (device_map or "").partition(":")
        single = first == "cuda"
        devices = [int(number or 0)] if single else list(range(torch.cuda.device_count()))
        free = sum(torch.cuda.mem_get_info(device)[0] for device in devices)
        return float(free), f"the GPU memory ({'device ' + str(devices[0]) if single else f'{len(devices)} device(s)'})"
    return _free_cpu_memory(), "the main memory" + (" (there is no GPU)" if wants_gpu else "")


def _free_cpu_memory() -> float:
    """Bytes, as the kernel estimates them, or what a container's limit leaves of them."""
    free = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        fields = dict(line.split(":", 1) for line in meminfo.read_text(encoding="ascii").splitlines())
        free = 1024.0 * int(fields["MemAvailable"].split()[0])
    limit, used = (Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory.current"))
    if limit.exists() and used.exists() and (text := limit.read_text(encoding="ascii").strip()) != "max":
        free = min(free, float(text) - float(used.read_text(encoding="ascii")))
    return free


def check_memory(estimate: MemoryEstimate, params: RewardModelParams, free: tuple[float, str] | None = None) -> None:
    """Raise :class:`ScorerError` when ``estimate`` is over what is free, unless ``allow_oversize``.

    ``free`` is bytes and where they are in words, :func:`available_memory`'s when it is not given.
    """
    size, where = free or available_memory(params.device_map)
    if estimate.total <= size or params.allow_oversize:
        return
    raise ScorerError(
        f"{estimate}; {where} has {size / _GIB:.1f} GiB free. Choose a smaller model or reward_model.quantization "
        "(4bit takes about 0.52 bytes a weight, 8bit 1, bfloat16 2, float32 4), lower batch_tokens, or load it all the "
        "same with reward_model.allow_oversize: true"
    )
