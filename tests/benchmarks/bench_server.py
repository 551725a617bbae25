"""Load on ``realm serve``: every answer checked, gathered requests against one at a time, and overload.

Run with ``python tests/benchmarks/bench_server.py outputs/demo [requests]``, after ``make``. 64 clients ask as OpenRLHF
does, a response a request, eight responses to each post as its trainers sample them. Two servers share the machine:
ours, and one that computes one response at a time (the same code, batches of one); they take turns, round by round,
the slow one with the first quarter of each round's requests.
"""

import asyncio
import random
import statistics
import sys
import time
from pathlib import Path

import httpx

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

CLIENTS = 64
ROUNDS = 8
TOLERANCE = 1e-4

Pair = tuple[str, str]


def pairs_of_posts(number: int) -> list[Pair]:
    """Distinct (post, response): eight responses to a post, of that post and others."""
    from itertools import islice

    from realm_lib.simulator import simulate_posts

    chance = random.Random(0)
    posts = list(islice(simulate_posts(seed=7, split="test"), number // 8 + 1))
    responses = [comment.text for post in posts for comment in post.comments]
    pairs = [(post.text, response) for post in posts for response in chance.sample(responses, 8)]
    return pairs[:number]


async def ask_all(url: str, pairs: list[Pair], wanted: dict[Pair, float]) -> tuple[float, list[float], int]:
    """Seconds in all, seconds of each request, and how many answers were wrong or no answers."""
    left = iter(pairs)
    took: list[float] = []
    wrong = 0

    async def client(http: httpx.AsyncClient) -> None:
        nonlocal wrong
        for prompt, response in left:
            start = time.perf_counter()
            answer = await http.post(f"{url}/get_reward", json={"query": [prompt + response], "prompts": [prompt]})
            took.append(time.perf_counter() - start)
            good = answer.status_code == 200 and abs(answer.json()["rewards"][0] - wanted[prompt, response]) < TOLERANCE
            wrong += not good

    async with httpx.AsyncClient(timeout=600, limits=httpx.Limits(max_connections=CLIENTS)) as http:
        start = time.perf_counter()
        await asyncio.gather(*(client(http) for _ in range(CLIENTS)))
        return time.perf_counter() - start, took, wrong


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


def main() -> int:
    """Print the measurements; 1 when an answer was wrong or missing."""
    from server_process import ServerProcess

    from realm_lib import RealmReward

    run = Path(sys.argv[1] if len(sys.argv) > 1 else "outputs/demo").resolve()
    pairs = pairs_of_posts(int(sys.argv[2]) if len(sys.argv) > 2 else 2000)
    expected = RealmReward.from_pretrained(run)([prompt for prompt, _ in pairs], [response for _, response in pairs])
    wanted = dict(zip(pairs, expected, strict=True))
    seconds = {"gathered": 0.0, "one at a time": 0.0}
    latencies: dict[str, list[float]] = {name: [] for name in seconds}
    ratios = []
    wrong = 0
    with ServerProcess(run) as ours, ServerProcess(run, limits="batch=1, wait=0.0") as single:
        servers = {"gathered": ours.wait_ready().url, "one at a time": single.wait_ready().url}
        for url in servers.values():
            asyncio.run(ask_all(url, pairs[:8], wanted))
        for number in range(ROUNDS):
            some = pairs[number * len(pairs) // ROUNDS : (number + 1) * len(pairs) // ROUNDS]
            took = {}
            for name, url in servers.items():
                share = some if name == "gathered" else some[: len(some) // 4]
                spent, each, bad = asyncio.run(ask_all(url, share, wanted))
                took[name] = spent / len(share)
                seconds[name] += spent
                latencies[name] += each
                wrong += bad
            ratios.append(took["one at a time"] / took["gathered"])
    for name, each in latencies.items():
        p50, p99 = statistics.median(each), statistics.quantiles(each, n=100)[98]
        rate = len(each) / seconds[name]
        print(f"{name:14} {len(each)} requests: {rate:6.1f} a second, median {p50:.2f} s, p99 {p99:.2f} s")
    slow, fast = (seconds[name] / len(latencies[name]) for name in ("one at a time", "gathered"))
    print(f"ratio {slow / fast:.2f}; by round {' '.join(f'{ratio:.2f}' for ratio in ratios)}; wrong answers: {wrong}")
    with ServerProcess(run, limits="queue=64") as small:
        url = small.wait_ready().url
        before = memory(url)
        statuses = asyncio.run(overload(url, pairs))
        print(f"overload: {statuses}; memory {before:.0f} MiB before, {memory(url):.0f} after")
        wrong += asyncio.run(ask_all(url, pairs[:64], wanted))[2]
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
