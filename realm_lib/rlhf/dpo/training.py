"""DPO from a reward or from human pairs, start to end: pairs, training, and the policy before and after."""

import logging
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from realm_lib.config.rlhf import DPOParams, RlhfParams
from realm_lib.data.chats import Prompt, as_text
from realm_lib.rlhf.dpo.fitting import fit, training_identity
from realm_lib.rlhf.dpo.held_out import HeldOutPairs
from realm_lib.rlhf.dpo.pairs import PreferencePairs, human_pairs, on_policy_pairs, plain, prompt_column
from realm_lib.rlhf.dpo.result import DPOResult
from realm_lib.rlhf.errors import DPOError
from realm_lib.rlhf.judges import check_judge_names, judged
from realm_lib.rlhf.policies import EncodedPrompts, Policy, Response, encode_prompts, load_policy, save_policy
from realm_lib.rlhf.rewards import Judge, Reward
from realm_lib.rlhf.samples import SampleStore, policy_identity
from realm_lib.runs.files import write_text
from realm_lib.runs.run import Run
from realm_lib.runs.seeds import derive_seed

__all__ = ["make_pairs", "train_dpo"]

_log = logging.getLogger(__name__)

Pairs = Sequence[Prompt] | pd.DataFrame | PreferencePairs
"""Prompts to make pairs from, pairs as people decided them, or pairs that were made already."""


def make_pairs(
    params: RlhfParams,
    reward: Reward,
    prompts_or_pairs: Pairs,
    *,
    held_out: Sequence[Prompt] = (),
    run_folder: str | Path | None = None,
    progress: bool = False,
) -> PreferencePairs:
    """The pairs that :func:`train_dpo` trains on, to look at first; it takes them as they are.

    A table (SHP's columns, or prompt, chosen, rejected) gives human pairs; prompts give on-policy ones, as
    ``rlhf.dpo.pairs`` must say. The first ``max_prompts`` prompts are used, those of ``held_out`` never. With
    ``run_folder``, responses drawn are kept in its folder samples, and none is drawn twice.
    """
    dpo, folder = _params(params), _folder(run_folder)
    policy = load_policy(dpo, folder)
    store = _store(dpo, params, folder)
    return _made(policy, params, reward, prompts_or_pairs, store, held_out, progress)


def train_dpo(
    params: RlhfParams,
    reward: Reward,
    prompts_or_pairs: Pairs,
    *,
    held_out: Sequence[Prompt],
    held_out_pairs: Pairs | None = None,
    judges: Mapping[str, Judge] | None = None,
    run_folder: str | Path | None = None,
    name: str = "dpo",
    progress: bool = False,
) -> DPOResult:
    """Fine-tune the policy of ``params.dpo`` on preference pairs; judge it on the prompts ``held_out``.

    Pairs are made as :func:`make_pairs` does, or are its result. ``held_out_pairs``, whose margin and accuracy are
    followed, are given in the same ways; without them they are made on-policy from ``held_out``. ``judges`` (name to
    callable, see :func:`load_judges`) score the answers to ``held_out`` before and after; the reward always does,
    as ``realm``. The reference is the policy as it was loaded.

    With ``run_folder`` the policy is saved in models/policy_NAME, the history in logs/NAME.jsonl, responses drawn in
    samples, and a training that was killed goes on from its last checkpoint. No pair of a prompt of ``held_out`` or
    ``held_out_pairs`` is trained on. One process does it all.

    Raises :class:`DPOError` for parameters or pairs that do not go together and for fewer pairs than a batch,
    :class:`realm_lib.config.base.ParamsError` for a judge's name that is taken,
    :class:`realm_lib.rlhf.errors.RewardError` for a reward or judge whose answer cannot be used,
    :class:`realm_lib.rlhf.policies.PolicyError` for policy and prompts.
    """
    start = time.monotonic()
    dpo, folder = _params(params), _folder(run_folder)
    check_judge_names(judges or ())
    held = [*held_out, *_prompts(held_out_pairs)]
    policy = _trainable(dpo, folder)
    store = _store(dpo, params, folder)
    pairs = _made(policy, params, reward, prompts_or_pairs, store, held, progress)
    _check(pairs, held, dpo)
    watched = _watched(policy, params, reward, held_out, held_out_pairs, store, progress)
    encoded = encode_prompts(policy.tokenizer, held_out, params.sampling.max_prompt_tokens)
    if encoded.dropped:
        _log.warning("held out: %s", encoded.reason)
    before = [row[0] for row in store.draw(policy, encoded.ids, [0], progress=progress)]
    followed = HeldOutPairs.of(policy, watched, dpo, params.sampling.batch_size)

    with ExitStack() as stack:
        home = folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        checkpoints = home / "models" / f".{name}_checkpoints"
        identity = training_identity(dpo, store.identity, pairs, watched)
        history = fit(policy, pairs, followed, dpo, checkpoints, identity, progress=progress)
        if folder is not None:
            _save(policy, history, folder, name)
            trained = dpo.model_copy(update={"model_name": f"run:models/policy_{name}", "revision": None})
            store = _store(trained, params, folder)
        else:
            store = SampleStore(None, identity, params.sampling, dpo.seed)
        after = [row[0] for row in store.draw(policy, encoded.ids, [0], progress=progress)]
        answers = _judged(held_out, encoded, before, after, {"realm": reward, **(judges or {})})
        shutil.rmtree(checkpoints, ignore_errors=True)

    return DPOResult(
        policy=policy,
        pairs=pairs,
        held_out_pairs=watched,
        history=history,
        implicit=followed.implicit(policy),
        answers=answers,
        judges=("realm", *(name for name in judges or {} if name != "realm")),
        dropped=encoded.reason,
        seconds=round(time.monotonic() - start, 1),
    )


def _params(params: RlhfParams) -> DPOParams:
    from accelerate import PartialState

    if params.dpo is None:
        raise DPOError("rlhf.dpo is missing from the parameters")
    if PartialState().num_processes > 1:
        raise DPOError("DPO runs in one process here: start it without accelerate launch")
    return params.dpo


def _folder(run_folder: str | Path | None) -> Path | None:
    return None if run_folder is None else Path(run_folder).resolve()


def _prompts(given: Pairs | None) -> list[Prompt]:
    """The prompts of pairs in any form."""
    table = given.table if isinstance(given, PreferencePairs) else given
    if not isinstance(table, pd.DataFrame):
        return list(table or ())
    column = prompt_column(table)
    return table[column].tolist()


def _trainable(dpo: DPOParams, folder: Path | None) -> Policy:
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(dpo.seed, "dpo", "new weights"))  # a LoRA adapter starts at random
        policy = load_policy(dpo, folder, trainable=True)
    if dpo.lora is None and hasattr(policy.model, "peft_config"):
        raise DPOError(f"{dpo.model_name}: is an adapter on another model: merge it into its base first")
    if dpo.lora is None and dpo.dtype != "float32":
        _log.warning(
            "all weights are trained in %s, which cannot hold updates much below a hundredth of a weight: take dtype "
            "float32, or lora, whose adapters are float32",
            dpo.dtype,
        )
    return policy


def _store(dpo: DPOParams, params: RlhfParams, folder: Path | None) -> SampleStore:
    identity = policy_identity(dpo, folder)
    return SampleStore(folder / "samples" if folder is not None else None, identity, params.sampling, dpo.seed)


def _made(
    policy: Policy,
    params: RlhfParams,
    reward: Reward,
    given: Pairs,
    store: SampleStore,
    held_out: Sequence[Prompt],
    progress: bool,
    limit: bool = True,
) -> PreferencePairs:
    """``given`` as pairs, none of them of a prompt in ``held_out``."""
    dpo = _params(params)
    if isinstance(given, PreferencePairs):
        return given.without_prompts(held_out)
    kind = "human" if isinstance(given, pd.DataFrame) else "on_policy"
    if limit and kind != dpo.pairs:
        found = "a table of pairs" if kind == "human" else "prompts"
        raise DPOError(f"rlhf.dpo.pairs is {dpo.pairs}, but what was given is {found}: change one")
    held = {plain(prompt) for prompt in held_out}
    most = dpo.max_prompts if limit else None
    if isinstance(given, pd.DataFrame):
        names = given[prompt_column(given)].map(plain)
        wanted = names[~names.isin(held)].drop_duplicates()[:most]
        return human_pairs(policy, given[names.isin(wanted)], dpo, params.sampling)
    prompts = [prompt for prompt in given if plain(prompt) not in held][:most]
    if not prompts:
        raise DPOError("there are no prompts to make pairs from, or all of them are held out")
    return on_policy_pairs(policy, reward, prompts, store, dpo, params.sampling, progress=progress)


def _watched(
    policy: Policy,
    params: RlhfParams,
    reward: Reward,
    held_out: Sequence[Prompt],
    given: Pairs | None,
    store: SampleStore,
    progress: bool,
) -> PreferencePairs:
    pairs = _made(policy, params, reward, held_out if given is None else given, store, (), progress, limit=False)
    if not len(pairs):
        raise DPOError(f"held out: {pairs.report()}: there is nothing to follow the training by; take more prompts")
    return pairs


def _check(pairs: PreferencePairs, held_out: Sequence[Prompt], dpo: DPOParams) -> None:
    held = {plain(prompt) for prompt in held_out}
    if found := [prompt for prompt in pairs.table["prompt"] if plain(prompt) in held]:
        raise DPOError(f"{len(found)} training pairs are of held-out prompts, the first: {found[0][:80]!r}")
    if len(pairs) < dpo.batch_size:
        raise DPOError(
            f"{pairs.report()}. That is fewer than rlhf.dpo.batch_size {dpo.batch_size}: lower it, or take more "
            "prompts (max_prompts, data.splits.train), more samples_per_prompt or a lower min_margin"
        )


def _save(policy: Policy, history: pd.DataFrame, folder: Path, name: str) -> None:
    save_policy(policy, folder / "models" / f"policy_{name}")
    lines = history.to_json(orient="records", lines=True, double_precision=15)
    write_text(Run(folder).path("logs", f"{name}.jsonl"), lines)


def _judged(
    held_out: Sequence[Prompt],
    encoded: EncodedPrompts,
    before: Sequence[Response],
    after: Sequence[Response],
    judges: Mapping[str, Judge | Reward],
) -> pd.DataFrame:
    """The table of answers with every judge's scores; equal answers to a prompt are the same text to it."""
    asked = [held_out[place] for place in encoded.kept]
    columns: dict[str, object] = {"prompt": [as_text(prompt) for prompt in asked]}
    for when, responses in (("before", before), ("after", after)):
        columns[when] = [one.text for one in responses]
        columns[f"length_{when}"] = [len(one.ids) for one in responses]
        columns[f"ended_{when}"] = [one.ended for one in responses]
    texts = [one.text for one in (*before, *after)]
    for name, judge in judges.items():
        scores = judged(name, judge, [*asked, *asked], texts, [*encoded.kept, *encoded.kept])
        columns[f"{name}_before"], columns[f"{name}_after"] = np.split(scores, 2)
    return pd.DataFrame(columns)
