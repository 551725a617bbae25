"""The loop of PPO, and the update that it is all about."""

import json
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from realm_lib.config.rlhf import RlhfParams
from realm_lib.data.chats import Prompt
from realm_lib.rlhf.errors import PPOError
from realm_lib.rlhf.policies import Policy, load_policy, save_policy
from realm_lib.rlhf.ppo import checkpoint
from realm_lib.rlhf.ppo.actor_critic import ActorCritic
from realm_lib.rlhf.ppo.checkpoint import Progress
from realm_lib.rlhf.ppo.estimators import (
    KLController,
    RunningScale,
    approximate_kl,
    clipped_policy_loss,
    clipped_value_loss,
    explained_variance,
    masked_mean,
)
from realm_lib.rlhf.ppo.held_out import PromptSet, choose, sample_rows, summary, write_lines
from realm_lib.rlhf.ppo.monitor import describe, warnings_of
from realm_lib.rlhf.ppo.processes import Processes
from realm_lib.rlhf.ppo.result import PPOResult
from realm_lib.rlhf.ppo.rollout import Episode, Learnable, learnable, play
from realm_lib.rlhf.rewards import Judge, Reward
from realm_lib.runs.run import Run
from realm_lib.runs.seeds import derive_seed

__all__ = ["PPOTrainer", "train_ppo"]

_log = logging.getLogger(__name__)

_ADAM_EPS = 1e-5
"""Huang et al., arXiv 2403.17031: larger than PyTorch's 1e-8, as in the original code."""


def train_ppo(
    params: RlhfParams,
    reward: Reward,
    prompts: Sequence[Prompt],
    *,
    held_out: Sequence[Prompt],
    choose_on: Sequence[Prompt] | None = None,
    judge: Judge | None = None,
    run: Run | None = None,
    name: str = "ppo",
    progress: bool = False,
) -> PPOResult:
    """Fine-tune the policy of ``params.ppo`` on ``prompts`` for ``reward``, and judge it on ``held_out``.

    ``choose_on`` are prompts that are answered at several points of the training; the policy that is kept is the one
    that does best on them. Without them ``held_out`` chooses too, and the gain that is reported there flatters: it is
    the best of several looks.

    ``judge`` is another reward that is logged and never learned from, as the simulator's true utility. With ``run``,
    the policy is saved in models/policy_NAME, each update is a line of logs/NAME.jsonl, the answers at several points
    are in logs/NAME_samples.jsonl, and a training that was killed goes on from its last checkpoint to the weights that
    it would have reached. Under ``accelerate launch`` all processes work on one training.

    Raises :class:`PPOError` for parameters that do not go together, :class:`RewardError` for a reward
    whose answer cannot be used, :class:`PolicyError` for policy and prompts: each before an update.
    """
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(params.ppo.seed, "ppo", "new weights"))  # a LoRA adapter starts at random
        policy = load_policy(params.ppo, run.folder if run is not None else None, trainable=True)
    trainer = PPOTrainer(
        params, policy, reward, prompts, held_out=held_out, choose_on=choose_on, judge=judge, run=run, name=name
    )
    return trainer.train(progress=progress)


class PPOTrainer:
    """One training; :func:`train_ppo` with the policy given as an object. Its weights are changed in place.

    ``collect`` and ``update`` are the two halves of a step, for those who want their own loop.
    """

    def __init__(
        self,
        params: RlhfParams,
        policy: Policy,
        reward: Reward,
        prompts: Sequence[Prompt],
        *,
        held_out: Sequence[Prompt],
        choose_on: Sequence[Prompt] | None = None,
        judge: Judge | None = None,
        run: Run | None = None,
        name: str = "ppo",
    ) -> None:
        self.params, self.sampling = params.ppo, params.sampling
        self.reward, self.judge, self.run, self.name = reward, judge, run, name
        self.processes = Processes()
        self._check(policy)
        self.prompts = list(prompts)
        limit = self.sampling.max_prompt_tokens
        self._encoded = PromptSet.of("training", self.prompts, policy.tokenizer, limit).encoded
        self._held_out = PromptSet.of("held out", held_out, policy.tokenizer, limit)
        self._choosing = self._held_out
        if choose_on is not None:
            self._choosing = PromptSet.of("choosing", choose_on, policy.tokenizer, limit)
        sets = {"training": self._encoded, **{part.kind: part.encoded for part in (self._choosing, self._held_out)}}
        self.dropped = "; ".join(f"{kind}: {encoded.reason}" for kind, encoded in sets.items() if encoded.dropped)
        if self.dropped:
            _log.warning("%s", self.dropped)
        self.models = ActorCritic(policy, self.params)
        self._parameters = self.models.trained_parameters()
        self._trained = list(self._parameters.values())
        self.optimiser = torch.optim.AdamW(
            self._trained, lr=self.params.learning_rate, eps=_ADAM_EPS, weight_decay=0.0, fused=True
        )
        self.kl = KLController(self.params.kl_coefficient, self.params.kl_target, self.params.kl_horizon)
        self._scale = RunningScale()
        self.state = Progress()
        self._best = self._policy_weights()
        self._identity = checkpoint.fingerprint(
            params.model_dump(mode="json"), [encoded.ids for encoded in sets.values()], self._parameters
        )
        self._clock = _Clock()

    def _check(self, policy: Policy) -> None:
        share = self.processes.count * self.params.gradient_accumulation
        if self.params.minibatch_size % share:
            raise PPOError(
                f"rlhf.ppo.minibatch_size {self.params.minibatch_size} is not a multiple of gradient_accumulation "
                f"{self.params.gradient_accumulation} times {self.processes.count} processes"
            )
        if policy.tokenizer.eos_token_id is None:
            raise PPOError("the tokenizer has no EOS token: responses would never end")
        if self.sampling.temperature <= 0:
            raise PPOError("rlhf.sampling.temperature must be above 0 to train: a greedy policy explores nothing")
        longest = self.sampling.max_prompt_tokens + self.sampling.max_new_tokens
        if policy.context is not None and longest > policy.context:
            raise PPOError(
                f"rlhf.sampling: max_prompt_tokens {self.sampling.max_prompt_tokens} and max_new_tokens "
                f"{self.sampling.max_new_tokens} are more than the policy's context of {policy.context} tokens"
            )
        if not any(value.requires_grad for value in policy.model.parameters()):
            raise PPOError("the policy has no trainable weights: load it with trainable=True")

    def train(self, *, progress: bool = False) -> PPOResult:
        """Train to the end, from a checkpoint where there is one, and save the policy that is kept."""
        self._resume()
        state, params = self.state, self.params
        steps = params.total_episodes // params.batch_size
        stopped = ""
        quiet = not (progress and self.processes.is_main)
        with tqdm(total=steps, initial=state.step, desc=self.name, unit="update", disable=quiet) as bar:
            while state.step < steps:
                if state.step % params.evaluate_every == 0:
                    self._evaluate()
                episodes = self.collect()
                kl = float(np.mean([episode.kl for episode in episodes]))
                if params.kl_budget is not None and kl > params.kl_budget:
                    stopped = f"KL {kl:.1f} passed kl_budget {params.kl_budget:g} after update {state.step}"
                    _log.warning("%s", stopped)
                    break
                self._record(self.update(episodes))
                if state.step % params.checkpoint_every == 0:
                    self._save_checkpoint()
                bar.set_postfix(reward=f"{state.history[-1]['reward']:.3f}", kl=f"{state.history[-1]['kl']:.2f}")
                bar.update()
        self._evaluate()
        return self._finish(stopped)

    def collect(self) -> list[Episode]:
        """The rollout of the current step, by all processes together: ``batch_size`` episodes.

        The prompts are gone through in a new order each time; which they are, and each episode's random numbers,
        follow from the seed and the episode's number alone.
        """
        start = self.state.step * self.params.batch_size
        numbers = range(start, start + self.params.batch_size)
        asked = [(*self._prompt(number), derive_seed(self.params.seed, "ppo", "episode", number)) for number in numbers]
        return self._play(asked)

    def _prompt(self, number: int) -> tuple[int, Prompt, list[int]]:
        """Place, prompt and token ids of episode ``number``."""
        count = len(self._encoded.ids)
        turn, position = divmod(number, count)
        order = np.random.default_rng(derive_seed(self.params.seed, "ppo", "prompts", turn)).permutation(count)
        chosen = int(order[position])
        place = self._encoded.kept[chosen]
        return place, self.prompts[place], self._encoded.ids[chosen]

    def _play(self, asked: Sequence[tuple[int, Prompt, list[int], int]]) -> list[Episode]:
        mine = self.processes.share(asked)
        return self.processes.together(
            lambda: play(self.models, mine, self.reward, self.judge, self.sampling, self.params, self._clock)
        )

    def update(self, episodes: Sequence[Episode]) -> dict[str, Any]:
        """One PPO update from a rollout; returns the step's numbers. The learning rate falls linearly to zero."""
        params, state = self.params, self.state
        steps = params.total_episodes // params.batch_size
        rate = params.learning_rate * (1 - state.step / steps)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        coefficient = self.kl.coefficient
        data = learnable(episodes, self._scores(episodes), coefficient, params)
        sums = torch.zeros(len(_LOSSES), dtype=torch.float64)
        norms, minibatches = 0.0, 0
        with self._clock("update"), self.models.training(), torch.enable_grad():
            for epoch in range(params.num_epochs):
                seed = derive_seed(params.seed, "ppo", "minibatches", state.step, epoch)
                order = np.random.default_rng(seed).permutation(len(episodes))
                for start in range(0, len(order), params.minibatch_size):
                    found, norm = self._step(episodes, data, order[start : start + params.minibatch_size].tolist())
                    sums += found
                    norms += norm
                    minibatches += 1
        means = dict(zip(_LOSSES, (sums / minibatches).tolist(), strict=True))
        seen = describe(episodes)
        self.kl.update(seen["kl"], len(episodes))
        return {
            "step": state.step + 1,
            "episodes": (state.step + 1) * params.batch_size,
            **seen,
            "kl_coefficient": coefficient,
            **means,
            "value_error": float(masked_mean((data.returns - data.old_values) ** 2, data.mask)),
            "explained_variance": explained_variance(data.old_values, data.returns, data.mask),
            "grad_norm": norms / minibatches,
            "learning_rate": rate,
            "tokens": int(data.mask.sum()),
        }

    def _scores(self, episodes: Sequence[Episode]) -> "np.ndarray[Any, np.dtype[np.float64]]":
        """What each response earns, [episodes]: penalised, scaled, less the penalty for a missing EOS.

        The penalty on the ensemble's spread is that of Coste et al. (arXiv 2310.02743). Scaling by the deviation of all
        rewards seen is OpenAI's baselines' (Engstrom et al., 2005.12729, section 3); a reward for responses without an
        EOS that is lower than others is the "EOS trick" of Huang et al. (2403.17031).
        """
        params = self.params
        scores = np.array([episode.worth(params.reward_uncertainty_penalty) for episode in episodes])
        if params.reward_scaling:
            self._scale.update(torch.from_numpy(scores))
            scores = scores / self._scale.scale
        if params.missing_eos_penalty is not None:
            scores = scores - params.missing_eos_penalty * np.array([not episode.ended for episode in episodes])
        return scores

    def _step(self, episodes: Sequence[Episode], data: Learnable, chosen: list[int]) -> tuple[Tensor, float]:
        """One optimiser step on a minibatch; means of what is watched over its tokens, and the gradient's norm.

        Every loss is divided by the tokens of the whole minibatch, so that how it is split, over accumulation and over
        processes, changes nothing.
        """
        params = self.params
        tokens = int(data.mask[chosen].sum())
        # Longest first: each part then holds rows of like length, and little padding.
        ordered = sorted(chosen, key=lambda n: (-len(episodes[n].prompt_ids) - len(episodes[n].response_ids), n))
        mine = self.processes.share(ordered)
        size = len(mine) // params.gradient_accumulation
        sums = torch.zeros(len(_LOSSES), dtype=torch.float64)
        self.optimiser.zero_grad()
        for start in range(0, len(mine), size):
            part = list(mine[start : start + size])
            loss, watched = self._losses([episodes[n] for n in part], data, part)
            (loss / tokens).backward()  # type: ignore[no-untyped-call]
            sums += watched
        self.processes.sum_gradients(self._trained)
        norm = float(torch.nn.utils.clip_grad_norm_(self._trained, params.max_grad_norm))
        if not np.isfinite(norm):
            raise PPOError(f"the gradient is {norm} at update {self.state.step + 1}: lower learning_rate")
        self.optimiser.step()
        return self.processes.sum(sums) / tokens, norm

    def _losses(self, episodes: Sequence[Episode], data: Learnable, rows: list[int]) -> tuple[Tensor, Tensor]:
        """Sum of the loss over the rows' tokens, and the sums of what is watched, in the order of ``_LOSSES``.

        Schulman et al. (arXiv 1707.06347), equation 9: clipped objective, value error, entropy bonus.
        """
        params, models = self.params, self.models
        mask = data.mask[rows]

        def flat(values: Tensor) -> Tensor:
            return values[rows][mask].float().to(models.device)

        old, advantages = flat(data.old_log_probs), flat(data.advantages)
        found = models.evaluate(
            [episode.prompt_ids for episode in episodes],
            [episode.response_ids for episode in episodes],
            self.sampling.temperature,
            entropy=params.entropy_bonus > 0,
        )
        policy_loss = clipped_policy_loss(found.log_probs, old, advantages, params.clip_range).sum()
        value_loss = clipped_value_loss(
            found.values, flat(data.old_values), flat(data.returns), params.value_clip_range
        ).sum()
        loss = policy_loss + params.value_coefficient * value_loss
        if found.entropies is not None:
            loss = loss - params.entropy_bonus * found.entropies.sum()
        with torch.no_grad():
            log_ratio = found.log_probs - old
            outside = (torch.exp(log_ratio) - 1).abs() > params.clip_range
            watched = [policy_loss, value_loss, outside.sum(), approximate_kl(found.log_probs, old).sum()]
            return loss, torch.stack([value.detach().double().cpu() for value in watched])

    def _record(self, row: dict[str, Any]) -> None:
        """Log a step and what is wrong with it."""
        seconds = self._clock.take()
        total = sum(seconds.values())
        row |= {"seconds": total, **{f"seconds_{part}": value for part, value in seconds.items()}}
        row["episodes_per_second"] = self.params.batch_size / total
        self.state.history.append(row)
        row["warnings"] = warnings_of(self.state.history, self.params)
        known = {_kind(warning) for old in self.state.history[:-1] for warning in old["warnings"]}
        for warning in row["warnings"]:
            if _kind(warning) not in known:
                _log.warning("update %d: %s", row["step"], warning)
        self.state.step += 1
        if (path := self._log_path) is not None and self.processes.is_main:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row, allow_nan=False) + "\n")

    def _evaluate(self) -> None:
        """Answer the prompts to choose on, from the same random numbers each time, and keep the best policy so far."""
        state = self.state
        if state.evaluations and state.evaluations[-1]["step"] == state.step:
            return
        if state.step == 0 and self._choosing is not self._held_out:
            state.judged = self._answers(self._held_out)[1]
        episodes, rows = self._answers(self._choosing)
        state.evaluations.append(summary(state.step, episodes, self.params))
        state.samples += rows
        state.best_step = choose(state.evaluations, self.params)
        if state.best_step == state.step:
            self._best = self._policy_weights()
        if self.run is not None and self.processes.is_main:
            write_lines(self.run.path("logs", f"{self.name}_samples.jsonl"), self._choosing.with_prompts(state.samples))

    def _answers(self, prompts: PromptSet) -> tuple[list[Episode], list[dict[str, Any]]]:
        """The policy's answers to prompts that it does not learn from, and their rows for a table."""
        episodes = self._play(prompts.asked(self.params.seed))
        self._clock.take()
        return episodes, sample_rows(self.state.step, episodes)

    def _policy_weights(self) -> dict[str, Tensor]:
        return {name: value.detach().cpu().clone() for name, value in self.models.policy_parameters().items()}

    def _finish(self, stopped: str) -> PPOResult:
        with torch.no_grad():
            for name, value in self.models.policy_parameters().items():
                value.copy_(self._best[name])
        policy, state = self.models.policy, self.state
        judged = [row for row in state.samples if row["step"] in (0, state.best_step)]
        if self._choosing is not self._held_out:
            after = [] if state.best_step == 0 else self._answers(self._held_out)[1]
            judged = [*state.judged, *({**row, "step": state.best_step} for row in after)]
        if self.run is not None and self.processes.is_main:
            save_policy(policy, self.run.path("models", f"policy_{self.name}"))
        self.processes.wait()
        if self._checkpoint_path is not None and self.processes.is_main:
            self._checkpoint_path.unlink(missing_ok=True)
        tables = (pd.DataFrame(rows) for rows in (state.history, state.evaluations, state.samples, judged))
        history, evaluations, samples, answers = tables
        return PPOResult(policy, history, evaluations, samples, answers, state.best_step, stopped, self.dropped)

    @property
    def _log_path(self) -> Path | None:
        return None if self.run is None else self.run.path("logs", f"{self.name}.jsonl")

    @property
    def _checkpoint_path(self) -> Path | None:
        return None if self.run is None else self.run.path("models", f".{self.name}_checkpoint")

    def _save_checkpoint(self) -> None:
        if self._checkpoint_path is None:
            return
        self.state.kl_coefficient, self.state.reward_scale = self.kl.coefficient, dict(vars(self._scale))
        if self.processes.is_main:
            path, state = self._checkpoint_path, self.state
            checkpoint.save(path, self._identity, state, self._parameters, self._best, self.optimiser)

    def _resume(self) -> None:
        if self._checkpoint_path is None or self._log_path is None:
            return
        found = checkpoint.restore(self._checkpoint_path, self._identity, self._parameters, self.optimiser)
        if found is not None:
            self.state, self._best = found
            self.kl.coefficient = self.state.kl_coefficient
            self._scale = RunningScale.restored(self.state.reward_scale)
            _log.info("%s goes on after update %d", self.name, self.state.step)
        if self.processes.is_main:
            write_lines(self._log_path, self.state.history)  # what was logged after the checkpoint is done again
        self.processes.wait()


_LOSSES = ("policy_loss", "value_loss", "clip_fraction", "approximate_kl")


def _kind(warning: str) -> str:
    return warning.partition(":")[0].split(" from ")[0]


class _Clock:
    """Seconds of each named part since they were last taken."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[part] = self._seconds.get(part, 0.0) + time.perf_counter() - start

    def take(self) -> dict[str, float]:
        seconds, self._seconds = self._seconds, {}
        return seconds
