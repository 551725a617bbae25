"""A batch of pairs shared by several processes, whose update is the one that a single process would have made.

Each process takes its part of every batch of the one order that a single process goes through. Where the last batch
does not fill all parts it is filled up with pairs whose two responses are the same: they have no gradient, and what
they would add to loss and means is taken off.

The weights may be cut over the processes (FSDP, DeepSpeed's ZeRO-3). Trainer then has a copy of the policy to cut; the
policy itself stays whole on the CPU, where what was trained is copied back into it.
"""

import copy
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from realm_lib.config.rlhf import DPOParams
from realm_lib.rlhf.dpo.loss import dpo_losses
from realm_lib.rlhf.dpo.pairs import PreferencePairs
from realm_lib.rlhf.errors import DPOError
from realm_lib.rlhf.policies import Policy, process_state
from realm_lib.rlhf.policies.sharding import asked_sharding
from realm_lib.rlhf.processes import Peers

IDS = ["prompt_ids", "chosen_ids", "rejected_ids"]
FILLER = "filler"
_PER_PAIR = ("rewards/margins", "rewards/accuracies")


def check_shares(params: DPOParams, peers: Peers) -> None:
    """Raise :class:`DPOError` for a batch that the processes cannot share, and for weights that cannot be cut."""
    parts = params.gradient_accumulation * peers.count
    if params.batch_size % parts:
        raise DPOError(
            f"rlhf.dpo.batch_size {params.batch_size} is not a multiple of gradient_accumulation "
            f"{params.gradient_accumulation} times {peers.count} processes: change one"
        )
    if peers.count == 1:
        return
    if params.device_map is not None:
        raise DPOError("rlhf.dpo.device_map: each of several processes has a device of its own; set it to null")
    if cutting() is not None and params.quantization is not None:
        raise DPOError("rlhf.dpo.quantization: 4bit weights are not cut over processes; launch with ddp.yaml, or null")
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if precision != "no":
        raise DPOError(f"accelerate's mixed_precision is {precision}: set it to no; rlhf.dpo.dtype says what DPO takes")


def cutting() -> Literal["fsdp", "deepspeed"] | None:
    """What cuts the trained weights over processes, as accelerate was configured; None where each holds them whole.

    Raises :class:`realm_lib.rlhf.policies.PolicyError` for settings of FSDP that cannot be served.
    """
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true":
        return "deepspeed"
    return None if asked_sharding() is None else "fsdp"


def filled(columns: dict[str, list[Any]], batch: int) -> dict[str, list[Any]]:
    """``columns`` of pairs with fillers behind, up to a multiple of ``batch``, and the column that tells them."""
    pairs = len(columns["chosen_ids"])
    fillers = -pairs % batch
    first = {name: values[0] for name, values in columns.items()}
    first |= {name: first[name.replace("rejected", "chosen")] for name in first if "rejected" in name}
    found = {name: [*values, *[first[name]] * fillers] for name, values in columns.items()}
    return {**found, FILLER: [False] * pairs + [True] * fillers}


class Order(torch.utils.data.Sampler[int]):
    """The order of pairs in an epoch, that of accelerate's ``SeedableRandomSampler``, and the fillers behind them."""

    def __init__(self, pairs: int, rows: int, seed: int, epoch: Callable[[], float | None]) -> None:
        self._pairs, self._rows, self._seed, self._epoch = pairs, rows, seed, epoch

    def __len__(self) -> int:
        return self._rows

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed + int(self._epoch() or 0))
        yield from torch.randperm(self._pairs, generator=generator).tolist()
        yield from range(self._pairs, self._rows)


class Collator:
    """TRL's collator, which also counts the fillers of its rows."""

    def __init__(self, collate: Callable[[Sequence[Mapping[str, Any]]], dict[str, Tensor]]) -> None:
        self._collate = collate

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """The batch of these rows, and how many of them are none."""
        return {**self._collate(rows), FILLER: torch.tensor([sum(bool(row[FILLER]) for row in rows)])}


def without_fillers(loss: Tensor, fillers: Tensor, rows: int, trainer: Any, params: DPOParams) -> Tensor:
    """This process's ``loss`` over ``rows`` pairs, such that the mean over processes is that over real pairs.

    ``fillers`` [1] says how many of the rows are none. The means that TRL has just kept are put right too.
    """
    missing = int(trainer.accelerator.gather(fillers).sum())
    if not missing:
        return loss
    count = trainer.accelerator.num_processes
    real = rows * count - missing
    scale = rows * count / real
    for name in _PER_PAIR:  # fillers have a margin of 0, which is not above 0
        trainer._metrics["train"][name][-1] *= scale
    length = [1]
    (nothing,) = dpo_losses(
        [0.0], [0.0], loss_type=params.loss_type, beta=params.beta, chosen_lengths=length, rejected_lengths=length
    )
    shared: Tensor = loss * scale - int(fillers) * float(nothing) * count / real
    return shared


@torch.no_grad()
def log_probs(trainer: Any, pairs: PreferencePairs, batch_size: int) -> dict[str, list[NDArray[np.float32]]]:
    """log pi of both responses of each pair under what is trained now, an array of one number each, by side.

    All processes must call this: each takes as many passes of as many rows.
    """
    peers, model = Peers(), trainer.model_wrapped
    rows = pairs.table[IDS].to_dict("records")
    mine = peers.share([*rows, *(rows[-1:] * (-len(rows) % peers.count))])
    found: list[tuple[float, float]] = []
    training = model.training
    model.eval()
    for start in range(0, len(mine), batch_size):
        some = [{**row, FILLER: False} for row in mine[start : start + batch_size]]
        batch = {name: value.to(process_state().device) for name, value in trainer.data_collator(some).items()}
        labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, -100)
        asked = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "labels": labels}
        sums = model(**asked, use_cache=False, fused_lm_head=True).log_probs.sum(dim=1)
        found += zip(*(side.float().cpu().tolist() for side in sums.chunk(2)), strict=True)
    model.train(training)
    sides = zip(*peers.together(lambda: found)[: len(rows)], strict=True)
    return {
        side: [np.array([value], dtype=np.float32) for value in values]
        for side, values in zip(("chosen", "rejected"), sides, strict=True)
    }


def model_to_cut(policy: Policy) -> Any:
    """A copy of the policy's model that may be cut; the policy's own waits on the CPU."""
    policy.model.to("cpu")
    return copy.deepcopy(policy.model)


def take_whole(policy: Policy, trained: Any) -> None:
    """Copy the weights of ``trained``, cut over the processes, into ``policy``, by all processes together.

    One tensor at a time is whole on a device.
    """
    own = dict(policy.model.named_parameters())
    with torch.no_grad():
        for name, value in trained.named_parameters():
            if value.requires_grad:
                with _gathered(value) as whole:
                    own[name].copy_(whole)
    policy.model.to(process_state().device)


@contextmanager
def _gathered(value: Tensor) -> Iterator[Tensor]:
    from torch.distributed.tensor import DTensor

    if hasattr(value, "ds_id"):  # one of ZeRO-3
        import deepspeed

        with deepspeed.zero.GatheredParameters(value):
            yield value.detach()
    else:
        yield value.full_tensor() if isinstance(value, DTensor) else value.detach()
