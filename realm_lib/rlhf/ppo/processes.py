"""One process or several under ``accelerate launch``: who samples what, and how their work becomes one update.

Every process samples and rewards its share of a rollout; the rows, which are small, are then exchanged, so that
whitening, advantages and minibatches are computed from the whole rollout and are the same in each. Gradients are
summed: each process divides its losses by the tokens of all.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from realm_lib.rlhf.errors import PPOError
from realm_lib.rlhf.policies import process_state

Row = TypeVar("Row")
_SHARDING = ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_MEGATRON_LM")


class Processes:
    """The processes of this training, as accelerate started them.

    Raises :class:`PPOError` where accelerate is configured to split a model's weights over processes.
    """

    def __init__(self) -> None:
        for name in _SHARDING:
            if os.environ.get(name, "false").lower() == "true":
                raise PPOError(f"{name} is set: every process here holds the whole model; use plain data parallelism")
        self._state = process_state()
        self.count: int = self._state.num_processes
        self.rank: int = self._state.process_index

    @property
    def is_main(self) -> bool:
        """Whether this process writes files."""
        return self.rank == 0

    def share(self, rows: Sequence[Row]) -> Sequence[Row]:
        """This process's part of ``rows``: every n-th."""
        return rows[self.rank :: self.count]

    def together(self, work: Callable[[], Sequence[Row]]) -> list[Row]:
        """``work`` done by each process on its :meth:`share`, and all rows in their first order.

        An error in one process is raised in all of them: the others would wait for it for ever.
        """
        if self.count == 1:
            return list(work())
        from accelerate.utils import gather_object

        rows: Sequence[Row] = []
        failed: Exception | None = None
        try:
            rows = work()
        except Exception as error:
            failed = error
        gathered = gather_object([(self.rank, list(rows), None if failed is None else str(failed))])
        if failed is not None:
            raise failed
        if messages := [f"process {rank}: {message}" for rank, _, message in gathered if message is not None]:
            raise PPOError("; ".join(messages))
        shares = [rows for _, rows, _ in sorted(gathered, key=lambda work: work[0])]
        total = sum(map(len, shares))
        return [shares[index % self.count][index // self.count] for index in range(total)]

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

    def wait(self) -> None:
        """Until every process is here."""
        self._state.wait_for_everyone()
