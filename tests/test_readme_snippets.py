"""The README's snippets of using the reward run as they stand, against a small run in the place of outputs/demo."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.server_process import ServerProcess

ROOT = Path(__file__).parents[1]
SECTION = re.search(
    r"^## Use the reward\n(.*?)^## ", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL
)
assert SECTION is not None
SNIPPETS = re.findall(r"^```(python|bash)\n(.*?)^```$", SECTION[1], flags=re.MULTILINE | re.DOTALL)
ELSEWHERE = {
    "docker build": "needs a container engine; test_dockerfile.py checks the file",
    "realm serve --run outputs/demo --port": "does not end; the snippet of curl is run against it",
    "curl ": "runs with the server",
}


def reason(code: str) -> str | None:
    return next((why for start, why in ELSEWHERE.items() if code.startswith(start)), None)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, run_folder: Path, tiny_tokenizer: Any, tiny_config: Any) -> Path:
    """A folder with outputs/demo and a policy where the snippets want them."""
    from transformers import LlamaForCausalLM

    folder = tmp_path_factory.mktemp("readme")
    shutil.copytree(run_folder, folder / "outputs" / "demo")
    LlamaForCausalLM(tiny_config).save_pretrained(folder / "policy")
    tiny_tokenizer.save_pretrained(folder / "policy")
    return folder


def run(command: list[str], place: Path) -> str:
    variables = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HF_HUB_OFFLINE": "1",
    }
    done = subprocess.run(command, cwd=place, env=variables, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_every_snippet_is_run_or_has_a_reason() -> None:
    assert {language for language, _ in SNIPPETS} == {"python", "bash"}
    assert all(any(code.startswith(start) for _, code in SNIPPETS) for start in ELSEWHERE)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("language", "code"), [entry for entry in SNIPPETS if not reason(entry[1])], ids=lambda value: value.split("\n")[0]
)
def test_a_snippet_runs(place: Path, language: str, code: str) -> None:
    # A policy of one's own, and what a CPU needs: TRL's configs default to bf16 on a GPU.
    code = code.replace('"path/to/your/policy"', repr(str(place / "policy")))
    small = "max_steps=1, use_cpu=True, bf16=False, gradient_checkpointing=False, report_to='none', save_strategy='no'"
    code = code.replace(
        "max_steps=2", f"{small}, max_completion_length=4, num_generations=2, per_device_train_batch_size=2"
    )
    shown = run(
        [sys.executable, "-c", code] if language == "python" else ["bash", "-euo", "pipefail", "-c", code], place
    )
    if language == "bash":
        assert shown.count('"reward": ') == 5


@pytest.mark.slow
def test_the_server_answers_the_snippet_of_curl(place: Path) -> None:
    (curl,) = [code for _, code in SNIPPETS if code.startswith("curl")]
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    with ServerProcess(place / "outputs" / "demo") as server:
        server.wait_ready()
        shown = run(["bash", "-c", curl.replace("http://127.0.0.1:8000", server.url)], place)
    assert '"reward":' in shown
