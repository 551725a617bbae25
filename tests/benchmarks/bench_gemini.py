"""Throughput of Gemini's client against a local server of 50 ms latency: within 10 % of what the limit allows.

Run with ``python tests/benchmarks/bench_gemini.py``. The server is a process of its own, as Google's is.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

LIMITS = ((300, None), (600, None), (None, 30_000))
SECONDS = 10
SERVER = """
import time
from support.gemini_server import running_server
with running_server() as server:
    server.latency = 0.05
    print(server.url, flush=True)
    time.sleep(600)
"""


def main() -> int:
    """Print a line for each limit and client library; 1 when one of them is more than 10 % off."""
    from support.gemini_client import all_texts, extract, params, some_pairs

    from realm_lib.models.embedders import build_embedder
    from realm_lib.models.hosted import estimate_tokens

    os.environ["GEMINI_API_KEY"] = "a-key"
    process = subprocess.Popen([sys.executable, "-c", SERVER], cwd=TESTS, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    address = process.stdout.readline().strip()
    slow = 0
    try:
        for sdk in ("google-generativeai", "google-genai"):
            for requests, tokens in LIMITS:
                rate = requests or 300
                pairs = some_pairs(rate * SECONDS // 60 * 10 // 3)
                limits = {"requests_per_minute": requests, "tokens_per_minute": tokens, "batch_size": 10}
                embedder = build_embedder(params(None, sdk, api_endpoint=address, **limits))
                embedder.embed(["warm", "up"])
                start = time.perf_counter()
                with tempfile.TemporaryDirectory() as folder:
                    extract(pairs, embedder, Path(folder), batch_size=256)
                took = time.perf_counter() - start
                asked = len(all_texts(pairs)) / 10
                sent = sum(map(estimate_tokens, all_texts(pairs))) + asked * 26  # two probes a request
                allowed = max(asked * 60 / requests if requests else 0.0, sent * 60 / tokens if tokens else 0.0)
                slow += took > 1.1 * allowed
                print(f"{sdk:20} {limits}: {took:.2f} s, the limit allows {allowed:.2f} s: {took / allowed:.3f}")
    finally:
        process.kill()
        process.wait()
    return int(slow > 0)


if __name__ == "__main__":
    sys.exit(main())
