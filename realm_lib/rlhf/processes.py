"""The processes that ``accelerate launch`` started for one training: who does what, and how all learn of it."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from realm_lib.rlhf.errors import ProcessError
from realm_lib.rlhf.policies import process_state

Row = TypeVar("Row")
_Found = TypeVar("_Found")


class Peers:
    """The processes of this training, as accelerate started them; one alone without it."""

    def __init__(self) -> None:
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

        An error in one process is raised in all of them, in the others as :class:`ProcessError`: they would wait for it
        for ever.
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
            raise ProcessError("; ".join(messages))
        shares = [rows for _, rows, _ in sorted(gathered, key=lambda work: work[0])]
        total = sum(map(len, shares))
        return [shares[index % self.count][index // self.count] for index in range(total)]

    def of_main(self, work: Callable[[], _Found]) -> _Found:
        """What ``work`` returns in the process that writes files, which alone does it; the others wait for it."""
        (found,) = self.together(lambda: [work()] if self.is_main else [])
        return found

    def wait(self) -> None:
        """Until every process is here."""
        self._state.wait_for_everyone()

    def leave(self) -> None:
        """Leave the group when all are done, as the last thing that this process does with it.

        A thread of it that still is at work when the interpreter ends would abort the process.
        """
        if self.count > 1:
            self.wait()
            self._state.destroy_process_group()
