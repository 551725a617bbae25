"""The same held-out prompts answered by every policy, and scored by every judge: one table."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from realm_lib.config.rlhf import PolicyParams, RlhfParams
from realm_lib.data.chats import Prompt, as_text
from realm_lib.evaluation.win_rates import best_of_n_weights
from realm_lib.rlhf.comparison.result import ComparisonError, PolicyComparison
from realm_lib.rlhf.judges import check_judge_names, judged
from realm_lib.rlhf.policies import (
    Policy,
    Response,
    SequenceKL,
    encode_prompts,
    load_policy,
    response_log_probs,
    sequence_kl,
)
from realm_lib.rlhf.rewards import Judge, Reward, ask_reward
from realm_lib.rlhf.samples import SampleStore, policy_identity

__all__ = ["compare_policies", "starting_policy", "trained_policy"]


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
    judges: Mapping[str, Judge] | None = None,
    run_folder: str | Path | None = None,
    seed: int = 42,
    progress: bool = False,
) -> PolicyComparison:
    """The starting policy, its best-of-n under ``reward``, and the policies of ``trained``, on the same ``prompts``.

    Each policy answers every prompt once, with the settings of ``params.sampling``. For best-of-n the starting policy
    gives max(``params.comparison.best_of``) further answers, none of which is the one that it is compared by.
    ``judges`` (name to callable) score all answers, equal answers to a prompt once; the reward does as ``realm``. With
    ``run_folder``, answers drawn are kept in its folder samples. KL to the start is estimated on each policy's own
    answers, at the sampling temperature.

    Raises :class:`ComparisonError` for temperature 0, and what policies, reward and judges raise.
    """
    sampling, settings = params.sampling, params.comparison
    check_judge_names(judges or ())
    if sampling.temperature == 0:
        raise ComparisonError("rlhf.sampling.temperature must be above 0: best-of-n and KL need answers that vary")
    prompts = list(prompts)[: settings.prompts]
    folder = None if run_folder is None else Path(run_folder).resolve()
    base = load_policy(start, folder)
    encoded = encode_prompts(base.tokenizer, prompts, sampling.max_prompt_tokens)
    if len(encoded.ids) < 2:
        raise ComparisonError(f"a comparison needs two prompts at least: {encoded.reason or 'give more'}")
    asked = [prompts[place] for place in encoded.kept]
    most = max(settings.best_of)

    drawn = _store(start, params, folder, seed).draw(base, encoded.ids, range(most + 1), progress=progress)
    frames = [_rows("base", [row[:1] for row in drawn]), _rows("best", [row[1:] for row in drawn])]
    kls: dict[str, SequenceKL] = {}
    for name, policy_params in trained.items():
        policy = load_policy(policy_params, folder)
        if policy.tokenizer.get_vocab() != base.tokenizer.get_vocab():
            raise ComparisonError(
                f"{name}: its tokenizer is not that of {start.model_name}: KL between them means nothing"
            )
        ids = encode_prompts(policy.tokenizer, asked, sampling.max_prompt_tokens).ids
        if ids != encoded.ids:
            raise ComparisonError(f"{name}: its chat template is not that of {start.model_name}: the prompts differ")
        answers = _store(policy_params, params, folder, seed).draw(policy, ids, [0], progress=progress)
        frames.append(_rows(name, answers))
        kls[name] = _kl(policy, base, ids, [row[0] for row in answers], params)
        del policy  # before the next is loaded: two models in memory, not three
    table = pd.concat(frames, ignore_index=True)
    table["prompt"] = [as_text(asked[row]) for row in table["row"]]
    table = _scored(table, asked, encoded.kept, reward, judges or {})
    return PolicyComparison(
        answers=_with_best_of(table, settings.best_of),
        kls=kls,
        judges=("realm", *(name for name in judges or {} if name != "realm")),
        best_of=tuple(settings.best_of),
        resamples=settings.resamples,
        dropped=encoded.reason,
    )


def _store(own: PolicyParams, params: RlhfParams, folder: Path | None, seed: int) -> SampleStore:
    identity = policy_identity(own, folder)
    return SampleStore(folder / "samples" if folder is not None else None, identity, params.sampling, seed)


def _rows(name: str, answers: Sequence[Sequence[Response]]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "policy": name,
                "row": row,
                "number": number,
                "answer": one.text,
                "length": len(one.ids),
                "characters": len(one.text),
                "ended": one.ended,
                "weight": 1.0,
                "picked": True,
            }
            for row, several in enumerate(answers)
            for number, one in enumerate(several)
        ]
    )


def _kl(
    policy: Policy, base: Policy, ids: Sequence[Sequence[int]], answers: Sequence[Response], params: RlhfParams
) -> SequenceKL:
    drawn = [one.ids for one in answers]
    own, reference = (
        response_log_probs(
            one.model, ids, drawn, temperature=params.sampling.temperature, batch_size=params.sampling.batch_size
        )
        for one in (policy, base)
    )
    return sequence_kl(own, reference)


def _scored(
    table: pd.DataFrame, asked: Sequence[Prompt], places: Sequence[int], reward: Reward, judges: Mapping[str, Judge]
) -> pd.DataFrame:
    """``table`` with realm, its parts, and a column for each judge; equal answers to a prompt are scored once."""
    distinct = table[["row", "answer"]].drop_duplicates(ignore_index=True)
    prompts = [asked[row] for row in distinct["row"]]
    texts, where = distinct["answer"].tolist(), [places[row] for row in distinct["row"]]
    found = ask_reward(reward, prompts, texts, where, needs_spread=False).rename(columns={"reward": "realm"})
    for name, judge in judges.items():
        if name != "realm":
            found[name] = judged(name, judge, prompts, texts, where)
    return table.merge(pd.concat([distinct, found], axis=1), on=["row", "answer"], how="left", validate="many_to_one")


def _with_best_of(table: pd.DataFrame, best_of: Sequence[int]) -> pd.DataFrame:
    """The rows named best as a policy best_of_n for each n, with weights; picked is the best of the first n."""
    pool = table[table["policy"] == "best"].sort_values(["row", "number"])
    rewards = pool["realm"].to_numpy(dtype=np.float64).reshape(pool["row"].nunique(), -1)
    frames = [table[table["policy"] == "base"]]
    for n in best_of:
        picked = np.zeros(rewards.shape, dtype=bool)
        picked[np.arange(len(rewards)), rewards[:, :n].argmax(axis=1)] = True
        frame = pool.assign(policy=f"best_of_{n}", weight=best_of_n_weights(rewards, n).ravel(), picked=picked.ravel())
        frames.append(frame)
    frames.append(table[~table["policy"].isin(["base", "best"])])
    return pd.concat(frames, ignore_index=True)
