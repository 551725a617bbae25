"""How much memory a program would hold, of tensors on PyTorch's meta device, which have sizes and take none."""

import weakref
from contextlib import ExitStack
from typing import Any, Self
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

GIB = 2**30


class LiveMemory:
    """Within it every storage on the meta device is counted from its making until nothing holds it.

    ``held`` and ``peak`` are bytes. Attention is the fused one of a GPU, whose scores are never whole. What a device
    adds is not counted: its context, the work space of its kernels, what its allocator leaves unused between blocks.
    """

    def __init__(self, *models: Any) -> None:
        self.held = self.peak = 0
        self._known: set[int] = set()
        self._modes = ExitStack()
        for model in models:
            for value in (*model.parameters(), *model.buffers()):
                self.count(value)

    def __enter__(self) -> Self:
        functional = torch.nn.functional
        self._modes.enter_context(patch.object(functional, "scaled_dot_product_attention", _fused_attention))
        self._modes.enter_context(_Watched(self))
        return self

    def __exit__(self, *_: object) -> None:
        self._modes.close()

    def restart(self) -> None:
        """The peak from here on."""
        self.peak = self.held

    def count(self, value: torch.Tensor) -> None:
        """Count what ``value`` lies in, if it was not counted before."""
        storage = value.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.held += size
        self.peak = max(self.peak, self.held)
        weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.held -= size


class _Watched(TorchDispatchMode):
    def __init__(self, memory: LiveMemory) -> None:
        super().__init__()
        self.memory = memory

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and args[0].device.type == "meta":
            return True  # a question about values: whether a mask hides nothing, say
        found = func(*args, **(kwargs or {}))
        for value in tree_leaves(found):
            if isinstance(value, torch.Tensor) and value.device.type == "meta":
                self.memory.count(value)
        return found


def _fused_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,  # noqa: ARG001
) -> torch.Tensor:
    """What scaled_dot_product_attention does on a GPU and not on the meta device."""
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = (part.repeat_interleave(groups, dim=1) for part in (key, value))
    if attn_mask is not None:
        attn_mask = attn_mask.to(query.dtype).expand(*query.shape[:-1], key.shape[-2])
    found: torch.Tensor = torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, value, attn_mask, torch.is_grad_enabled(), dropout_p, is_causal, scale=scale
    )[0]
    return found
