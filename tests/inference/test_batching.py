"""The micro-batcher: gathers, computes equal texts once, pairs answers rightly, and refuses when full."""

import asyncio
import random
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realm_lib.inference.server.batching import ClosedError, MicroBatcher, QueueFullError, TimedOutError
from realm_lib.inference.server.limits import Limits

LIMITS = Limits(batch=8, queue=1000, wait=0.002, timeout=60.0)


class Worker:
    """Answers each pair with its own text; may be held, and remembers its batches."""

    def __init__(self, *, held: bool = False) -> None:
        self.go = threading.Event()
        self.begun = threading.Event()
        if not held:
            self.go.set()
        self.batches: list[list[tuple[str, str]]] = []

    def __call__(self, prompts: Sequence[str], responses: Sequence[str]) -> list[object]:
        self.begun.set()
        assert self.go.wait(60)
        self.batches.append(list(zip(prompts, responses, strict=True)))
        return [f"{prompt}|{response}" for prompt, response in zip(prompts, responses, strict=True)]


def served(
    worker: Callable[[Sequence[str], Sequence[str]], Sequence[object]],
    scenario: Callable[[MicroBatcher], Awaitable[None]],
    limits: Limits = LIMITS,
) -> None:
    """Run ``scenario`` against a batcher, and close it."""

    async def main() -> None:
        batcher = MicroBatcher(worker, limits)
        running = asyncio.create_task(batcher.run())
        await scenario(batcher)
        batcher.close()
        await asyncio.wait_for(running, 60)
        assert batcher.waiting == 0

    asyncio.run(main())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.001)


def test_every_answer_belongs_to_its_text() -> None:
    chance = random.Random(0)
    worker = Worker()

    async def scenario(batcher: MicroBatcher) -> None:
        async def client() -> None:
            for _ in range(20):
                pairs = [(f"p{chance.randrange(9)}", f"r{chance.randrange(9)}") for _ in range(chance.randrange(1, 12))]
                assert await batcher.submit(pairs) == [f"{prompt}|{response}" for prompt, response in pairs]

        await asyncio.gather(*(client() for _ in range(20)))

    served(worker, scenario)
    assert all(len(batch) == len(set(batch)) <= LIMITS.batch for batch in worker.batches)
    assert any(len(batch) > 1 for batch in worker.batches)


def test_equal_texts_are_computed_once_also_while_they_are_computed() -> None:
    worker = Worker(held=True)

    async def scenario(batcher: MicroBatcher) -> None:
        first = asyncio.create_task(batcher.submit([("p", "r"), ("p", "r")]))
        await until(worker.begun.is_set)
        later = [asyncio.create_task(batcher.submit([("p", "r")])) for _ in range(5)]
        await until(lambda: batcher.waiting == 7)
        worker.go.set()
        assert await first == ["p|r", "p|r"]
        assert await asyncio.gather(*later) == [["p|r"]] * 5

    served(worker, scenario)
    assert worker.batches == [[("p", "r")]]


def test_over_the_bound_is_refused_and_nothing_else_suffers() -> None:
    worker = Worker(held=True)

    async def scenario(batcher: MicroBatcher) -> None:
        held = [asyncio.create_task(batcher.submit([("p", str(number))])) for number in range(10)]
        await until(lambda: batcher.waiting == 10)
        with pytest.raises(QueueFullError, match="the queue holds 10"):
            await batcher.submit([("p", "one more")])
        worker.go.set()
        assert await asyncio.gather(*held) == [[f"p|{number}"] for number in range(10)]
        assert await batcher.submit([("p", "again")]) == ["p|again"]

    served(worker, scenario, replace(LIMITS, queue=10))


def test_late_answers_say_whether_the_computing_had_begun() -> None:
    worker = Worker(held=True)

    async def scenario(batcher: MicroBatcher) -> None:
        first = asyncio.create_task(batcher.submit([("p", "begun")]))
        await until(worker.begun.is_set)
        second = asyncio.create_task(batcher.submit([("p", "waits")]))
        found = await asyncio.gather(first, second, return_exceptions=True)
        assert [isinstance(error, TimedOutError) and error.started for error in found] == [True, False]
        worker.go.set()

    served(worker, scenario, replace(LIMITS, timeout=0.2))
    assert worker.batches == [[("p", "begun")]], "what nobody waits for is not computed"


def test_what_was_accepted_is_finished_and_nothing_more_is_taken() -> None:
    worker = Worker(held=True)

    async def scenario(batcher: MicroBatcher) -> None:
        accepted = [asyncio.create_task(batcher.submit([("p", str(number))])) for number in range(20)]
        await until(lambda: batcher.waiting == 20)
        batcher.close()
        with pytest.raises(ClosedError):
            await batcher.submit([("p", "late")])
        worker.go.set()
        assert await asyncio.gather(*accepted) == [[f"p|{number}"] for number in range(20)]

    served(worker, scenario)


def test_a_fault_is_the_answer_of_its_batch_and_the_worker_lives(caplog: pytest.LogCaptureFixture) -> None:
    def faulty(_: Sequence[str], responses: Sequence[str]) -> list[object]:
        if "bad" in responses:
            raise ZeroDivisionError("secret text")
        return list(responses)

    async def scenario(batcher: MicroBatcher) -> None:
        (found,) = await batcher.submit([("p", "bad")])
        assert isinstance(found, ZeroDivisionError)
        assert await batcher.submit([("p", "good"), *[("p", "good")] * 3]) == ["good"] * 4
        assert await batcher.submit([]) == []

    served(faulty, scenario)
    assert "ZeroDivisionError" in caplog.text
    assert "secret text" not in caplog.text


def test_what_was_answered_is_remembered_up_to_a_number_and_faults_are_not() -> None:
    worker = Worker()
    broken = {"times": 0}

    def compute(prompts: Sequence[str], responses: Sequence[str]) -> Sequence[object]:
        if "broken" in responses:
            broken["times"] += 1
            return [ValueError(response) for response in responses]
        return worker(prompts, responses)

    async def scenario(batcher: MicroBatcher) -> None:
        for response in ("1", "2", "1", "3", "1", "2"):
            assert await batcher.submit([("p", response)]) == [f"p|{response}"]
        assert await batcher.submit([("p", "1"), ("q", "1"), ("p", "1")]) == ["p|1", "q|1", "p|1"]
        assert await batcher.submit([("p1", "")]) == ["p1|"], "where a prompt ends is part of what is remembered"
        for _ in range(2):
            assert isinstance((await batcher.submit([("p", "broken")]))[0], ValueError)

    served(compute, scenario, replace(LIMITS, remembered=2))
    asked = [response for batch in worker.batches for _, response in batch]
    assert asked == ["1", "2", "3", "2", "1", ""], "2 was the longest unused when 3 came"
    assert broken == {"times": 2}


def test_nothing_is_remembered_where_nothing_may_be() -> None:
    worker = Worker()

    async def scenario(batcher: MicroBatcher) -> None:
        for _ in range(2):
            assert await batcher.submit([("p", "r")]) == ["p|r"]

    served(worker, scenario, replace(LIMITS, remembered=0))
    assert len(worker.batches) == 2


# Several clients


def test_one_response_is_in_the_next_batch_whatever_waits() -> None:
    worker = Worker(held=True)

    async def scenario(batcher: MicroBatcher) -> None:
        large = [asyncio.create_task(batcher.submit([("p", f"{n} {m}") for m in range(40)], "large")) for n in range(2)]
        await until(worker.begun.is_set)
        lone = [asyncio.create_task(batcher.submit([("q", "same address")], "large"))]
        lone += [asyncio.create_task(batcher.submit([("q", client)], client)) for client in ("b", "c")]
        await until(lambda: batcher.waiting == 83)
        worker.go.set()
        await asyncio.gather(*large, *lone)

    served(worker, scenario)
    asked = [pair for batch in worker.batches for pair in batch]
    assert len(asked) == len(set(asked)) == 83
    assert {("q", "b"), ("q", "c"), ("q", "same address")} <= set(worker.batches[1])
    oldest = [pair for pair in asked if pair[1].startswith("0 ")]
    rounds = next(number for number, batch in enumerate(worker.batches) if oldest[-1] in batch)
    assert rounds <= 40 / (LIMITS.batch / 2), "half of each batch is what has waited longest"


@given(sizes=st.lists(st.lists(st.integers(1, 60), min_size=1, max_size=6), min_size=1, max_size=8))
def test_a_batch_is_bounded_by_its_characters(sizes: list[list[int]]) -> None:
    worker = Worker(held=True)
    most = 2000

    async def scenario(batcher: MicroBatcher) -> None:
        asked = [
            asyncio.create_task(
                batcher.submit([("p", f"{n} {m} " + "x" * 20 * size) for m, size in enumerate(some)], n)
            )
            for n, some in enumerate(sizes)
        ]
        await until(lambda: batcher.waiting == sum(map(len, sizes)))
        worker.go.set()
        await asyncio.gather(*asked)

    served(worker, scenario, replace(LIMITS, wait=0.0, batch_characters=most))
    assert sorted(pair for batch in worker.batches for pair in batch) == sorted(
        ("p", f"{n} {m} " + "x" * 20 * size) for n, some in enumerate(sizes) for m, size in enumerate(some)
    )
    for batch in worker.batches:
        costs = sorted(len(response) for _, response in batch)
        assert sum(costs[:-2]) <= most, "but for one text in each half"


def test_a_client_that_leaves_takes_its_responses_along_but_not_those_of_others() -> None:
    worker = Worker(held=True)

    async def scenario(batcher: MicroBatcher) -> None:
        first = asyncio.create_task(batcher.submit([("p", "first")], "a"))
        await until(worker.begun.is_set)
        leaving = asyncio.create_task(batcher.submit([("p", "shared"), ("p", "own"), ("p", "first")], "a"))
        staying = asyncio.create_task(batcher.submit([("p", "shared")], "b"))
        await until(lambda: batcher.waiting == 5)
        leaving.cancel()
        await asyncio.wait({leaving})
        assert batcher.waiting == 2
        worker.go.set()
        assert await asyncio.gather(first, staying) == [["p|first"], ["p|shared"]]

    served(worker, scenario)
    assert worker.batches == [[("p", "first")], [("p", "shared")]]


def test_no_client_fills_the_queue_for_the_others() -> None:
    worker = Worker(held=True)

    async def scenario(batcher: MicroBatcher) -> None:
        def submitted(client: str, number: int) -> "asyncio.Task[list[object]]":
            return asyncio.create_task(batcher.submit([("p", f"{client} {n}") for n in range(number)], client))

        with pytest.raises(QueueFullError):
            await batcher.submit([("p", str(n)) for n in range(11)], "a")
        taken = [submitted("a", 10)]
        await until(lambda: batcher.waiting == 10)
        with pytest.raises(QueueFullError):
            await batcher.submit([("p", "one more")], "a")
        taken += [submitted("b", 4), submitted("c", 6)]
        await until(lambda: batcher.waiting == 20)
        for client in ("b", "d"):
            with pytest.raises(QueueFullError, match="20 responses wait, the queue holds 10"):
                await batcher.submit([("p", "one more")], client)
        worker.go.set()
        await asyncio.gather(*taken)
        assert await batcher.submit([("p", "again")], "a") == ["p|again"]

    served(worker, scenario, replace(LIMITS, queue=10))


def test_a_stop_answers_what_is_computed_and_gives_the_rest_up_in_time() -> None:
    worker = Worker(held=True)

    async def scenario(batcher: MicroBatcher) -> None:
        begun = asyncio.create_task(batcher.submit([("p", "begun")]))
        await until(worker.begun.is_set)
        waits = asyncio.create_task(batcher.submit([("p", "waits")]))
        await until(lambda: batcher.waiting == 2)
        batcher.close(within=0.0)
        (told,) = await waits
        assert isinstance(told, ClosedError)
        worker.go.set()
        assert await begun == ["p|begun"]

    served(worker, scenario)
    assert worker.batches == [[("p", "begun")]]
