"""What each process of a PPO training holds, of a policy of 50 million weights, after an update.

One process, then two that share the weights:

    python tests/benchmarks/bench_ppo_shards.py
    python -m accelerate.commands.launch --config_file params/accelerate/fsdp.yaml tests/benchmarks/bench_ppo_shards.py
"""

import ctypes
import gc
import resource
import tempfile
import time
from pathlib import Path

from support.ppo_run import HELD_OUT, PROMPTS, letters, make_params, make_policy

from realm_lib.rlhf.policies import load_policy
from realm_lib.rlhf.policies.sharding import local_weights
from realm_lib.rlhf.ppo.processes import Processes
from realm_lib.rlhf.ppo.trainer import PPOTrainer

_SIZE = {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 16, "num_attention_heads": 8}
_MIB = 2**20


def resident() -> float:
    """MiB that this process holds now."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * resource.getpagesize() / _MIB


def main() -> None:
    """Print one line a process."""
    processes = Processes()
    before = resident()
    with tempfile.TemporaryDirectory() as own:
        (folder,) = processes.together(lambda: [own] if processes.is_main else [])
        if processes.is_main:
            make_policy(Path(folder) / "policy", **_SIZE)
        processes.wait()
        params = make_params(Path(folder) / "policy", total_episodes=8)
        policy = load_policy(params.ppo, trainable=True)
        trainer = PPOTrainer(params, policy, letters, PROMPTS, held_out=HELD_OUT)
        started = time.monotonic()
        episodes = trainer.collect()
        sampled = time.monotonic()
        trainer.update(episodes)
        ended = time.monotonic()
        held = local_weights(trainer.models.trained_parameters().values())
        whole = sum(value.numel() for value in trainer.models.trained_parameters().values())
        print(
            f"process {processes.rank} of {processes.count}: {held:,} of {whole:,} trained weights; "
            f"{resident() - before:,.0f} MiB more than before loading; rollout {sampled - started:.1f} s, "
            f"update {ended - sampled:.1f} s",
            flush=True,
        )
        processes.wait()


if __name__ == "__main__":
    main()
