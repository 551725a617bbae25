"""Whose text is computed next, when several clients wait: whoever has had the least so far, by cost."""

from collections import deque
from collections.abc import Callable, Hashable, Iterable
from typing import Generic, TypeVar

Item = TypeVar("Item")


class _Share(Generic[Item]):
    """Parties that have something waiting, and what each has had (start-time fair queueing).

    A party that comes begins where the last one was served: it neither waits for what others had before it came, nor
    can it save up what it did not ask for.
    """

    def __init__(self) -> None:
        self.parties: dict[Hashable, Item] = {}
        self._had: dict[Hashable, float] = {}
        self._now = 0.0

    def join(self, key: Hashable, party: Item) -> Item:
        self._had.setdefault(key, self._now)
        return self.parties.setdefault(key, party)

    def next(self) -> Hashable:
        return min(self._had, key=self._had.__getitem__)  # of equals the one that came first

    def charge(self, key: Hashable, cost: float) -> None:
        self._now = self._had[key]
        self._had[key] += cost

    def leave(self, key: Hashable) -> None:
        del self.parties[key], self._had[key]


class Turns(Generic[Item]):
    """Items of requests of clients. Each client has the same share, by cost, and within it each of its requests."""

    def __init__(self) -> None:
        self._clients: _Share[_Share[deque[tuple[Item, float]]]] = _Share()

    def add(self, client: Hashable, request: Hashable, items: Iterable[tuple[Item, float]]) -> None:
        """Items with their costs, at least one; ``request`` is new."""
        self._clients.join(client, _Share()).join(request, deque(items))

    def take(self, wanted: Callable[[Item], bool]) -> Item | None:
        """The next item that is ``wanted``, which its client and its request are charged; None when none is left.

        Those that come before it and are not wanted any more leave, and nobody is charged.
        """
        while self._clients.parties:
            client = self._clients.next()
            requests = self._clients.parties[client]
            request = requests.next()
            item, cost = requests.parties[request].popleft()
            taken = wanted(item)
            if taken:
                self._clients.charge(client, cost)
                requests.charge(request, cost)
            if not requests.parties[request]:
                self.drop(client, request)
            if taken:
                return item
        return None

    def drop(self, client: Hashable, request: Hashable) -> None:
        """What is left of a request leaves, if there is anything."""
        requests = self._clients.parties.get(client)
        if requests is None or request not in requests.parties:
            return
        requests.leave(request)
        if not requests.parties:
            self._clients.leave(client)
