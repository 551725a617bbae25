"""A real ``realm serve`` in a process of its own, for tests and benchmarks."""

import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

REALM = Path(sys.executable).parent / "realm"
DEADLINE = 180.0
LIMITED = """
from pathlib import Path
from realm_lib.inference.server import Limits
from realm_lib.inference.server.running import serve
serve(Path({run!r}), "127.0.0.1", {port}, Limits({limits}))
"""


class ServerProcess:
    """Starts the server; ``url`` is known once it listens, ``log`` holds its standard error so far.

    ``limits`` are Limits that the shell has no option for, as ``batch=1, wait=0.0``.
    """

    def __init__(self, run: Path, *options: str, port: int = 0, limits: str = "", **environment: str) -> None:
        command = [str(REALM), "serve", "--run", str(run), "--port", str(port), *options]
        if limits:
            command = [sys.executable, "-c", LIMITED.format(run=str(run), port=port, limits=limits)]
        variables = {**os.environ, "HF_HUB_OFFLINE": "1", **environment}
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=variables)
        self.lines: list[str] = []
        self._listening = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if not self._listening.wait(DEADLINE):
            raise TimeoutError(self.log)
        found = re.search(r"on http://(\S+),", self.log)
        self.url = f"http://{found[1]}".replace("0.0.0.0", "127.0.0.1") if found else ""

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            if "serving " in line:
                self._listening.set()
        self._listening.set()  # it ended

    @property
    def log(self) -> str:
        return "".join(self.lines)

    def wait_ready(self) -> Self:
        end = time.monotonic() + DEADLINE
        while time.monotonic() < end and self.process.poll() is None:
            try:
                if httpx.get(f"{self.url}/readyz", timeout=10).status_code == 200:
                    return self
            except httpx.HTTPError:
                pass
            time.sleep(0.1)
        raise TimeoutError(self.log)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join(DEADLINE)
