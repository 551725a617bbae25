"""What a launched training came to, kept for a call in one process that goes on to draw it: it trains nothing again."""

import hashlib
import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd
import torch

from realm_lib.config.rlhf import RlhfParams
from realm_lib.config.rollouts import NOT_OF_THE_RESULT
from realm_lib.data.chats import Prompt
from realm_lib.rlhf.policies import load_policy
from realm_lib.rlhf.ppo.result import PPOResult
from realm_lib.rlhf.processes import Peers
from realm_lib.rlhf.rewards import Reward, reward_identity
from realm_lib.rlhf.samples import policy_identity
from realm_lib.runs.files import write_json
from realm_lib.runs.run import Run

_log = logging.getLogger(__name__)

_TABLES = ("history", "evaluations", "samples", "judged", "rollouts")
_WORDS = ("best_step", "stopped", "dropped")


def once(
    train: Callable[[], PPOResult],
    params: RlhfParams,
    reward: Reward,
    prompts: Mapping[str, Sequence[Prompt] | None],
    run: Run | None,
    name: str,
    *,
    keep: bool,
) -> PPOResult:
    """The result that ``run`` keeps of this very training, or that of ``train``; ``keep`` leaves it for a later call.

    ``prompts`` are those of the training by their use. A result of another training is removed, which the log says.
    """
    path = None if run is None else run.path("models", f".{name}_finished.json")
    if run is None or path is None or not (keep or path.exists()):
        return train()
    identity = _identity(params, reward, prompts, run)
    peers = Peers()
    kept: dict[str, Any] = peers.of_main(
        lambda: json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"identity": identity, "none": True}
    )
    if kept["identity"] != identity:
        _log.warning("%s: the result of other parameters, prompts, reward or weights: training starts over", path)
    elif "none" not in kept:
        _log.warning("%s: %s was trained before, by a launch; delete the file to train again", path, name)
        return _restored(kept, params, run, name)
    result = train()
    if keep and peers.is_main:
        write_json(path, {"identity": identity, **_kept(result)})
    elif peers.is_main:
        path.unlink(missing_ok=True)
    peers.wait()
    return result


def _identity(params: RlhfParams, reward: Reward, prompts: Mapping[str, Sequence[Prompt] | None], run: Run) -> str:
    """A hash of all that decides the result: settings, prompts by their use, reward, the start's files."""
    settings = params.model_dump(mode="json", exclude=NOT_OF_THE_RESULT)
    used = {use: None if some is None else list(some) for use, some in prompts.items()}
    start = policy_identity(params.ppo, run.folder)
    content = [settings, used, reward_identity(reward), start, torch.__version__]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _kept(result: PPOResult) -> dict[str, Any]:
    """All but the policy, which is saved in models/policy_NAME."""
    tables = {name: _rows(getattr(result, name)) for name in _TABLES}
    return {**tables, **{name: getattr(result, name) for name in _WORDS}, "judges": list(result.judges)}


def _restored(kept: Mapping[str, Any], params: RlhfParams, run: Run, name: str) -> PPOResult:
    place = {"model_name": f"run:models/policy_{name}", "revision": None, "lora": None}
    told: dict[str, Any] = {table: pd.DataFrame(kept[table]) for table in _TABLES}
    told |= {word: kept[word] for word in _WORDS}
    policy = load_policy(params.ppo.model_copy(update=place), run.folder)
    return PPOResult(policy=policy, **told, judges=tuple(kept["judges"]))


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as JSON has them: a cell that is empty is null."""
    return [
        {str(name): None if isinstance(value, float) and math.isnan(value) else value for name, value in row.items()}
        for row in table.to_dict("records")
    ]
