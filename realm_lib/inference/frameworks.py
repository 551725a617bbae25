"""A run's reward in the signatures of training frameworks. TRL needs none: RealmReward is a TRL reward function.

Each function takes the run's folder from its ``run`` argument or else from the environment variable ``REALM_RUN``, and
loads the reward once a process, at the first call. Frameworks may call from several threads: calls take turns.
"""

import os
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from realm_lib.config.base import ParamsError
from realm_lib.data.chats import Prompt
from realm_lib.data.rendered_chats import RenderedChatError, split_query
from realm_lib.reward.realm_reward import RealmReward

_turn = threading.Lock()


class FrameworkError(ValueError):
    """What a framework handed over has no prompt and response; the message says what is missing."""


def reward_func(
    queries: Sequence[str],
    prompts: Sequence[str],
    labels: Sequence[Any] | None = None,  # noqa: ARG001
    run: str | None = None,
    **_: Any,
) -> dict[str, Any]:
    """OpenRLHF's reward function (``--reward.remote_url reward_func.py``), for a batch of n.

    ``queries`` hold prompt and response, ``prompts`` the prompts, both rendered by the policy's chat template. Answers
    ``rewards`` and ``scores`` (float tensors [n]; scores are sigmoids of the rewards, between 0 and 1 as dynamic
    filtering wants, and no calibrated probabilities) and ``extra_logs`` (name: tensor [n]). Raises
    :class:`FrameworkError` naming the first query that does not begin with its prompt.
    """
    import torch

    if len(queries) != len(prompts):
        raise FrameworkError(f"{len(queries)} queries but {len(prompts)} prompts")
    chats: list[tuple[Prompt, str]] = []
    for index, (query, prompt) in enumerate(zip(queries, prompts, strict=True)):
        try:
            chats.append(split_query(query, prompt))
        except RenderedChatError as error:
            raise FrameworkError(f"query {index} {error}") from None
    with _turn:
        explained = _reward(run).explain([prompt for prompt, _ in chats], [response for _, response in chats])
    columns = {name: torch.tensor(explained[name].to_numpy(), dtype=torch.float32) for name in explained}
    rewards = columns.pop("reward")
    return {"rewards": rewards, "scores": torch.sigmoid(rewards), "extra_logs": columns}


def compute_score(
    data_source: str,  # noqa: ARG001
    solution_str: str,
    ground_truth: Any,  # noqa: ARG001
    extra_info: Mapping[str, Any] | None = None,
    run: str | None = None,
    **_: Any,
) -> dict[str, float]:
    """verl's custom reward function, for one response: ``score`` is the reward, the other numbers are logged.

    The prompt travels in ``extra_info["prompt"]``, as text or chat messages: verl passes on that column of the data and
    nothing else of the prompt. Raises :class:`FrameworkError` where it is missing.
    """
    prompt: Any = (extra_info or {}).get("prompt")
    if hasattr(prompt, "tolist"):
        prompt = prompt.tolist()  # a list read from Parquet arrives as an array
    if not isinstance(prompt, (str, list)):
        raise FrameworkError('verl: extra_info must hold "prompt", as text or chat messages: add it to the data set')
    with _turn:
        explained = _reward(run).explain([prompt], [solution_str])
    numbers = {name: float(explained[name].iloc[0]) for name in explained}
    return {"score": numbers.pop("reward"), **{f"realm_{name}": value for name, value in numbers.items()}}


def _reward(run: str | None) -> RealmReward:
    folder = run or os.environ.get("REALM_RUN")
    if not folder:
        raise ParamsError("which run? Set REALM_RUN to its folder, as in REALM_RUN=outputs/demo, or give run=")
    return _load(Path(folder).resolve())


@cache
def _load(folder: Path) -> RealmReward:
    return RealmReward.from_pretrained(folder)
