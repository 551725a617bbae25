"""A device "card" of Python, and a process group that works on it alone, as nccl does on GPUs: for a machine without.

A tensor of the card hides a tensor of the CPU (its ``raw``), and operations are passed on to it; the group hides gloo.
What the group is handed on any other device it refuses with torch's own words. Only for a program of its own: a torch
process has one such device for good.
"""

import os
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._pytree import tree_map_only

_libraries: list[torch.library.Library] = []  # what is registered goes with them


def raw(tensor: Tensor) -> Tensor:
    """The tensor of the CPU behind a tensor of the card; any other is itself."""
    return tensor.raw if tensor.device.type == "card" else tensor  # type: ignore[attr-defined]


def _on_card(tensor: Tensor) -> Tensor:
    card: Tensor = torch._C._acc.create_empty_tensor(tuple(tensor.shape), tensor.dtype)  # type: ignore[attr-defined]
    card.raw = tensor  # type: ignore[attr-defined]
    return card


def _empty(size: Sequence[int], dtype: Any = None, *_: Any, **__: Any) -> Tensor:
    return _on_card(torch.empty(size, dtype=dtype))


def _empty_strided(size: Any, stride: Any, dtype: Any = None, *_: Any, **__: Any) -> Tensor:
    return _on_card(torch.empty_strided(size, stride, dtype=dtype))


def _copy(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:  # noqa: ARG001
    raw(target).copy_(raw(source))
    return target


def _passed_on(operation: Any, *arguments: Any, **named: Any) -> Any:
    named = {name: torch.device("cpu") if name == "device" else value for name, value in named.items()}
    found = operation(*tree_map_only(Tensor, raw, arguments), **tree_map_only(Tensor, raw, named))
    in_place = operation._schema.name.endswith("_")
    return arguments[0] if in_place else tree_map_only(Tensor, _on_card, found)


class _CardModule(backend_registration._DummyBackendModule):
    """What torch asks of a device; nothing is random on this one."""

    def get_rng_state(self, device: Any = None) -> Tensor:  # noqa: ARG002
        return torch.zeros(1, dtype=torch.uint8)

    def set_rng_state(self, state: Tensor, device: Any = None) -> None:
        pass


class CardGroup(dist.ProcessGroup):
    """Collectives between tensors of the card."""

    def __init__(self, store: dist.Store, rank: int, size: int, timeout: timedelta) -> None:
        super().__init__(rank, size)
        self._gloo = dist.ProcessGroupGloo(store, rank, size, timeout)

    @property
    def _device_types(self) -> list[torch.device]:
        return [torch.device("card")]

    def getBackendName(self) -> str:
        return "card_group"

    def _raw(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        for tensor in tensors:
            if tensor.device.type != "card":
                raise RuntimeError(f"No backend type associated with device type {tensor.device.type}")
        return [raw(tensor) for tensor in tensors]

    def allreduce(self, tensors: Any, opts: Any = None) -> Any:
        return self._gloo.allreduce(self._raw(tensors), opts or dist.AllreduceOptions())

    def allgather(self, outputs: Any, tensors: Any, opts: Any = None) -> Any:
        gathered = [self._raw(output) for output in outputs]
        return self._gloo.allgather(gathered, self._raw(tensors), opts or dist.AllgatherOptions())

    def barrier(self, opts: Any = None) -> Any:  # noqa: ARG002, its options name a GPU
        return self._gloo.barrier(dist.BarrierOptions())


def join_by_card() -> None:
    """Make the card, join the other processes that ``accelerate launch`` started, and tell accelerate its device."""
    backend_registration._setup_privateuseone_for_python_backend("card", _CardModule())
    aten, everything = torch.library.Library("aten", "IMPL"), torch.library.Library("_", "IMPL")
    _libraries.extend([aten, everything])
    for name, made in (("empty.memory_format", _empty), ("empty_strided", _empty_strided), ("_copy_from", _copy)):
        aten.impl(name, made, "PrivateUse1")
    everything.fallback(_passed_on, "PrivateUse1")
    dist.Backend.register_backend("card_group", CardGroup, devices=["card"])
    dist.init_process_group("card:card_group")
    os.environ["ACCELERATE_TORCH_DEVICE"] = "card:0"
