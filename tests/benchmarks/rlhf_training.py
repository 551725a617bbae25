"""One training of ``bench_rlhf.py`` in a process of its own: ``python rlhf_training.py FOLDER`` reads FOLDER/cell.json.

It leaves the policy, answers.npz (what the policy is worth on the prompts that judge it) and, last, training.json.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402

GROUP, ANSWERS = 8, 4

Cell = dict[str, Any]
"""run (folder), side (ours, grpo, rloo; start is not trained), rate, iterations, seed, split (whose prompts judge the
policy), rlhf (parameters as plain values)."""


class Clock:
    """Seconds by part, those of the processor and of the wall."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        """A context that is measured as ``part``."""
        wall, processor = time.perf_counter(), time.process_time()
        yield
        for name, since in ((part, time.perf_counter() - wall), (f"{part}_cpu", time.process_time() - processor)):
            self.seconds[name] = self.seconds.get(name, 0.0) + since

    def wrap(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function`` with its calls measured as ``part``."""

        def timed(*args: Any, **options: Any) -> Any:
            with self(part):
                return function(*args, **options)

        return timed


def prompts_of(cell: Cell, split: str) -> tuple[Any, list[str], list[list[int]]]:
    """The parameters, and the prompts of a split that fit: as text, and as the tokens that our sampler is given."""
    from transformers import AutoTokenizer

    from realm_lib.config.profile import Params, load_params
    from realm_lib.data.prompts import load_prompts
    from realm_lib.rlhf.policies import encode_prompts
    from realm_lib.runs.run import Run

    folder = Path(cell["run"])
    rlhf = Params.from_sections(rlhf=cell["rlhf"]).rlhf
    assert rlhf is not None
    prompts = load_prompts(load_params(folder / "params.yaml").data, rlhf.sampling, split, Run(folder))
    tokenizer = AutoTokenizer.from_pretrained(start_of(cell))
    encoded = encode_prompts(tokenizer, prompts, rlhf.sampling.max_prompt_tokens)
    return rlhf, [prompts[index] for index in encoded.kept], encoded.ids


def start_of(cell: Cell) -> Path:
    """The folder of the policy that all sides start from."""
    from realm_lib.runs.weights import locate_model

    source = locate_model(cell["rlhf"]["ppo"]["model_name"], Path(cell["run"]))
    if not isinstance(source, Path):
        sys.exit(f"{source}: TRL loads its reference by itself: take a policy that lies in a folder")
    return source


def train(cell: Cell, target: Path) -> None:
    """One training and what its policy is worth; training.json holds its seconds and tokens."""
    from realm_lib.reward.realm_reward import RealmReward

    reward = RealmReward.from_pretrained(cell["run"])
    rlhf, prompts, ids = prompts_of(cell, "train")
    reward.explain(prompts[:1], ["What is loaded late is loaded now."])
    told = {}
    if cell["side"] == "ours":
        _, watched, _ = prompts_of(cell, "validation")
        told = train_ours(cell, rlhf, reward, prompts, watched[:2], target)
    elif cell["side"] != "start":
        told = train_trl(cell, rlhf, reward, prompts, ids, target)
    folder = start_of(cell) if cell["side"] == "start" else target / "policy"
    judge(cell, folder, target)
    (target / "training.json").write_text(json.dumps(told), encoding="utf-8")


def train_ours(
    cell: Cell, rlhf: Any, reward: Any, prompts: list[str], watched: list[str], target: Path
) -> dict[str, Any]:
    """The two halves of a step as the trainer offers them; ``watched`` is asked for and never answered."""
    from realm_lib.rlhf.policies import load_policy, save_policy
    from realm_lib.rlhf.ppo.trainer import PPOTrainer

    policy = load_policy(rlhf.ppo, Path(cell["run"]), trainable=True)
    trainer = PPOTrainer(rlhf, policy, reward, prompts, held_out=watched)
    clock = Clock()
    with clock("total"):
        for _ in range(rlhf.ppo.total_episodes // rlhf.ppo.batch_size):
            trainer._record(trainer.update(trainer.collect()))
    rows = trainer.state.history
    save_policy(policy, target / "policy")
    parts = {part: sum(row[f"seconds_{part}"] for row in rows) for part in ("sampling", "reward")}
    return {**clock.seconds, **parts, "tokens": sum(row["tokens"] for row in rows), "episodes": rows[-1]["episodes"]}


def train_trl(
    cell: Cell, rlhf: Any, reward: Any, prompts: list[str], ids: list[list[int]], target: Path
) -> dict[str, Any]:
    """TRL's side. Its prompts are messages, so that it applies the chat template: to the tokens that we give ours."""
    import datasets
    import transformers
    import trl

    class Start(transformers.TrainerCallback):  # type: ignore[misc]
        """The clock starts when optimiser and data are ready, as ours does."""

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            begun.enter_context(clock("total"))

    ppo, sampling = rlhf.ppo, rlhf.sampling
    tokenizer = transformers.AutoTokenizer.from_pretrained(start_of(cell), padding_side="left")
    clock, drawn = Clock(), [0, 0]

    def realm(prompts: Any, completions: Any, completion_ids: list[list[int]], **_: Any) -> list[float]:
        """What :meth:`realm_lib.rlhf.ppo.update.Learner.scores` says that an answer earns."""
        drawn[0] += len(completion_ids)
        drawn[1] += sum(map(len, completion_ids))
        table = reward.explain(prompts, completions)
        earned = table["reward"].to_numpy() - ppo.reward_uncertainty_penalty * table["spread"].to_numpy()
        cut = np.array([row[-1] != tokenizer.eos_token_id for row in completion_ids])
        return list(map(float, earned - (ppo.missing_eos_penalty or 0.0) * cut))

    steps = ppo.batch_size // ppo.minibatch_size
    config, kind = (trl.GRPOConfig, trl.GRPOTrainer) if cell["side"] == "grpo" else (trl.RLOOConfig, trl.RLOOTrainer)
    trainer = kind(
        model=str(start_of(cell)),
        reward_funcs=clock.wrap("reward", realm),
        callbacks=[Start()],
        processing_class=tokenizer,
        train_dataset=datasets.Dataset.from_dict({"prompt": [[{"role": "user", "content": p}] for p in prompts]}),
        args=config(
            output_dir=str(target / "trl"),
            num_generations=GROUP,
            per_device_train_batch_size=ppo.minibatch_size,
            steps_per_generation=steps,
            num_iterations=cell["iterations"],
            max_steps=ppo.total_episodes // ppo.batch_size * steps * cell["iterations"],
            max_completion_length=sampling.max_new_tokens,
            temperature=sampling.temperature,
            beta=ppo.kl_coefficient,
            learning_rate=ppo.learning_rate,
            seed=ppo.seed,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            dataloader_pin_memory=False,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            logging_steps=100_000,
        ),
    )
    assert next(trainer.model.parameters()).dtype == torch.float32
    assert trainer._tokenize_prompts(trainer.train_dataset[:16]["prompt"])[0] == ids[:16]
    trainer._generate = clock.wrap("sampling", trainer._generate)
    with ExitStack() as begun:
        trainer.train()
    trainer.save_model(str(target / "policy"))
    return {**clock.seconds, "episodes": drawn[0], "tokens": drawn[1]}


def judge(cell: Cell, folder: Path, target: Path) -> None:
    """The policy in ``folder`` on the prompts of the cell's split, into answers.npz; arrays are [prompts, ANSWERS]."""
    from realm_lib.config.rlhf import PolicyParams
    from realm_lib.data.simulator import gold_utilities
    from realm_lib.rlhf.policies import load_policy, response_log_probs, sample
    from realm_lib.runs.seeds import derive_seed

    rlhf, prompts, ids = prompts_of(cell, cell["split"])
    policy, start = (load_policy(PolicyParams(model_name=str(place)), None) for place in (folder, start_of(cell)))
    settings = rlhf.sampling
    rows = [row for row in ids for _ in range(ANSWERS)]
    drawn = sample(
        policy,
        rows,
        max_new_tokens=settings.max_new_tokens,
        temperature=settings.temperature,
        seeds=[derive_seed(0, "bench_rlhf", prompt, n) for prompt in range(len(ids)) for n in range(ANSWERS)],
        batch_size=settings.batch_size,
    )
    own, reference = (
        response_log_probs(model.model, rows, [answer.ids for answer in drawn], temperature=settings.temperature)
        for model in (policy, start)
    )
    found = {
        "truth": gold_utilities([text for text in prompts for _ in range(ANSWERS)], [answer.text for answer in drawn]),
        "characters": [len(answer.text) for answer in drawn],
        "tokens": [len(answer.ids) for answer in drawn],
        "ended": [answer.ended for answer in drawn],
        "kl": [float(np.sum(mine - its)) for mine, its in zip(own, reference, strict=True)],
    }
    np.savez(target / "answers.npz", **{name: np.reshape(row, (-1, ANSWERS)) for name, row in found.items()})


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    train(json.loads((folder / "cell.json").read_text(encoding="utf-8")), folder)
