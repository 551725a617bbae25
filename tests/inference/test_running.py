"""A real server in its own process: right answers under load, 429, a graceful stop, and a kill in the middle."""

import asyncio
import random
import signal
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from support.server_process import REALM, ServerProcess

from realm_lib.reward.realm_reward import RealmReward

pytestmark = pytest.mark.slow

OPENRLHFS_TRIES = 5
"""And a second after each: SingleTurnAgentExecutor of OpenRLHF 0.11."""
PAIRS = [(f"Why does {word} rise?", f"It is the {other}.") for word in "abcdef" for other in ("gas", "heat", "yeast")]


async def ask(http: httpx.AsyncClient, url: str, pair: tuple[str, str], tries: int = 1) -> float | int:
    """The reward, or the last status."""
    status = 0
    for _ in range(tries):
        try:
            answer = await http.post(f"{url}/get_reward", json={"query": ["".join(pair)], "prompts": [pair[0]]})
            if answer.status_code == 200:
                return float(answer.json()["rewards"][0])
            status = answer.status_code
        except httpx.HTTPError:
            pass
        await asyncio.sleep(1.0 if tries > 1 else 0.0)
    return status


def asked(url: str, pairs: list[tuple[str, str]], tries: int = 1) -> list[float | int]:
    async def main() -> list[float | int]:
        async with httpx.AsyncClient(timeout=180) as http:
            return await asyncio.gather(*(ask(http, url, pair, tries) for pair in pairs))

    return asyncio.run(main())


def test_load_overload_and_a_graceful_stop(run_folder: Path, run_reward: RealmReward) -> None:
    pairs = random.Random(0).choices(PAIRS, k=200)
    wanted = run_reward([prompt for prompt, _ in pairs], [response for _, response in pairs])
    new = [(f"{prompt} And why?", response) for prompt, response in PAIRS[:4]]  # remembered ones would not wait
    wanted_of_new = run_reward([prompt for prompt, _ in new], [response for _, response in new])
    with ServerProcess(run_folder, limits="queue=6, wait=1.5, stop=100.0") as server:
        server.wait_ready()
        found = asked(server.url, pairs)
        full = [place for place, value in enumerate(found) if value == 429]
        answered = [place for place in range(len(pairs)) if place not in full]
        assert full, "200 at once are more than a queue of 6 takes"
        assert answered
        assert [found[n] for n in answered] == pytest.approx([wanted[n] for n in answered], abs=1e-4)
        with ThreadPoolExecutor(1) as pool:
            last = pool.submit(asked, server.url, new)
            while "realm_waiting_responses 4.0" not in httpx.get(f"{server.url}/metrics", timeout=60).text:
                time.sleep(0.05)
            server.process.send_signal(signal.SIGTERM)
            assert last.result() == pytest.approx(wanted_of_new, abs=1e-4), "what was accepted is answered"
        assert server.process.wait(120) in (0, -signal.SIGTERM)
    assert "POST /get_reward 429" in server.log
    assert "Traceback" not in server.log
    assert "rise" not in server.log


def test_killed_and_restarted_under_load_clients_get_the_right_rewards(
    run_folder: Path, run_reward: RealmReward
) -> None:
    """With no more tries than OpenRLHF makes: the new process listens at once, and holds requests while it loads."""
    pairs = PAIRS * 8
    wanted = run_reward([prompt for prompt, _ in pairs], [response for _, response in pairs])
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    async def main() -> list[float | int]:
        first = await asyncio.to_thread(ServerProcess, run_folder, port=port)
        await asyncio.to_thread(first.wait_ready)
        async with httpx.AsyncClient(timeout=180) as http:
            some = [asyncio.create_task(ask(http, first.url, pair, tries=OPENRLHFS_TRIES)) for pair in pairs]
            await asyncio.wait(some, return_when=asyncio.FIRST_COMPLETED)
            first.process.kill()
            await asyncio.to_thread(first.process.wait)
            late = [asyncio.create_task(ask(http, first.url, pair, tries=OPENRLHFS_TRIES)) for pair in pairs[:6]]
            second = await asyncio.to_thread(ServerProcess, run_folder, port=port)
            with second:
                return list(await asyncio.gather(*some, *late))

    assert asyncio.run(main()) == pytest.approx([*wanted, *wanted[:6]], abs=1e-4)


def test_a_taken_port_and_a_run_without_a_reward_are_one_line(tmp_path: Path, run_folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for run, message in ((run_folder, f"cannot listen on 127.0.0.1 port {port}"), (tmp_path, "run notebook 02")):
            command = [str(REALM), "serve", "--run", str(run), "--port", port if run == run_folder else "0"]
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
            assert done.returncode == 1
            last = done.stderr.splitlines()[-1]
            assert last.startswith("realm: ")
            assert message in last
            assert "Traceback" not in done.stderr
