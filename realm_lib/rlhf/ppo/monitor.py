"""What a person watches: the numbers of a step, where its time goes, and warnings where training goes wrong."""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from realm_lib.config.rlhf import PPOParams
from realm_lib.rlhf.ppo.importance import sampler_warnings
from realm_lib.rlhf.ppo.rollout import Episode

_log = logging.getLogger(__name__)
_RUNAWAY = 2.0
_COLLAPSED = 0.2
_EXPLODED = 2.0
_SATURATED = 0.05
_FEW_TOKENS = 64
_UNEXPLAINED = 0.1
_WINDOW = 5


def describe(episodes: Sequence[Episode]) -> dict[str, float]:
    """Means over a rollout's responses.

    Keys: reward, reward_std, floored (the share that got ``rlhf.floor_reward``), its parts as the reward tells them (of
    the others: RealmReward's are its features, spread, and outside, the share with a feature beyond those of the
    combiner's training), each judge's, by its name, kl and kl_k3 (nats a response), entropy (nats a token), length
    (tokens) and ended (share ending in EOS).
    """
    names = dict.fromkeys(name for episode in episodes for name in episode.told)
    told = {name: float(np.mean([row.told[name] for row in episodes if name in row.told])) for name in names}
    lengths = np.array([len(episode.response_ids) for episode in episodes])
    return {
        **told,
        "reward_std": float(np.std([episode.told["reward"] for episode in episodes])),
        "kl": float(np.mean([episode.kl for episode in episodes])),
        "kl_k3": float(np.mean([episode.kl_k3 for episode in episodes])),
        "entropy": float(np.average([episode.entropy for episode in episodes], weights=lengths)),
        "length": float(lengths.mean()),
        "ended": float(np.mean([episode.ended for episode in episodes])),
    }


def keep_step(
    history: list[dict[str, Any]], row: dict[str, Any], seconds: Mapping[str, float], params: PPOParams
) -> None:
    """Append a step's ``row`` to ``history``, with its time by part and its warnings; new kinds of these are logged."""
    total = sum(seconds.values())
    row |= {"seconds": total, **{f"seconds_{part}": value for part, value in seconds.items()}}
    row["episodes_per_second"] = params.batch_size / total
    known = {kind_of(warning) for old in history for warning in old["warnings"]}
    history.append(row)
    row["warnings"] = warnings_of(history, params)
    for warning in row["warnings"]:
        if kind_of(warning) not in known:
            _log.warning("update %d: %s", row["step"], warning)


def warnings_of(history: Sequence[Mapping[str, Any]], params: PPOParams) -> list[str]:
    """What is going wrong at the last step of ``history``, in words; empty when nothing is."""
    first, last = history[0], history[-1]
    before = history[-1 - _WINDOW : -1]
    warnings = []
    if params.kl_target is not None:
        limit, name = _RUNAWAY * params.kl_target, f"{_RUNAWAY:g} times kl_target"
    else:
        usual = float(np.mean([row["kl"] for row in before])) if len(before) == _WINDOW else np.inf
        limit, name = max(_RUNAWAY * usual, 5.0), f"{_RUNAWAY:g} times the mean of the {_WINDOW} steps before"
    if last["kl"] > limit:
        warnings.append(
            f"KL is running away: {last['kl']:.1f} nats a response, more than {name}: raise kl_coefficient, or lower "
            "learning_rate"
        )
    if last["entropy"] < _COLLAPSED * first["entropy"]:
        warnings.append(
            f"entropy has collapsed: {last['entropy']:.2f} nats a token, {first['entropy']:.2f} at first: its "
            "answers hardly vary; raise kl_coefficient or entropy_bonus"
        )
    if last["length"] > _EXPLODED * first["length"]:
        warnings.append(
            f"responses have grown from {first['length']:.0f} to {last['length']:.0f} tokens: does the reward pay for "
            "length? Raise missing_eos_penalty or kl_coefficient"
        )
    if last["reward_std"] < _SATURATED * first["reward_std"]:
        warnings.append(
            f"the reward is saturating: its spread over a rollout fell from {first['reward_std']:.3g} to "
            f"{last['reward_std']:.3g}, there is little left to learn from"
        )
    explained = last["explained_variance"]
    if params.gae_lambda < 1 and explained is not None and explained < _UNEXPLAINED:
        credit = params.gae_lambda ** (last["length"] - 1)
        warnings.append(
            f"the value head knows little yet: it explains {max(explained, 0.0):.0%} of the returns' variance, and "
            f"with gae_lambda {params.gae_lambda:g} the first of {last['length']:.0f} tokens gets {credit:.2g} of what "
            "a response earns: set gae_lambda to 1, or raise value_learning_rate or value_warmup"
        )
    if last["tokens"] < _FEW_TOKENS:
        warnings.append(
            f"{last['tokens']:.0f} tokens in a rollout are too few to whiten advantages by: raise batch_size"
        )
    return [*warnings, *sampler_warnings(last)]


def kind_of(warning: str) -> str:
    """What a warning is about, whatever its numbers."""
    return warning.partition(":")[0].split(" from ")[0]


class Clock:
    """Seconds of each named part since they were last taken."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        """Measure what is done within as ``part``."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[part] = self._seconds.get(part, 0.0) + time.perf_counter() - start

    def take(self) -> dict[str, float]:
        """The seconds by part; the clock starts again."""
        seconds, self._seconds = self._seconds, {}
        return seconds
