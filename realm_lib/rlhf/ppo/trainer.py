"""The loop of PPO: roll out, update, look at other prompts, keep the best policy, go on after a kill."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm

from realm_lib.config.rlhf import RlhfParams
from realm_lib.config.rollouts import NOT_OF_THE_RESULT
from realm_lib.data.chats import Prompt
from realm_lib.rlhf.judges import Judges, named_judges
from realm_lib.rlhf.policies import Policy, local_part, save_policy, whole_weights
from realm_lib.rlhf.ppo import checkpoint
from realm_lib.rlhf.ppo.actor_critic import ActorCritic
from realm_lib.rlhf.ppo.checkpoint import Progress
from realm_lib.rlhf.ppo.checks import check_training
from realm_lib.rlhf.ppo.estimators import RunningScale
from realm_lib.rlhf.ppo.held_out import PromptSet, choose, sample_rows, summary, without_held_out, write_lines
from realm_lib.rlhf.ppo.monitor import Clock, keep_step
from realm_lib.rlhf.ppo.processes import Processes
from realm_lib.rlhf.ppo.references import draw_references, first_rewards
from realm_lib.rlhf.ppo.result import PPOResult
from realm_lib.rlhf.ppo.rollout import Asked, Episode, play
from realm_lib.rlhf.ppo.update import Learner
from realm_lib.rlhf.rewards import Judge, Reward, reward_identity
from realm_lib.rlhf.samplers import sampler_of
from realm_lib.rlhf.tracking import Tracking
from realm_lib.rlhf.unseen import trained_on, with_start
from realm_lib.runs.run import Run
from realm_lib.runs.seeds import derive_seed

_log = logging.getLogger(__name__)


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
        judge: Judges = None,
        run: Run | None = None,
        name: str = "ppo",
    ) -> None:
        self.params, self.sampling = params.ppo, params.sampling
        self.reward, self.judges, self.run, self.name = reward, named_judges(judge), run, name
        self.floor = params.floor_reward
        self.processes = Processes()
        check_training(policy, self.params, self.sampling, self.processes)
        self.prompts = list(prompts)
        encoded = PromptSet.of("training", self.prompts, policy.tokenizer, self.sampling).encoded
        self._encoded = without_held_out(encoded, self.prompts, [*held_out, *(choose_on or ())])
        known = trained_on(reward, {"start": self.params}, None if run is None else run.folder)
        self._held_out = PromptSet.of("held out", held_out, policy.tokenizer, self.sampling).unseen(known)
        self._choosing = self._held_out
        if choose_on is not None:
            self._choosing = PromptSet.of("choosing", choose_on, policy.tokenizer, self.sampling)
        sets = {"training": self._encoded, **{part.kind: part.encoded for part in (self._choosing, self._held_out)}}
        self.dropped = "; ".join(f"{kind}: {encoded.reason}" for kind, encoded in sets.items() if encoded.dropped)
        if self.dropped:
            _log.warning("%s", self.dropped)
        learned = [self.prompts[index] for index in self._encoded.kept]
        self._trained_on = with_start(known["start"], learned, self._choosing.fitting)
        self.models = ActorCritic(policy, self.params, self.processes.sharding)
        self.learner = Learner(self.models, self.params, self.sampling, self.processes)
        self.state = Progress()
        self._best = self._policy_weights()
        settings = params.model_dump(mode="json", exclude=NOT_OF_THE_RESULT)
        rows = [[encoded.ids for encoded in sets.values()], reward_identity(reward)]
        own = checkpoint.fingerprint(settings, rows, self.learner.parameters)
        self._identity = self.processes.one_of(own)
        label = f"{name}-{self._identity[:8]}"
        self._checkpoints = None
        if run is not None:
            place = run.path("models", f".{name}_checkpoint")
            self._checkpoints = checkpoint.Checkpoints(place, self._identity, self.processes)
        self._sampler = sampler_of(self.params, label, None if run is None else run.path("models"))
        self._clock, self._shows = Clock(), False
        self._order: tuple[int, NDArray[np.int64]] | None = None
        is_main = self.processes.is_main
        self._tracking = Tracking.start(self.params.report_to, name, self._identity, settings, run, is_main=is_main)

    def train(self, *, progress: bool = False) -> PPOResult:
        """Train to the end, from a checkpoint where there is one, and save the policy that is kept."""
        self._resume()
        state, params = self.state, self.params
        steps = params.total_episodes // params.batch_size
        stopped = ""
        self._shows = progress and self.processes.is_main
        with tqdm(total=steps, initial=state.step, desc=self.name, unit="update", disable=not self._shows) as bar:
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
        state, params = self.state, self.params
        if state.step == 0 and params.reference_samples is not None:  # by the policy as it came
            asked = map(self._asked, range(0, params.total_episodes, params.samples_per_prompt))
            draw_references(asked, state.references, self._play, self._save_checkpoint, params, show=self._shows)
            self._clock.take()
        start = state.step * params.batch_size
        numbers = range(start, start + params.batch_size)
        episodes = self._play([self._asked(number) for number in numbers], self.judges)
        for episode in episodes:
            episode.reference = state.references.get(str(episode.index))
        return episodes

    def _asked(self, number: int) -> Asked:
        """What episode ``number`` answers: as many in a row as ``samples_per_prompt`` says answer one prompt."""
        count = len(self._encoded.ids)
        turn, position = divmod(number // self.params.samples_per_prompt, count)
        if self._order is None or self._order[0] != turn:
            rng = np.random.default_rng(derive_seed(self.params.seed, "ppo", "prompts", turn))
            self._order = (turn, rng.permutation(count))
        chosen = int(self._order[1][position])
        index = self._encoded.kept[chosen]
        seed = derive_seed(self.params.seed, "ppo", "episode", number)
        return Asked(index, self.prompts[index], self._encoded.ids[chosen], seed)

    def _play(self, asked: Sequence[Asked], judges: Mapping[str, Judge]) -> list[Episode]:
        models, step, processes = self.models, self.state.step, self.processes
        with self._clock("sampling"):
            weights = whole_weights(models.policy) if self._sampler.needs_weights else None
            (version,) = processes.together(
                lambda: [self._sampler.synchronise(models.policy, step, weights)] if processes.is_main else []
            )
        rest = (self.reward, judges, self.sampling, self.params, self.floor, self._clock, self._sampler, version)
        episodes = processes.shared(asked, lambda mine: play(models, mine, *rest, processes.agreed))
        models.let_go()
        return episodes

    def update(self, episodes: Sequence[Episode]) -> dict[str, Any]:
        """One PPO update from a rollout; returns the step's numbers."""
        with self._clock("update"):
            numbers = self.learner.update(episodes, self.state.step)
        step = self.state.step + 1
        self.state.rollouts += first_rewards(step, episodes, self.params)
        return {"step": step, "episodes": step * self.params.batch_size, **numbers}

    def _record(self, row: dict[str, Any]) -> None:
        """Log a step and what is wrong with it."""
        keep_step(self.state.history, row, self._clock.take(), self.params)
        self.state.step += 1
        if (path := self._log_path) is not None and self.processes.is_main:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row, allow_nan=False) + "\n")
        self._tracking.tell("training", row)

    def _evaluate(self) -> None:
        """Answer the prompts to choose on, from the same random numbers each time, and keep the best policy so far."""
        state = self.state
        if state.evaluations and state.evaluations[-1]["step"] == state.step:
            return
        if state.step == 0 and self._choosing is not self._held_out:
            state.judged = self._answers(self._held_out)[1]
        episodes, rows = self._answers(self._choosing)
        state.evaluations.append(summary(state.step, episodes, self.params))
        self._tracking.tell("evaluation", state.evaluations[-1])
        state.samples += rows
        state.best_step = choose(state.evaluations, self.params)
        if state.best_step == state.step:
            self._best = self._policy_weights()
        if self.run is not None and self.processes.is_main:
            write_lines(self.run.path("logs", f"{self.name}_samples.jsonl"), self._choosing.with_prompts(state.samples))

    def _answers(self, prompts: PromptSet) -> tuple[list[Episode], list[dict[str, Any]]]:
        """The policy's answers to prompts that it does not learn from, and their rows for a table."""
        episodes = self._play(prompts.asked(self.params.seed), self.judges)
        self._clock.take()
        return episodes, sample_rows(self.state.step, episodes)

    def _policy_weights(self) -> dict[str, Tensor]:
        """This process's part of them."""
        parts = {name: local_part(value) for name, value in self.models.policy_parameters().items()}
        return {name: part.detach().cpu().clone() for name, part in parts.items()}

    def _finish(self, stopped: str) -> PPOResult:
        with torch.no_grad():
            for name, value in self.models.policy_parameters().items():
                local_part(value).copy_(self._best[name])
        policy, state = self.models.policy, self.state
        judged = [row for row in state.samples if row["step"] in (0, state.best_step)]
        if self._choosing is not self._held_out:
            after = [] if state.best_step == 0 else self._answers(self._held_out)[1]
            judged = [*state.judged, *({**row, "step": state.best_step} for row in after)]
        weights = None if self.run is None else whole_weights(policy)
        if self.run is not None and self.processes.is_main:
            save_policy(policy, self.run.path("models", f"policy_{self.name}"), self._trained_on, weights)
        self._tracking.finish()
        self.processes.wait()
        if self._checkpoints is not None:
            self._checkpoints.remove()
        return PPOResult(
            policy=policy,
            history=pd.DataFrame(state.history),
            evaluations=pd.DataFrame(state.evaluations),
            samples=pd.DataFrame(state.samples),
            judged=pd.DataFrame(judged),
            rollouts=pd.DataFrame(state.rollouts),
            judges=tuple(self.judges),
            best_step=state.best_step,
            stopped=stopped,
            dropped=self.dropped,
        )

    @property
    def _log_path(self) -> Path | None:
        return None if self.run is None else self.run.path("logs", f"{self.name}.jsonl")

    def _save_checkpoint(self) -> None:
        if self._checkpoints is None:
            return
        state, learner = self.state, self.learner
        state.kl_coefficient, state.reward_scale = learner.kl.coefficient, dict(vars(learner.scale))
        self._checkpoints.save(state, learner.parameters, self._best, learner.optimiser)

    def _resume(self) -> None:
        if self._checkpoints is None or self._log_path is None:
            return
        learner = self.learner
        restored = self._checkpoints.restore(learner.parameters, learner.optimiser)
        if restored is not None:
            self.state, self._best = restored
            learner.kl.coefficient = self.state.kl_coefficient
            learner.scale = RunningScale.restored(self.state.reward_scale)
            _log.info("%s goes on after update %d", self.name, self.state.step)
        if self.processes.is_main:
            write_lines(self._log_path, self.state.history)  # what was logged after the checkpoint is done again
        self.processes.wait()
