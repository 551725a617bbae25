"""DPO from a reward or from human pairs, start to end: pairs, training, and the policy before and after."""

import logging
import shutil
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import pandas as pd
import torch

from realm_lib.config.rlhf import DPOParams, RlhfParams
from realm_lib.data.chats import Prompt, prompt_key
from realm_lib.rlhf.dpo.held_out import HeldOutPairs
from realm_lib.rlhf.dpo.material import unseen_pairs
from realm_lib.rlhf.dpo.pairs import PreferencePairs, human_pairs, on_policy_pairs, prompt_column
from realm_lib.rlhf.dpo.result import DPOResult, judged_answers
from realm_lib.rlhf.dpo.rounds import check_enough, first_part, train_rounds
from realm_lib.rlhf.dpo.shares import check_shares
from realm_lib.rlhf.errors import DPOError
from realm_lib.rlhf.judges import Judges, named_judges
from realm_lib.rlhf.policies import (
    EncodedPrompts,
    Policy,
    Response,
    encode_prompts,
    load_policy,
    save_policy,
)
from realm_lib.rlhf.processes import Peers
from realm_lib.rlhf.rewards import Reward, reward_identity
from realm_lib.rlhf.samples import SampleStore
from realm_lib.rlhf.tracking import Tracking
from realm_lib.rlhf.unseen import trained_on, unseen, with_start
from realm_lib.runs.files import write_text
from realm_lib.runs.run import Run
from realm_lib.runs.seeds import derive_seed

_log = logging.getLogger(__name__)

Pairs = Sequence[Prompt] | pd.DataFrame | PreferencePairs
"""Prompts to make pairs from, pairs as people decided them, or pairs that were made already."""


def make_pairs(
    params: RlhfParams,
    reward: Reward,
    prompts_or_pairs: Pairs,
    *,
    held_out: Sequence[Prompt] = (),
    run: Run | None = None,
    progress: bool = False,
) -> PreferencePairs:
    """The pairs that :func:`train_dpo` trains on, to look at first; it takes them as they are.

    A table (SHP's columns, or prompt, chosen, rejected) gives human pairs; prompts give on-policy ones, as
    ``rlhf.dpo.pairs`` must say. The first ``max_prompts`` prompts are used, those of ``held_out`` never. With
    ``run``, responses drawn are kept in its folder samples, and none is drawn twice.
    """
    return _Start.of(params, reward, run, progress, trainable=False).training_pairs(prompts_or_pairs, held_out)


def train_dpo(
    params: RlhfParams,
    reward: Reward,
    prompts_or_pairs: Pairs,
    *,
    held_out: Sequence[Prompt],
    held_out_pairs: Pairs | None = None,
    judge: Judges = None,
    run: Run | None = None,
    name: str = "dpo",
    progress: bool = False,
    keep_result: bool = False,
) -> DPOResult:
    """Fine-tune the policy of ``params.dpo`` on preference pairs; judge it on the prompts ``held_out``.

    Pairs are made as :func:`make_pairs` does, or are its result. ``held_out_pairs``, whose margin and accuracy are
    followed, are given in the same ways; without them they are made on-policy from ``held_out`` (the first
    ``followed_prompts``). ``judge`` (one callable, or several by name, see :func:`load_judges`) scores the answers to
    ``held_out`` before and after; the reward always does, as ``realm``. The reference is the policy as it was loaded.
    With ``rounds`` above 1 the pairs of later rounds are made on the way, see :mod:`realm_lib.rlhf.dpo.rounds`.

    With ``run`` the policy is saved in models/policy_NAME, the history in logs/NAME.jsonl, responses drawn in
    samples, and a training that was killed goes on from its last checkpoint. No pair of a prompt of ``held_out`` or
    ``held_out_pairs`` is trained on. Those that the policy's start or the reward was trained on judge nothing: they are
    left out and counted. Under ``accelerate launch`` all processes work on one training, whose updates are those that
    one would make; the run's folder is one that all of them see. ``keep_result`` leaves what was trained beside the
    policy: the same call, in any number of processes, then trains nothing again.

    Raises :class:`DPOError` for parameters or pairs that do not go together and for fewer pairs than a batch,
    :class:`realm_lib.config.base.ParamsError` for a judge's name that is taken,
    :class:`realm_lib.rlhf.errors.RewardError` for a reward or judge whose answer cannot be used,
    :class:`realm_lib.rlhf.errors.SampleError` for responses of the run that cannot be read again,
    :class:`realm_lib.rlhf.policies.PolicyError` for policy and prompts.
    """
    began = time.monotonic()
    judges, peers = named_judges(judge), Peers()
    held = [*held_out, *_prompts(held_out_pairs)]
    start = _Start.of(params, reward, run, progress, trainable=True)
    policy, dpo = start.policy, start.dpo
    known = trained_on(reward, {"start": dpo}, None if run is None else run.folder)
    places, dropped = unseen(held_out, known)
    held_out = [held_out[place] for place in places]
    if isinstance(held_out_pairs, pd.DataFrame):
        held_out_pairs = unseen_pairs(held_out_pairs, known)
    pairs = start.training_pairs(prompts_or_pairs, held)
    check_enough(pairs, dpo)
    watched = start.watched_pairs(held_out[: dpo.followed_prompts] if held_out_pairs is None else held_out_pairs)
    encoded = encode_prompts(
        policy.tokenizer, held_out, params.sampling.max_prompt_tokens, params.sampling.enable_thinking
    )
    dropped = "; ".join(filter(None, [dropped, encoded.reason]))
    if dropped:
        _log.warning("held out: %s", dropped)
    before = start.answers(encoded)
    followed = HeldOutPairs.of(policy, watched, dpo, params.sampling.batch_size)

    with ExitStack() as stack:
        home = run.folder if run is not None else Path(stack.enter_context(tempfile.TemporaryDirectory()))
        home = peers.of_main(lambda: home)
        checkpoints = home / "models" / f".{name}_checkpoints"
        kept = any(checkpoints.glob("round_*/*_finished"))
        rounds = train_rounds(
            policy,
            pairs,
            followed,
            dpo,
            checkpoints=checkpoints,
            start=start.store.identity,
            reward=reward_identity(reward),
            folder=None if run is None else run.folder,
            track=lambda identity: Tracking.start(
                dpo.report_to, name, identity, dpo.model_dump(mode="json"), run, is_main=peers.is_main
            ),
            make=lambda identity, prompts: start.known_as(identity, run).made(prompts, (), None),
            progress=progress,
            keep=keep_result,
        )
        history = rounds.history
        if run is not None:
            if peers.is_main:
                _save(policy, history, run, name, with_start(known["start"], rounds.pairs.table["prompt"]))
            peers.wait()
            trained = dpo.model_copy(update={"model_name": f"run:models/policy_{name}", "revision": None})
            store = SampleStore.of(trained, params.sampling, dpo.seed, run)
        else:
            store = SampleStore(None, rounds.identity, params.sampling, dpo.seed)
        after = replace(start, store=store).answers(encoded)
        answers = judged_answers(held_out, encoded, before, after, reward, judges, params.floor_reward)
        if peers.is_main and not (keep_result or kept):
            shutil.rmtree(checkpoints, ignore_errors=True)

    return DPOResult(
        policy=policy,
        pairs=rounds.pairs,
        held_out_pairs=watched,
        history=history,
        implicit=followed.implicit(policy),
        answers=answers,
        judges=("realm", *judges),
        dropped=dropped,
        seconds=round(time.monotonic() - began, 1),
    )


@dataclass(frozen=True)
class _Start:
    """What a call starts from: the policy, loaded and digested once, and what it is asked with."""

    params: RlhfParams
    dpo: DPOParams
    policy: Policy
    reward: Reward
    store: SampleStore
    """The policy's responses, known by its digest."""
    progress: bool

    @classmethod
    def of(cls, params: RlhfParams, reward: Reward, run: Run | None, progress: bool, *, trainable: bool) -> Self:
        dpo = params.dpo
        if dpo is None:
            raise DPOError("rlhf.dpo is missing from the parameters")
        peers = Peers()
        check_shares(dpo, peers)
        progress = progress and peers.is_main
        folder = None if run is None else run.folder
        policy = _trainable(dpo, folder) if trainable else load_policy(dpo, folder)
        return cls(params, dpo, policy, reward, SampleStore.of(dpo, params.sampling, dpo.seed, run), progress)

    def training_pairs(self, given: Pairs, held_out: Sequence[Prompt]) -> PreferencePairs:
        """Those of the first ``max_prompts`` prompts, in the form that the parameters say, none of ``held_out``."""
        if isinstance(given, PreferencePairs):
            return given.without_prompts(held_out)
        kind = "human" if isinstance(given, pd.DataFrame) else "on_policy"
        if kind != self.dpo.pairs:
            form = "a table of pairs" if kind == "human" else "prompts"
            raise DPOError(f"rlhf.dpo.pairs is {self.dpo.pairs}, but what was given is {form}: change one")
        return self.made(given, held_out, self.dpo.max_prompts, self.dpo.rounds)

    def watched_pairs(self, given: Pairs) -> PreferencePairs:
        """The pairs that training is followed by, of all prompts and in either form; at least one."""
        pairs = given if isinstance(given, PreferencePairs) else self.made(given, (), None)
        if not len(pairs):
            raise DPOError(f"held out: {pairs.report()}: there is nothing to follow the training by; take more prompts")
        return pairs

    def known_as(self, identity: str, run: Run | None) -> Self:
        """The same with the policy as training has made it, whose responses are kept under ``identity``."""
        samples = None if run is None else run.path("samples")
        return replace(self, store=SampleStore(samples, identity, self.params.sampling, self.dpo.seed))

    def answers(self, prompts: EncodedPrompts) -> list[Response]:
        """One answer of the policy, as it is now, to each prompt."""
        peers = Peers()

        def drawn() -> list[Response]:
            asked = peers.share(prompts.ids)
            return [one for (one,) in self.store.draw(self.policy, asked, [0], progress=self.progress)]

        return peers.together(drawn)

    def made(
        self, given: Sequence[Prompt] | pd.DataFrame, held_out: Sequence[Prompt], most: int | None, rounds: int = 1
    ) -> PreferencePairs:
        """Pairs of the first ``most`` prompts that are not held out; of several rounds those of the first."""
        sampling = self.params.sampling
        held = {prompt_key(prompt) for prompt in held_out}
        if isinstance(given, pd.DataFrame):
            names = given[prompt_column(given)].map(prompt_key)
            wanted = names[~names.isin(held)].drop_duplicates()[:most]
            return human_pairs(self.policy, given[names.isin(wanted)], self.dpo, sampling)
        prompts = [prompt for prompt in given if prompt_key(prompt) not in held][:most]
        if not prompts:
            raise DPOError("there are no prompts to make pairs from, or all of them are held out")
        prompts, later = first_part(prompts, rounds)
        floor = self.params.floor_reward
        pairs = on_policy_pairs(
            self.policy, self.reward, prompts, self.store, self.dpo, sampling, floor=floor, progress=self.progress
        )
        return replace(pairs, later=later)


def _trainable(dpo: DPOParams, folder: Path | None) -> Policy:
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(dpo.seed, "dpo", "new weights"))  # a LoRA adapter starts at random
        policy = load_policy(dpo, folder, trainable=True)
    if dpo.lora is None and dpo.dtype != "float32":
        _log.warning(
            "all weights are trained in %s, which cannot hold updates much below a hundredth of a weight: take dtype "
            "float32, or lora, whose adapters are float32",
            dpo.dtype,
        )
    return policy


def _prompts(given: Pairs | None) -> list[Prompt]:
    """The prompts of pairs in any form."""
    table = given.table if isinstance(given, PreferencePairs) else given
    if not isinstance(table, pd.DataFrame):
        return list(table or ())
    return table[prompt_column(table)].tolist()


def _save(policy: Policy, history: pd.DataFrame, run: Run, name: str, posts: frozenset[str]) -> None:
    save_policy(policy, run.path("models", f"policy_{name}"), posts)
    lines = history.to_json(orient="records", lines=True, double_precision=15)
    write_text(run.path("logs", f"{name}.jsonl"), lines)
