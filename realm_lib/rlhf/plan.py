"""What a whole run takes, said before it begins: its features, and coarsely the work of its policies."""

from dataclasses import dataclass, replace
from typing import Any

from realm_lib.config.profile import Params
from realm_lib.config.reward_model import RewardModelParams
from realm_lib.config.rlhf import PolicyParams, RlhfParams
from realm_lib.features.counting import LETTERS_A_TOKEN
from realm_lib.features.model_sizes import weights_of
from realm_lib.features.plan import FeaturesPlan, Place, Work, places, plan_features, reward_model_weights
from realm_lib.models.throughput import Precision
from realm_lib.runs.run import Run
from realm_lib.runs.steps import Step, steps_of

_BACKWARD = 2
"""Forward passes that a backward pass takes; a third is added where activations are computed again."""
_LONGEST_PROMPT = 0.6
"""Of ``max_prompt_tokens``: what a prompt is taken to have where the pairs are not known."""


@dataclass(frozen=True)
class RunPlan:
    """What a run takes, and what would stop it."""

    name: str
    folder: str
    source: str
    """Where the pairs come from."""
    features: FeaturesPlan
    policies: list[Work]
    """Of PPO, DPO and the comparison, and of the reward model that judges their answers."""
    places: list[Place]
    steps: list[Step]
    """The run's notebooks; none where it was not prepared."""

    @property
    def faults(self) -> list[str]:
        """All that would stop the run."""
        return self.features.ahead.faults

    @property
    def here(self) -> Place | None:
        """This machine; None where it has cards that are not known."""
        return next((place for place in self.places if place.here), None)

    def hours(self, place: Place) -> float | None:
        """Of all work that can be estimated, on ``place``; None where a model does not fit there."""
        total = 0.0
        for work in (*self.features.works, *self.policies):
            if work.weights is None or (place.here and work.elsewhere):
                continue
            hours = work.hours(place.card, place.number)
            if hours is None:
                return None
            feature = FEATURE_OF.get(work.what, work.what.removeprefix("signals."))
            left = 1 - self.features.stored.get(feature, 0.0)
            total += hours * left
        return total

    def to_dict(self) -> dict[str, Any]:
        """For JSON: the figures, without the texts."""
        features = self.features
        return {
            "run": self.name,
            "folder": self.folder,
            "texts": vars(features.texts),
            "tokens": {name: vars(counts) for name, counts in features.tokens.items()},
            "work": [
                {"what": work.what, "model": work.model, "weights": work.weights, "tokens": round(work.tokens)}
                for work in (*features.works, *self.policies)
            ],
            "hours": {f"{place.number} x {place.card.name}": self.hours(place) for place in self.places},
            "service_minutes": features.minutes,
            "dollars": {name: quote.cost for name, quote in features.ahead.quotes.items()},
            "stored": features.stored,
            "found": [{"what": what, "found": found} for what, found in features.ahead.found],
            "faults": self.faults,
            "notebooks": {step.name: step.state for step in self.steps},
        }


FEATURE_OF = {"reward_model": "score", "embedding": "similarity"}
"""The features that the two sections make, as the store's counts name them."""


def plan_run(params: Params, *, keep: bool) -> RunPlan:
    """The plan of a profile. ``keep`` leaves the pairs that were read in the run's folder, for notebook 01.

    No weights are read, nothing is downloaded but configurations and tokenizers, no service but the hub is asked.
    """
    run = Run(params.run.folder)
    features = plan_features(params, run, keep=keep)
    works: list[Work] = []
    if params.rlhf is not None:
        scorer = next((work for work in features.works if work.what == "reward_model"), None)
        works = _policies(params, params.rlhf, features, scorer, run)
    prepared = run.path(".steps", "depends.mk").exists()
    return RunPlan(
        name=params.run.name,
        folder=str(run.folder),
        source={"simulator": "the simulator", "hub": params.data.dataset_name, "local": params.data.path}[
            params.data.source
        ]
        or "",
        features=features,
        policies=works,
        places=places(),
        steps=steps_of(run) if prepared else [],
    )


def _policies(profile: Params, rlhf: RlhfParams, features: FeaturesPlan, scorer: Work | None, run: Run) -> list[Work]:
    """PPO, DPO, the comparison and who judges, at most: every answer is taken to be as long as it may be."""
    sampling, texts = rlhf.sampling, features.texts
    answer = float(sampling.max_new_tokens)
    prompt = _LONGEST_PROMPT * sampling.max_prompt_tokens
    if texts.prompts:
        prompt = min(texts.prompt_letters / texts.prompts / LETTERS_A_TOKEN, sampling.max_prompt_tokens)
    whole = prompt + answer
    rows = sampling.batch_size

    def drawn(answers: float) -> tuple[float, int]:
        return answers * answer, rows  # a token of each row at once

    def read(answers: float, times: float = 1.0) -> tuple[float, int]:
        return times * answers * whole, round(rows * whole)

    def trained(params: PolicyParams, answers: float) -> tuple[float, int]:
        return read(answers, 1 + _BACKWARD + (1 if params.gradient_checkpointing else 0))

    ppo, dpo, comparison = rlhf.ppo, rlhf.dpo, rlhf.comparison
    looks = ppo.total_episodes // ppo.batch_size // ppo.evaluate_every + 3
    judged = float(looks * sampling.held_out_prompts)
    episodes = float(ppo.total_episodes)
    copies = 2 if ppo.value_model == "separate" else 1
    updates = trained(ppo, copies * ppo.num_epochs * episodes)
    passes = [drawn(episodes + judged), read(episodes + judged, 1 + copies), updates]
    works = [_work("ppo", ppo, passes, run)]
    scored = by_judges = episodes + judged
    if dpo is not None:
        known = [number for number in (dpo.max_prompts, texts.prompts) if number]
        prompts = float(min(known, default=0))
        followed = min(dpo.followed_prompts or sampling.held_out_prompts, sampling.held_out_prompts)
        answers = (prompts + followed) * dpo.samples_per_prompt if dpo.pairs == "on_policy" else 0.0
        answers += 2.0 * sampling.held_out_prompts
        works.append(
            _work(
                "dpo",
                dpo,
                [drawn(answers), read(2 * prompts), trained(dpo, 2 * prompts * dpo.num_epochs)],
                run,
            )
        )
        scored += answers
        by_judges += 2.0 * sampling.held_out_prompts
    prompts = float(min(comparison.prompts or sampling.held_out_prompts, sampling.held_out_prompts))
    compared = prompts * (3 * comparison.answers + sum(comparison.best_of))
    works.append(_work("comparison", ppo, [drawn(compared), read(compared)], run))
    scored, by_judges = scored + compared, by_judges + compared
    if scorer is not None and rlhf.reward_server is None:
        (_, once) = scorer.passes[0]
        works.append(replace(scorer, what="rewards of answers", passes=((scored * whole, once),)))
    for name, judge in rlhf.judges.items():
        if isinstance(judge, RewardModelParams) and judge.backend != "nim":
            outlined = features.ahead.outlined.get(f"rlhf.judges.{name}")
            weights = outlined.weights if outlined else reward_model_weights(judge, profile, run)
            passes_of_judge = ((by_judges * whole, judge.batch_tokens),)
            precision: Precision = judge.quantization or judge.dtype
            elsewhere = judge.backend == "vllm"
            works.append(Work(f"judge {name}", judge.model_id, weights, precision, passes_of_judge, elsewhere))
    return works


def _work(what: str, params: PolicyParams, passes: list[tuple[float, int]], run: Run) -> Work:
    precision: Precision = params.quantization or params.dtype
    return Work(what, params.model_name, weights_of(params.model_name, run.folder), precision, tuple(passes))
