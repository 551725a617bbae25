"""The same held-out prompts answered by every policy, and scored by every judge: one table."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from realm_lib.config.rlhf import PolicyParams, RlhfParams, SamplingParams
from realm_lib.data.chats import Prompt, as_text
from realm_lib.data.lengths import letter_count
from realm_lib.evaluation.win_rates import best_of_n_weights
from realm_lib.rlhf.comparison.result import ComparisonError, PolicyComparison
from realm_lib.rlhf.judges import Judges, named_judges
from realm_lib.rlhf.policies import (
    Policy,
    Response,
    SequenceKL,
    encode_prompts,
    load_policy,
    response_log_probs,
    sequence_kl,
)
from realm_lib.rlhf.rewards import Judge, Reward, ask_all
from realm_lib.rlhf.samples import SampleStore
from realm_lib.rlhf.unseen import trained_on, unseen
from realm_lib.runs.run import Run


def starting_policy(params: RlhfParams) -> PolicyParams:
    """The policy that PPO and DPO both start from, without what trains it.

    Raises :class:`ComparisonError` where the two start from different ones: a KL or a win rate needs one start.
    """
    ppo = params.ppo
    if params.dpo is not None and (params.dpo.model_name, params.dpo.revision) != (ppo.model_name, ppo.revision):
        raise ComparisonError(
            f"rlhf.ppo starts from {ppo.model_name}, rlhf.dpo from {params.dpo.model_name}: policies are compared with "
            "one start; give both the same model_name and revision"
        )
    return PolicyParams(model_name=ppo.model_name, revision=ppo.revision, **_loading(ppo))


def trained_policy(params: PolicyParams, folder: str) -> PolicyParams:
    """What loads the policy that a training with ``params`` saved in the run's ``folder``, as ``models/policy_dpo``."""
    return PolicyParams(model_name=f"run:{folder}", **_loading(params))


def _loading(params: PolicyParams) -> dict[str, Any]:
    return {name: getattr(params, name) for name in ("dtype", "quantization", "device_map", "pad_token")}


def compare_policies(
    params: RlhfParams,
    reward: Reward,
    prompts: Sequence[Prompt],
    start: PolicyParams,
    trained: Mapping[str, PolicyParams],
    *,
    judge: Judges = None,
    run: Run | None = None,
    seed: int = 42,
    progress: bool = False,
) -> PolicyComparison:
    """The starting policy, its best-of-n under ``reward``, and the policies of ``trained``, on the same ``prompts``.

    Each policy answers every prompt ``params.comparison.answers`` times, with the settings of ``params.sampling``. For
    each n of ``params.comparison.best_of`` the starting policy gives n further answers, of which best-of-n is the best:
    no answer serves two policies, so that any two are compared by independent draws. ``judge`` (one callable, or
    several by name) scores all answers, equal answers to a prompt once; the reward does as ``realm``. With ``run``,
    answers drawn are kept in its folder samples. Prompts that one of the policies or the reward was trained on are left
    out and counted. KL to the start is estimated on all of a policy's own answers, at the
    sampling temperature.

    Raises :class:`ComparisonError` for temperature 0, and what policies, reward and judges raise.
    """
    sampling, settings = params.sampling, params.comparison
    judges = named_judges(judge)
    if sampling.temperature == 0:
        raise ComparisonError("rlhf.sampling.temperature must be above 0: best-of-n and KL need answers that vary")
    folder = None if run is None else run.folder
    places, dropped = unseen(prompts, trained_on(reward, {"base": start, **trained}, folder))
    prompts = [prompts[place] for place in places][: settings.prompts]
    base = load_policy(start, folder)
    encoded = encode_prompts(base.tokenizer, prompts, sampling.max_prompt_tokens, sampling.enable_thinking)
    if len(encoded.ids) < 2:
        raise ComparisonError(f"a comparison needs two prompts at least: {encoded.reason or 'give more'}")
    asked = [prompts[index] for index in encoded.kept]

    store = SampleStore.of(start, sampling, seed, run)
    bounds = list(accumulate([settings.answers, *settings.best_of], initial=0))
    drawn = store.draw(base, encoded.ids, range(bounds[-1]), progress=progress)
    names = ["base", *(f"best_of_{n}" for n in settings.best_of)]
    frames = [
        _rows(name, [row[first:last] for row in drawn], first)
        for name, (first, last) in zip(names, pairwise(bounds), strict=True)
    ]
    kls: dict[str, SequenceKL] = {}
    for name, policy_params in trained.items():
        policy = load_policy(policy_params, folder)
        if policy.tokenizer.get_vocab() != base.tokenizer.get_vocab():
            reason = f"its tokenizer is not that of {start.model_name}: KL between them means nothing"
            raise ComparisonError(f"{name}: {reason}")
        ids = encode_prompts(policy.tokenizer, asked, sampling.max_prompt_tokens, sampling.enable_thinking).ids
        if ids != encoded.ids:
            raise ComparisonError(f"{name}: its chat template is not that of {start.model_name}: the prompts differ")
        own = SampleStore.of(policy_params, sampling, seed, run)
        answers = own.draw(policy, ids, range(settings.answers), progress=progress)
        kls[name], log_ratios = _kl(policy, base, ids, answers, sampling)
        frames.append(_rows(name, answers).assign(log_ratio=log_ratios))
        del policy  # before the next is loaded: two models in memory, not three
    table = pd.concat(frames, ignore_index=True)
    table["prompt"] = [as_text(asked[row]) for row in table["row"]]
    numbers = [places[index] for index in encoded.kept]
    known = {*table, "realm", "floored", "spread", *judges}
    table = _scored(table, asked, numbers, reward, judges, params.floor_reward)
    return PolicyComparison(
        answers=_with_best_of(table, settings.best_of),
        kls=kls,
        judges=("realm", *judges),
        parts=tuple(str(name) for name in table if name not in known),
        best_of=tuple(settings.best_of),
        resamples=settings.resamples,
        dropped="; ".join(filter(None, [dropped, encoded.reason])),
    )


def _rows(name: str, answers: Sequence[Sequence[Response]], first: int = 0) -> pd.DataFrame:
    """One row an answer, numbered from ``first`` as the sample store numbers them; the first one is shown."""
    return pd.DataFrame(
        [
            {
                "policy": name,
                "row": row,
                "number": number,
                "answer": response.text,
                "length": len(response.ids),
                "characters": letter_count(response.text),
                "ended": response.ended,
                "weight": 1 / len(responses),
                "picked": number == first,
                "log_ratio": np.nan,
            }
            for row, responses in enumerate(answers)
            for number, response in enumerate(responses, start=first)
        ]
    )


def _kl(
    policy: Policy,
    base: Policy,
    ids: Sequence[Sequence[int]],
    answers: Sequence[Sequence[Response]],
    sampling: SamplingParams,
) -> tuple[SequenceKL, NDArray[np.float64]]:
    """The KL to the start over all answers, and each answer's log-ratio, in the order of :func:`_rows`.

    Its error is that over prompts: answers to one prompt are not independent of each other.
    """
    asked = [prompt for prompt, row in zip(ids, answers, strict=True) for _ in row]
    drawn = [response.ids for row in answers for response in row]

    def log_probs(model: Any) -> list[NDArray[np.float32]]:
        return response_log_probs(model, asked, drawn, temperature=sampling.temperature, batch_size=sampling.batch_size)

    own, start = log_probs(policy.model), log_probs(base.model)
    ratios = np.array([a.sum(dtype=np.float64) - b.sum(dtype=np.float64) for a, b in zip(own, start, strict=True)])
    by_prompt = ratios.reshape(len(ids), -1).mean(axis=1)
    error = float(by_prompt.std(ddof=1) / np.sqrt(len(by_prompt)))
    return replace(sequence_kl(own, start), k1_error=error), ratios


def _scored(
    table: pd.DataFrame,
    asked: Sequence[Prompt],
    indices: Sequence[int],
    reward: Reward,
    judges: Mapping[str, Judge],
    floor: float | None,
) -> pd.DataFrame:
    """``table`` with realm, floored, its parts, a column for each judge; equal answers to a prompt are scored once."""
    distinct = table[["row", "answer"]].drop_duplicates(ignore_index=True)
    prompts = [asked[row] for row in distinct["row"]]
    texts, numbers = distinct["answer"].tolist(), [indices[row] for row in distinct["row"]]
    scores = ask_all(reward, judges, prompts, texts, numbers, needs_spread=False, floor=floor)
    scored = pd.concat([distinct, scores.rename(columns={"reward": "realm"})], axis=1)
    return table.merge(scored, on=["row", "answer"], how="left", validate="many_to_one")


def _with_best_of(table: pd.DataFrame, best_of: Sequence[int]) -> pd.DataFrame:
    """``table`` with the weights of best-of-n's answers, which are 0 but for the best; picked is the first of these."""
    for n in best_of:
        pool = table[table["policy"] == f"best_of_{n}"].sort_values(["row", "number"])
        rewards = pool["realm"].to_numpy(dtype=np.float64).reshape(-1, n)
        picked = np.zeros(rewards.shape, dtype=bool)
        picked[np.arange(len(rewards)), rewards.argmax(axis=1)] = True
        table.loc[pool.index, "weight"] = best_of_n_weights(rewards, n).ravel()
        table.loc[pool.index, "picked"] = picked.ravel()
    return table
