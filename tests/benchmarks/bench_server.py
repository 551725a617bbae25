"""Load on ``realm serve``: every answer checked, gathered requests against one at a time, and overload.

Run with ``python tests/benchmarks/bench_server.py outputs/demo``, after ``make``; ``--before FOLDER`` measures another
working tree's server, on its own outputs/demo, beside it. The table is that of docs/measurements.md. 64 clients ask as
OpenRLHF does, a response a request. Two loads: a rollout, eight responses to each post, all different; and a data set,
the two responses of pair after pair, a response standing in several pairs as in SHP. Two servers share the machine:
ours, and one that gets one request after the other from one client and keeps nothing (the same code, batches of one);
they take turns, round by round, the slow one with the first quarter of each round's requests. The clients run on the
same cores.
Then a lone client asks for one response after the other, beside one that sends lists of 256 long ones without a pause.
"""

import argparse
import asyncio
import json
import random
import statistics
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from http.client import HTTPConnection
from itertools import islice
from pathlib import Path
from urllib.parse import urlsplit

import httpx

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

from realm_lib.data.simulator import simulate_pairs, simulate_posts  # noqa: E402

CLIENTS = 64
ROUNDS = 8
TOLERANCE = 1e-4
LONG, LONE = 256, 24
"""Responses in a list of long ones; requests of the client that asks beside it."""
SLOW = "one at a time"

Pair = tuple[str, str]


def rollout(number: int) -> list[Pair]:
    """Distinct (post, response): eight responses to a post, of that post and others."""
    chance = random.Random(0)
    posts = list(islice(simulate_posts(seed=7, split="test"), number // 8 + 1))
    responses = [comment.text for post in posts for comment in post.comments]
    pairs = [(post.text, response) for post in posts for response in chance.sample(responses, 8)]
    return pairs[:number]


def data_set(number: int) -> list[Pair]:
    """Both responses of each pair of the demo's test split, in its order."""
    rows = simulate_pairs(number // 2, seed=7, split="test")
    return [(row["history"], row[side]) for row in rows for side in ("human_ref_A", "human_ref_B")]


def ask_all(
    url: str, pairs: Sequence[Pair], wanted: dict[Pair, float], clients: int = CLIENTS
) -> tuple[float, list[float], int]:
    """Seconds in all, seconds of each request, and how many answers were wrong or no answers."""
    left, lock = iter(pairs), threading.Lock()
    took: list[float] = []
    wrong: list[Pair] = []

    def client(_: int) -> None:
        connection = HTTPConnection(urlsplit(url).netloc, timeout=600)
        while True:
            with lock:
                pair = next(left, None)
            if pair is None:
                return connection.close()
            body = json.dumps({"query": ["".join(pair)], "prompts": [pair[0]]})
            start = time.perf_counter()
            connection.request("POST", "/get_reward", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            content = answer.read()
            took.append(time.perf_counter() - start)
            if answer.status != 200 or abs(json.loads(content)["rewards"][0] - wanted[pair]) >= TOLERANCE:
                wrong.append(pair)

    start = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(client, range(clients)))
    return time.perf_counter() - start, took, len(wrong)


async def overload(url: str, pairs: list[Pair]) -> dict[str, int]:
    """Statuses when 64 clients send lists to a server that holds 64 responses; refused ones do not come back."""
    statuses: dict[str, int] = {}

    async def client(http: httpx.AsyncClient, number: int) -> None:
        for start in range(number * 8, len(pairs) - 8, CLIENTS * 8):
            some = pairs[start : start + 8]
            body = {"prompt": [prompt for prompt, _ in some], "response": [response for _, response in some]}
            answer = await http.post(f"{url}/predict", json=body)
            key = str(answer.status_code) + (" with Retry-After" if "retry-after" in answer.headers else "")
            statuses[key] = statuses.get(key, 0) + 1

    async with httpx.AsyncClient(timeout=600, limits=httpx.Limits(max_connections=CLIENTS)) as http:
        await asyncio.gather(*(client(http, number) for number in range(CLIENTS)))
    return statuses


def memory(url: str) -> float:
    """MiB that the server holds."""
    lines = httpx.get(f"{url}/metrics", timeout=60).text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("process_resident")) / 2**20


def long_texts(number: int) -> list[Pair]:
    """Posts with six responses as one, of 1,500 characters: close to the most that the demo's model reads."""
    chance = random.Random(1)
    posts = list(islice(simulate_posts(seed=7, split="test"), 64))
    responses = [comment.text for post in posts for comment in post.comments]
    return [(chance.choice(posts).text, " ".join(chance.sample(responses, 6))[:1500]) for _ in range(number)]


def beside_long_ones(url: str) -> list[float]:
    """Seconds of each request of a lone client."""
    over = threading.Event()
    sent: list[int] = []

    def flood(_: int) -> None:
        with httpx.Client(timeout=600) as http:
            while not over.is_set():
                prompts, responses = zip(*long_texts(LONG), strict=True)
                new = [f"{len(sent)} {text}" for text in responses]
                sent.append(http.post(f"{url}/predict", json={"prompt": list(prompts), "response": new}).status_code)

    took = []
    with ThreadPoolExecutor(1) as pool, httpx.Client(timeout=600) as http:
        flooding = pool.submit(flood, 0)
        time.sleep(1)
        for number in range(LONE):
            start = time.perf_counter()
            body = {"prompt": "Why does bread rise?", "response": f"Yeast makes gas, {number}."}
            http.post(f"{url}/predict", json=body).raise_for_status()
            took.append(time.perf_counter() - start)
        over.set()
        flooding.result()
    assert set(sent) == {200}, sent
    return took


def percentile_99(each: Sequence[float]) -> float:
    return statistics.quantiles(each, n=100, method="inclusive")[98]


def take_turns(load: str, servers: dict[str, str], pairs: Sequence[Pair], wanted: dict[Pair, float]) -> int:
    """Print what each server reached, in rows of a table; how many answers were wrong."""
    seconds = dict.fromkeys(servers, 0.0)
    latencies: dict[str, list[float]] = {name: [] for name in servers}
    wrong = 0
    for number in range(ROUNDS):
        some = pairs[number * len(pairs) // ROUNDS : (number + 1) * len(pairs) // ROUNDS]
        for name, url in servers.items():
            share, clients = (some, CLIENTS) if name != SLOW else (some[: len(some) // 4], 1)
            spent, each, bad = ask_all(url, share, wanted, clients)
            seconds[name] += spent
            latencies[name] += each
            wrong += bad
    rates = {name: len(each) / seconds[name] for name, each in latencies.items()}
    for name, each in latencies.items():
        print(
            f"| {load} | {name} | {rates[name]:.0f} | {percentile_99(each):.1f} s | {rates[name] / rates[SLOW]:.1f} |"
        )
    return wrong


def main() -> int:
    """Print the measurements; 1 when an answer was wrong or missing."""
    from support.server_process import ServerProcess

    from realm_lib import RealmReward

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", nargs="?", default="outputs/demo")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--before", type=Path, help="another working tree")
    options = parser.parse_args()
    run, number = Path(options.run).resolve(), options.requests
    loads = {"a rollout": rollout(number), "a data set": data_set(number)}
    warming = [(post, "Thank you.") for post, _ in loads["a rollout"][:64:8]]
    distinct = list(dict.fromkeys([*warming, *(pair for pairs in loads.values() for pair in pairs)]))
    expected = RealmReward.from_pretrained(run)([post for post, _ in distinct], [response for _, response in distinct])
    wanted = dict(zip(distinct, expected, strict=True))
    wrong = 0
    with ExitStack() as stack:
        processes = {"gathered": ServerProcess(run), SLOW: ServerProcess(run, limits="batch=1, wait=0.0, remembered=0")}
        if options.before:
            tree = options.before.resolve()
            processes["before"] = ServerProcess(tree / "outputs" / "demo", PYTHONPATH=str(tree))
        servers = {name: stack.enter_context(process).wait_ready().url for name, process in processes.items()}
        for url in servers.values():
            ask_all(url, warming, wanted)
        print("| load | server | responses a second | p99 | times as many as one by one |")
        print("| --- | --- | --- | --- | --- |")
        for name, pairs in loads.items():
            wrong += take_turns(f"{name}, {len(set(pairs))} of {len(pairs)} differ", servers, pairs, wanted)
        for name, url in servers.items():
            if name != SLOW:
                took = beside_long_ones(url)
                longest = f"median {statistics.median(took):.1f} s, longest {max(took):.1f} s"
                print(f"| one by one beside {LONG} long ones | {name} | {LONE / sum(took):.1f} | {longest} | |")
    pairs = loads["a rollout"]
    with ServerProcess(run, limits="queue=64") as small:
        url = small.wait_ready().url
        before = memory(url)
        statuses = asyncio.run(overload(url, pairs))
        print(f"overload: {statuses}; memory {before:.0f} MiB before, {memory(url):.0f} after")
        wrong += ask_all(url, pairs[:64], wanted)[2]
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
