"""Turns: nobody loses anything, and whoever waits has had as much as the others, up to one item."""

from hypothesis import given
from hypothesis import strategies as st

from realm_lib.inference.server.turns import Turns

COSTS = st.lists(st.integers(1, 100), min_size=1, max_size=12)


@given(clients=st.lists(st.lists(COSTS, min_size=1, max_size=4), min_size=1, max_size=5))
def test_all_is_taken_once_and_shares_differ_by_one_item_at_most(clients: list[list[list[int]]]) -> None:
    turns: Turns[tuple[int, int, int]] = Turns()
    costs = {}
    for client, requests in enumerate(clients):
        for request, some in enumerate(requests):
            items = {(client, request, place): cost for place, cost in enumerate(some)}
            costs |= items
            turns.add(client, request, items.items())
    had = [0] * len(clients)
    left = [sum(map(len, requests)) for requests in clients]
    dearest = max(costs.values())
    taken = []
    while (item := turns.take(lambda _: True)) is not None:
        taken.append(item)
        had[item[0]] += costs[item]
        left[item[0]] -= 1
        waiting = [client for client, number in enumerate(left) if number]
        for client in waiting:
            assert max(had) - had[client] <= dearest or max(had[other] for other in waiting) - had[client] <= dearest
    assert sorted(taken) == sorted(costs)
    for client, requests in enumerate(clients):
        for request in range(len(requests)):
            own = [place for one, other, place in taken if (one, other) == (client, request)]
            assert own == sorted(own), "within a request the order is that of the request"


@given(costs=COSTS, before=st.integers(0, 11))
def test_who_comes_is_next_whatever_another_has_waiting(costs: list[int], before: int) -> None:
    turns: Turns[str] = Turns()
    turns.add("a", 1, [("a", cost) for cost in costs])
    for _ in range(min(before, len(costs) - 1)):
        turns.take(lambda _: True)
    turns.add("b", 2, [("b", 1)])
    first = [turns.take(lambda _: True) for _ in range(2)]
    assert "b" in first
    if before and len(costs) > 1:
        assert first[0] == "b"


def test_what_is_not_wanted_leaves_and_costs_nothing() -> None:
    turns: Turns[str] = Turns()
    turns.add("a", 1, [("gone", 100), ("a", 1)])
    turns.add("b", 2, [("b", 1)])
    assert [turns.take(lambda item: item != "gone") for _ in range(3)] == ["a", "b", None]


def test_a_dropped_request_leaves_the_others_of_its_client() -> None:
    turns: Turns[str] = Turns()
    turns.add("a", 1, [("first", 1), ("first too", 1)])
    turns.add("a", 2, [("second", 1)])
    turns.drop("a", 1)
    turns.drop("a", 1)
    turns.drop("nobody", 3)
    assert [turns.take(lambda _: True) for _ in range(2)] == ["second", None]
