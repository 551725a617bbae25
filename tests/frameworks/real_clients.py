"""The reward as the frameworks' own code calls it: OpenRLHF's executor, LLaMA-Factory's client, verl's manager.

Not a part of ``make test``: the frameworks want versions of torch and transformers that are not REALM's, and engines
for GPUs. Their reward clients are plain Python. Install these into a folder, without what they depend on::

    pip install --target FOLDER --no-deps openrlhf==0.11.2 llamafactory==0.9.5 verl==0.9.1 ray tensordict==0.10.0 \
        omegaconf antlr4-python3-runtime==4.9.3 hydra-core pyvers codetiming msgpack torchdata
    pip install --target FOLDER aiohttp
    PYTHONPATH=FOLDER python tests/frameworks/real_clients.py outputs/demo

Prints a line for each client; an assertion fails where a reward is not that of RealmReward called alone.
"""

import asyncio
import importlib
import os
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

PROMPTS = ["Why does bread rise?", "How do cats purr?", "Is the sea salty?"]
RESPONSES = ["Yeast makes gas, which the dough holds.", "With the larynx.", "Yes: rivers carry salt into it."]


def load(name: str) -> Any:
    """A module of a framework, without the ``__init__`` of the packages around it, which import engines."""
    parts = name.split(".")
    for end in range(1, len(parts)):
        package = ".".join(parts[:end])
        if package not in sys.modules:
            folder = next(Path(place, *parts[:end]) for place in sys.path if Path(place, *parts[:end]).is_dir())
            sys.modules[package] = module = ModuleType(package)
            module.__path__ = [str(folder)]
    return importlib.import_module(name)


class Engine:
    """vLLM's place in OpenRLHF: generates the response that is known for a prompt, and its end."""

    def __init__(self, tokenizer: Any, prompts: list[str]) -> None:
        self.tokenizer = tokenizer
        self.answers = dict(zip(prompts, RESPONSES, strict=True))

    async def generate(self, tokens: list[int], *_: Any, **__: Any) -> Any:
        """As vLLM's RequestOutput."""
        prompt = self.tokenizer.decode(tokens, skip_special_tokens=False)
        answer = self.tokenizer(self.answers[prompt] + self.tokenizer.eos_token, add_special_tokens=False)["input_ids"]
        output = SimpleNamespace(token_ids=answer, text=self.answers[prompt], finish_reason="stop", logprobs=None)
        return SimpleNamespace(outputs=[output])


def openrlhf(where: str, tokenizer: Any) -> list[float]:
    """The rewards that OpenRLHF's single-turn executor finds with ``--reward.remote_url where``."""
    agent = load("openrlhf.utils.agent")
    prompts = [
        tokenizer.apply_chat_template([{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True)
        for text in PROMPTS
    ]
    executor = agent.SingleTurnAgentExecutor(where)
    engine, sampling = Engine(tokenizer, prompts), SimpleNamespace(max_tokens=64, logprobs=None)

    async def main() -> list[Any]:
        asked = [executor.execute(prompt, "", sampling, 4096, tokenizer, engine) for prompt in prompts]
        return await asyncio.gather(*asked)

    found = asyncio.run(main())
    assert all(0 <= float(one["scores"][0]) <= 1 for one in found), found
    assert all(set(one["extra_logs"]) == {"score", "similarity", "spread", "outside"} for one in found)
    return [float(one["reward"][0]) for one in found]


def llama_factory(url: str, tokenizer: Any) -> list[float]:
    """The rewards that LLaMA-Factory's PPO trainer gets of its reward server."""
    utils = load("llamafactory.train.ppo.ppo_utils")
    chats = [
        [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
        for prompt, response in zip(PROMPTS, RESPONSES, strict=True)
    ]
    texts = [tokenizer.apply_chat_template(chat, tokenize=False) for chat in chats]
    return [float(reward) for reward in utils.get_rewards_from_server(url, texts)]


def verl(function: dict[str, Any], tokenizer: Any, named: set[str]) -> list[float]:
    """The rewards that verl's naive reward manager computes with a custom reward function, and the ``named`` extras."""
    import numpy as np
    import torch
    from omegaconf import OmegaConf

    protocol = importlib.import_module("verl.protocol")
    load("verl.experimental.reward_loop.reward_manager")
    reward = importlib.import_module("verl.trainer.ppo.reward")
    config = OmegaConf.create(
        {"reward": {"custom_reward_function": function, "reward_manager": {"source": "register", "name": "naive"}}}
    )

    async def main() -> list[float]:
        manager = reward.load_reward_manager(config, tokenizer)
        found = []
        for prompt, response in zip(PROMPTS, RESPONSES, strict=True):
            ids = tokenizer(response + tokenizer.eos_token, add_special_tokens=False, return_tensors="pt")["input_ids"]
            asked = np.array([{"prompt": [{"role": "user", "content": prompt}]}], dtype=object)
            data = protocol.DataProto.from_dict(
                tensors={"responses": ids, "attention_mask": torch.ones_like(ids)},
                non_tensors={
                    "data_source": np.array(["mine"], dtype=object),
                    "reward_model": np.array([{"ground_truth": None}], dtype=object),
                    "extra_info": asked,
                },
            )
            answer = await manager.run_single(data)
            assert set(answer["reward_extra_info"]) == named
            found.append(float(answer["reward_score"]))
        return found

    return asyncio.run(main())


def killed_and_restarted(run: Path, tokenizer: Any) -> list[float]:
    """OpenRLHF's rewards when the server is killed and started again while it is asked."""
    from support.server_process import ServerProcess

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with ServerProcess(run, port=port) as first:
        first.wait_ready()
        first.process.send_signal(signal.SIGKILL)
        first.process.wait()
    start = time.monotonic()
    with ServerProcess(run, port=port) as second:
        print(f"  it listens again after {time.monotonic() - start:.2f} s")
        return openrlhf(f"{second.url}/get_reward", tokenizer)


def main() -> int:
    """Ask each client."""
    from support.server_process import ServerProcess
    from transformers import AutoTokenizer

    from realm_lib import RealmReward

    run = Path(sys.argv[1]).resolve()
    wanted = RealmReward.from_pretrained(run)(PROMPTS, RESPONSES)
    tokenizer = AutoTokenizer.from_pretrained(run / "models" / "reward_model")
    os.environ["REALM_RUN"] = str(run)

    def compare(name: str, found: list[float]) -> None:
        assert all(abs(one - other) < 1e-4 for one, other in zip(found, wanted, strict=True)), (name, found, wanted)
        print(f"{name}: {', '.join(f'{reward:.4f}' for reward in found)}", flush=True)

    compare("RealmReward", wanted)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "reward_func.py").write_text("from realm_lib.inference.frameworks import reward_func\n")
        compare("OpenRLHF, a file", openrlhf(str(folder / "reward_func.py"), tokenizer))
        (folder / "reward_score.py").write_text("from realm_lib.inference.frameworks import compute_score\n")
        function = {
            "path": str(folder / "reward_score.py"),
            "name": "compute_score",
            "reward_kwargs": {"run": str(run)},
        }
        parts = {"score", "realm_score", "realm_similarity", "realm_spread", "realm_outside"}
        compare("verl", verl(function, tokenizer, parts))
    with ServerProcess(run) as server:
        compare("OpenRLHF, HTTP", openrlhf(f"{server.wait_ready().url}/get_reward", tokenizer))
        compare("LLaMA-Factory", llama_factory(f"{server.url}/v1/score/evaluation", tokenizer))
    secret = "a-long-and-random-token"
    with ServerProcess(run, REALM_SERVER_TOKEN=secret) as server:
        url = server.wait_ready().url.replace("http://", f"http://realm:{secret}@")
        compare("OpenRLHF, HTTP with a token", openrlhf(f"{url}/get_reward", tokenizer))
        os.environ |= {"REALM_SERVER": server.url, "REALM_SERVER_TOKEN": secret}
        function = {"path": str(TESTS.parent / "examples" / "verl_reward.py"), "name": "compute_score"}
        compare("verl, HTTP with a token", verl(function, tokenizer, {"acc"}))
        del os.environ["REALM_SERVER_TOKEN"]
    compare("OpenRLHF, after a kill", killed_and_restarted(run, tokenizer))
    return 0


if __name__ == "__main__":
    sys.exit(main())
