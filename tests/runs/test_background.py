"""Work in a process of its own: its result, its errors, and that it does not outlive the one that started it."""

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from realm_lib.runs.background import in_background, timed

pytestmark = pytest.mark.slow

KILLED = """
import os, time
from realm_lib.runs.background import in_background
if __name__ == "__main__":
    print(in_background(os.getpid).result(), flush=True)
    work = in_background(time.sleep, 600)
    time.sleep(600)
"""


def test_it_gives_the_result_and_works_elsewhere() -> None:
    assert in_background(math.hypot, 3, 4).result() == 5
    assert in_background(os.getpid).result() != os.getpid()
    value, seconds = in_background(timed, int, "12", base=8).result()
    assert value == 10
    assert seconds >= 0


def test_it_raises_what_the_function_raised() -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        in_background(int, "twelve").result()


def children(pid: int) -> set[int]:
    return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads processes from /proc")
def test_a_killed_parent_leaves_no_process_behind(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(KILLED)
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert int(parent.stdout.readline()) > 0
        while not (workers := [child for child in children(parent.pid) if children(child) or alive(child)]):
            time.sleep(0.05)
        parent.send_signal(signal.SIGKILL)
    while any(map(alive, workers)):
        time.sleep(0.05)
