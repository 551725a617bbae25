"""A model whose weights are cut over the processes of ``accelerate launch``, by PyTorch's FSDP2 (``fully_shard``).

Each decoder layer is a unit, and what is around the layers another one. A layer's weights are gathered right before it
runs and let go of after it, so that a process holds its share of all weights and one layer whole. Every forward pass is
therefore one of all processes together: they must run equally many, in one order.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from realm_lib.rlhf.errors import PolicyError

_Found = TypeVar("_Found")
_OTHERS = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed steps by its own engine, which DPO takes (through TRL) and PPO does not",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron trains models of its own only",
}


@dataclass(frozen=True)
class Sharding:
    """What accelerate's configuration says of how weights are cut; :func:`asked_sharding` reads it."""

    reshard: bool
    """``fsdp_reshard_after_forward``: a layer's weights are let go of after each pass. False keeps them for a whole
    rollout, and from a forward pass to its backward pass: as fast as whole weights, and as large for that long."""
    dtype: torch.dtype | None
    """``mixed_precision``: what layers compute in, where that is not the weights' own type."""
    layers: tuple[str, ...]
    """``fsdp_transformer_layer_cls_to_wrap``: classes of the layers; none takes those that the model names itself."""


def asked_sharding() -> Sharding | None:
    """How accelerate was configured to cut weights over processes; None where each process is to hold them whole.

    Raises :class:`PolicyError` for what cannot be done here: other engines than FSDP, its first version, and settings
    that would change what else this process loads.
    """
    for name, why in _OTHERS.items():
        if _is_set(name):
            raise PolicyError(f"{name} is set: {why}. Weights are cut by FSDP: launch with params/accelerate/fsdp.yaml")
    if not _is_set("ACCELERATE_USE_FSDP"):
        return None
    if os.environ.get("FSDP_VERSION") != "2":
        raise PolicyError("accelerate is set to FSDP's first version: set fsdp_version: 2")
    refused = {
        # transformers then leaves the weights of every model empty in all processes but the first, rewards' too.
        "FSDP_CPU_RAM_EFFICIENT_LOADING": "fsdp_cpu_ram_efficient_loading",
        "FSDP_OFFLOAD_PARAMS": "fsdp_offload_params",
        # What the parameters say (rlhf.ppo.gradient_checkpointing) would be done twice.
        "FSDP_ACTIVATION_CHECKPOINTING": "fsdp_activation_checkpointing",
    }
    for name, setting in refused.items():
        if _is_set(name):
            raise PolicyError(f"accelerate's {setting} is not for this: set it to false")
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if precision not in {"no", "bf16"}:
        raise PolicyError(f"accelerate's mixed_precision is {precision}: set it to bf16, or to no")
    layers = os.environ.get("FSDP_TRANSFORMER_CLS_TO_WRAP", "")
    return Sharding(
        reshard=_is_set("FSDP_RESHARD_AFTER_FORWARD", "true"),
        dtype=torch.bfloat16 if precision == "bf16" else None,
        layers=tuple(name.strip() for name in layers.split(",") if name.strip()),
    )


def _is_set(name: str, default: str = "false") -> bool:
    return os.environ.get(name, default).lower() in {"true", "1", "yes"}


class _Root(nn.Module):
    """A model whose forward pass is any work with it: FSDP gathers weights around a module's forward pass alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, work: Callable[[], Any]) -> Any:
        return work()


class Shards:
    """The cut weights of one model, which stays the object that it was; its modules are changed in place."""

    def __init__(self, model: Any, sharding: Sharding, device: torch.device) -> None:
        """Cut ``model``, which may lie on the CPU, over all processes, onto each one's ``device``.

        Raises :class:`PolicyError` for a model whose layers are not known, and for 4-bit weights.
        """
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

        if any(not value.is_floating_point() for value in model.parameters()):
            raise PolicyError(
                "4-bit weights are not cut over processes: set quantization null, dtype bfloat16 and lora"
            )
        layers = _layers(model, sharding.layers)
        options: dict[str, Any] = {
            "mesh": init_device_mesh(device.type, (dist.get_world_size(),)),
            # Gradients are summed in float32, whatever the layers compute in.
            "mp_policy": MixedPrecisionPolicy(param_dtype=sharding.dtype, reduce_dtype=torch.float32),
            "reshard_after_forward": sharding.reshard,
        }
        self._device = device
        for layer in layers:
            fully_shard(layer, **options)
        self._root = _Root(model)
        fully_shard(self._root, **options)
        self._units = [module for module in self._root.modules() if isinstance(module, FSDPModule)]
        for unit in self._units:
            # Sums of gradients, not means: losses are divided by the tokens of all processes. gloo has sums alone.
            unit.set_force_sum_reduction_for_comms(True)
            unit.set_gradient_divide_factor(1.0)

    def run(self, work: Callable[[], _Found]) -> _Found:
        """What ``work`` returns, which may use the model in any way; tensors to go back through: in a tuple."""
        found: _Found = self._root(work)
        return found

    def any(self, flag: bool) -> bool:
        """Whether ``flag`` holds in any process."""
        flags = torch.tensor(int(flag), device=self._device)
        dist.all_reduce(flags, dist.ReduceOp.MAX)
        return bool(flags)

    def let_go(self) -> None:
        """Keep this process's share of the weights alone, as before the first pass; then they may be changed."""
        for unit in self._units:
            unit.reshard()


def _layers(model: nn.Module, names: Sequence[str]) -> list[nn.Module]:
    """The decoder layers by the names of their classes, the innermost first. Raises :class:`PolicyError` for none."""
    wanted = set(names or getattr(model, "_no_split_modules", None) or ())
    found = [module for module in model.modules() if type(module).__name__ in wanted]
    if not found:
        raise PolicyError(
            f"{type(model).__name__}: no layers {sorted(wanted)} to cut it at: name their class in accelerate's "
            "fsdp_transformer_layer_cls_to_wrap"
        )
    return found[::-1]


def run(shards: Shards | None, work: Callable[[], _Found]) -> _Found:
    """``work`` with a model that is cut, or (None) with one that is whole."""
    return work() if shards is None else shards.run(work)


def local_part(value: Tensor) -> Tensor:
    """What this process holds of ``value``, sharing its memory: a part of the first dimension, or all of it."""
    from torch.distributed.tensor import DTensor

    return value._local_tensor.detach() if isinstance(value, DTensor) else value


def local_weights(parameters: Iterable[Tensor]) -> int:
    """Numbers that this process holds of ``parameters``."""
    return sum(local_part(value).numel() for value in parameters)


def full_state_dict(model: nn.Module, *, trained: bool) -> dict[str, Tensor]:
    """The whole weights of a model that is cut, on the CPU of the first process; empty in the others.

    ``trained`` takes those with a gradient alone, as an adapter's. One tensor at a time is whole on a device. All
    processes must call this.
    """
    kept = {name for name, value in model.named_parameters() if value.requires_grad}
    whole: dict[int, Tensor] = {}  # tied weights stay one tensor
    found = {}
    for name, value in model.state_dict(keep_vars=True).items():
        if trained and name not in kept:
            continue
        if id(value) not in whole:
            tensor = value.detach()
            tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
            whole[id(value)] = tensor.cpu() if dist.get_rank() == 0 else torch.empty(0)
        found[name] = whole[id(value)]
    return found if dist.get_rank() == 0 else {}


def clip_gradients(parameters: Sequence[Tensor], max_norm: float) -> float:
    """Scale the gradients of ``parameters``, cut or whole, down to ``max_norm`` together; their norm before that.

    Whole ones must be the same in all processes. As :func:`torch.nn.utils.clip_grad_norm_`, which takes no mixture.
    """
    gradients = [value.grad for value in parameters if value.grad is not None]
    parts = [local_part(gradient) for gradient in gradients]
    cut = [part for part, gradient in zip(parts, gradients, strict=True) if part is not gradient]
    if not cut:
        return float(nn.utils.clip_grad_norm_(parameters, max_norm))
    squares = nn.utils.get_total_norm(cut) ** 2
    dist.all_reduce(squares)
    same = [part for part, gradient in zip(parts, gradients, strict=True) if part is gradient]
    norm = torch.sqrt(squares + nn.utils.get_total_norm(same).to(squares) ** 2)
    torch._foreach_mul_(parts, torch.clamp(max_norm / (norm + 1e-6), max=1.0))
    return float(norm)
