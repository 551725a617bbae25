"""One PPO update of an 8B-shaped policy under LoRA on a GPU: ``python tests/benchmarks/bench_ppo_8b.py``, by hand.

``--small`` measures the profile small instead: the shape of Qwen2.5-0.5B and the settings of params/small.yaml, with
prompts and responses as long as it lets in, and whether rollout and update fit 8 GiB beside the reward model.

The policy has the shape of Llama-3.1-8B and random weights in bfloat16: nothing is downloaded, and nearly every
response is as long as it may be (512 tokens). The reference is the policy with its adapter switched off: there is one
copy of the weights. An update that is not counted warms the GPU up; of the next one are reported the responses' tokens
a second, the peak memory of rollout and of update, and where the time goes. ``--profile`` adds the kernels that take
most of the update. Without a GPU it says so and stops; ``--toy`` runs the same program at a toy shape, on a CPU too.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

PROMPT = 256
CARD = 8.0
"""GiB that the profile small promises to fit, and of them what its reward model and CUDA's context take."""
BESIDE = 1.2 + 0.5


def reward(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:  # noqa: ARG001
    """Costs nothing: what is measured is PPO."""
    return [float(len(text) % 7) for text in completions]


def make_policy(options: argparse.Namespace, params: Any, device: str) -> Any:
    """The policy under a new adapter, and a tokenizer of a few hundred words of its vocabulary."""
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    from realm_lib.models.offline import train_tokenizer
    from realm_lib.rlhf.policies import Policy
    from realm_lib.rlhf.policies.adapters import with_new_adapter

    tokenizer = train_tokenizer(["Why does bread rise? Yeast makes gas, and gluten holds it."] * 4, 300)
    shape: dict[str, Any] = {
        "vocab_size": 128_256,
        "hidden_size": 4096,
        "intermediate_size": 14_336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    }
    if options.small:
        shape = {"vocab_size": 151_936, "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24}
        shape |= {"num_attention_heads": 14, "num_key_value_heads": 2, "tie_word_embeddings": True}
    if options.toy:
        shape |= {"vocab_size": 4000, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
        shape |= {"num_attention_heads": 4, "num_key_value_heads": 2}
    config_class, model_class = (Qwen2Config, Qwen2ForCausalLM) if options.small else (LlamaConfig, LlamaForCausalLM)
    config = config_class(
        **shape,
        max_position_embeddings=8192,
        rope_theta=500_000.0,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            model = model_class(config)
    finally:
        torch.set_default_dtype(usual)
    return Policy(with_new_adapter(model, params, None).eval(), tokenizer)


def make_params(options: argparse.Namespace) -> Any:
    from realm_lib.config.profile import load_params
    from realm_lib.config.rlhf import LoraParams, PPOParams, RlhfParams, SamplingParams

    if options.small:
        found = load_params("params/small.yaml").rlhf
        assert found is not None
        changes: dict[str, Any] = {"total_episodes": 2 * found.ppo.batch_size, "kl_budget": None}
        sampling = found.sampling
        if options.toy:
            changes |= {"total_episodes": 32, "batch_size": 16, "num_epochs": 1}
            sampling = sampling.model_copy(update={"max_prompt_tokens": 32, "max_new_tokens": 8})
        return found.model_copy(update={"ppo": found.ppo.model_copy(update=changes), "sampling": sampling})
    return RlhfParams(
        sampling=SamplingParams(max_prompt_tokens=PROMPT, max_new_tokens=options.tokens, batch_size=options.batch),
        ppo=PPOParams(
            model_name="random",
            dtype="bfloat16",
            lora=LoraParams(r=16, alpha=32.0),
            gradient_checkpointing=True,
            total_episodes=2 * options.batch,
            batch_size=options.batch,
            minibatch_size=options.batch // 2,
            gradient_accumulation=options.batch // 2 // options.rows,
            num_epochs=options.epochs,
            learning_rate=1e-5,
        ),
    )


def make_trainer(options: argparse.Namespace, params: Any, device: str) -> Any:
    from realm_lib.rlhf.policies import EncodedPrompts
    from realm_lib.rlhf.ppo.trainer import PPOTrainer

    batch, length = params.ppo.batch_size, params.sampling.max_prompt_tokens
    policy = make_policy(options, params.ppo, device)
    trainer = PPOTrainer(params, policy, reward, ["Why?"], held_out=["What?"])
    words = torch.randint(6, 300, (batch, length - 1), generator=torch.Generator().manual_seed(0)).tolist()
    ids = [[policy.tokenizer.bos_token_id, *row] for row in words]
    trainer._encoded = EncodedPrompts(ids, [0] * len(ids), 0, "")
    return trainer


def measured(device: str, work: Callable[[], Any]) -> tuple[Any, float, float]:
    """What ``work`` returns, its seconds, and the most memory that it held, in GiB (0 on a CPU)."""
    on_gpu = device == "cuda"
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    found = work()
    if on_gpu:
        torch.cuda.synchronize()
    return found, time.perf_counter() - start, torch.cuda.max_memory_allocated() / 2**30 if on_gpu else 0.0


def compare_samplers(trainer: Any, device: str) -> dict[str, Any]:
    """Tokens a second of both ways to sample, where one token in a hundred ends a response, one warm-up each."""
    from realm_lib.rlhf.samplers import ContinuousSampler, LocalSampler

    policy, rows = trainer.models.policy, 4 * trainer.params.batch_size
    count = policy.model.config.vocab_size
    policy.model.generation_config.eos_token_id = list(range(7, count, 100))
    prompts = (trainer._encoded.ids * 4)[:rows]
    found: dict[str, Any] = {}
    for name, sampler in (("local", LocalSampler()), ("continuous", ContinuousSampler())):
        for seeds in (range(rows), range(rows, 2 * rows)):

            def draw(sampler: Any = sampler, seeds: range = seeds) -> Any:
                return sampler.sample(
                    policy,
                    prompts,
                    version="",
                    max_new_tokens=trainer.sampling.max_new_tokens,
                    temperature=1.0,
                    seeds=list(seeds),
                    batch_size=trainer.sampling.batch_size,
                )

            drawn, seconds, memory = measured(device, draw)
        tokens = sum(len(response.ids) for response in drawn)
        found[name] = {"tokens": tokens, "tokens_per_second": round(tokens / seconds), "peak_gib": round(memory, 2)}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--toy", action="store_true", help="a toy shape, on a CPU too")
    parser.add_argument("--small", action="store_true", help="the profile small; other sizes are then its own")
    parser.add_argument("--batch", type=int, default=32, help="episodes of the update; two minibatches")
    parser.add_argument("--rows", type=int, default=4, help="rows of one backward pass")
    parser.add_argument("--tokens", type=int, default=512, help="tokens of a response")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--samplers", action="store_true", help="only local sampling beside continuous batching")
    parser.add_argument("--profile", action="store_true", help="the kernels that take most of the update")
    options = parser.parse_args()
    if options.batch % 2 or (options.batch // 2) % options.rows:
        parser.error("--batch must be twice a multiple of --rows")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not options.toy:
        print("skipped: no CUDA device here, to measure the memory of (--toy runs a toy shape on the CPU)")
        return
    params = make_params(options)
    trainer = make_trainer(options, params, device)
    if options.samplers:
        json.dump(compare_samplers(trainer, device), sys.stdout, indent=2)
        return
    trainer._record(trainer.update(trainer.collect()))
    episodes, rollout_seconds, rollout_memory = measured(device, trainer.collect)
    row, update_seconds, update_memory = measured(device, lambda: trainer.update(episodes))
    trainer._record(row)
    seconds = rollout_seconds + update_seconds
    parts = {name.removeprefix("seconds_"): value for name, value in row.items() if name.startswith("seconds_")}
    weights = sum(value.numel() for value in trainer.models.model.parameters())
    report = {
        "device": torch.cuda.get_device_name() if device == "cuda" else "CPU",
        "torch": torch.__version__,
        "weights": weights,
        "trained": sum(value.numel() for value in trainer.learner.parameters.values()),
        "episodes": params.ppo.batch_size,
        "epochs": params.ppo.num_epochs,
        "tokens": row["tokens"],
        "seconds": round(seconds, 3),
        "tokens_per_second": round(row["tokens"] / seconds, 1),
        "peak_gib": {"rollout": round(rollout_memory, 2), "update": round(update_memory, 2)},
        "share_of_time": {name: round(value / sum(parts.values()), 3) for name, value in parts.items()},
        "tokens_per_second_of_part": {
            "sampling": round(row["tokens"] / parts["sampling"], 1),
            "forward (policy and reference)": round(row["tokens"] / parts["forward"], 1),
            "update (all epochs)": round(params.ppo.num_epochs * row["tokens"] / parts["update"], 1),
        },
    }
    if options.small:
        needed = max(rollout_memory, update_memory) + BESIDE
        report["card_gib"] = {"needed": round(needed, 2), "of": CARD, "fits": needed < CARD}
    json.dump(report, sys.stdout, indent=2)
    print()
    if options.profile:
        from torch.profiler import ProfilerActivity, profile

        kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]
        with profile(activities=kinds) as seen:
            trainer.state.step -= 1  # the learning rate of the update before: it would be zero now
            trainer.update(episodes)
        print(seen.key_averages().table(sort_by=f"self_{device}_time_total", row_limit=12, max_name_column_width=60))


if __name__ == "__main__":
    main()
