"""One process or several under ``accelerate launch``: who samples what, and how their work becomes one update.

Every process samples and rewards its share of a rollout; the rows, which are small, are then exchanged, so that
whitening, advantages and minibatches are computed from the whole rollout and are the same in each. Gradients are
summed: each process divides its losses by the tokens of all.

Where weights are cut over processes (:mod:`realm_lib.rlhf.policies.sharding`), their passes are made in step: equally
many, each with as many rows.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from realm_lib.rlhf.errors import PPOError
from realm_lib.rlhf.policies import PolicyError, asked_sharding
from realm_lib.rlhf.processes import Peers

Row = TypeVar("Row")
_Found = TypeVar("_Found")


class Processes(Peers):
    """The processes of this training, as accelerate started them.

    Raises :class:`PPOError` where accelerate is configured to split weights over processes in a way that is not
    supported: see :func:`realm_lib.rlhf.policies.asked_sharding`.
    """

    def __init__(self) -> None:
        try:
            sharding = asked_sharding()
        except PolicyError as error:
            raise PPOError(str(error)) from error
        super().__init__()
        self.sharding = sharding if self.count > 1 else None
        """How weights are cut over the processes; None where each holds them whole."""

    def shared(self, rows: Sequence[Row], work: Callable[[Sequence[Row]], Sequence[_Found]]) -> list[_Found]:
        """``work`` done by each process on its share of ``rows``: what all found, in the rows' order.

        Where weights are cut, ``work`` is one in step: shares are filled up to one length, what is found twice is left
        out, and an error ends this process at once (the launcher then ends the others), since no other can be told of
        it in the middle of a pass.
        """
        if self.sharding is None:
            return self.together(lambda: work(self.share(rows)))
        surplus = -len(rows) % self.count
        found = work(self.share([*rows, *list(rows[-1:]) * surplus]))
        return self.together(lambda: found)[: len(rows)]

    def agreed(self, work: Callable[[], _Found]) -> _Found:
        """What ``work`` returns, which may fail in one process between passes that are made in step.

        Its error is then raised in all of them.
        """
        if self.sharding is None:
            return work()
        found: list[_Found] = []

        def once() -> Sequence[None]:
            found.append(work())
            return ()

        self.together(once)
        return found[0]

    def one_of(self, own: str) -> str:
        """A digest of every process's ``own`` where weights are cut, each of which tells of a part; else ``own``."""
        if self.sharding is None:
            return own
        return hashlib.sha256("".join(self.together(lambda: [own])).encode()).hexdigest()

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace each gradient by its sum over processes, in one message a dtype."""
        if self.count == 1:
            return
        by_dtype: dict[torch.dtype, list[Tensor]] = {}
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            by_dtype.setdefault(parameter.dtype, []).append(parameter.grad)
        for group in by_dtype.values():
            flat = self.sum(torch.cat([gradient.flatten() for gradient in group]))
            for gradient, summed in zip(group, torch.split(flat, [part.numel() for part in group]), strict=True):
                gradient.copy_(summed.view_as(gradient))

    def sum(self, values: Tensor) -> Tensor:
        """The sum of ``values`` over processes, in their dtype and on their device.

        It is made on this process's own device: on GPUs accelerate opens nccl alone, which takes no tensor of the CPU.
        ``values`` themselves may be overwritten.
        """
        if self.count == 1:
            return values
        own = values.to(self._state.device)
        torch.distributed.all_reduce(own)
        return own.to(values.device)
