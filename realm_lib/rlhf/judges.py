"""Judges by name: who says which of two answers is better."""

import importlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from realm_lib.config.base import ParamsError
from realm_lib.config.rlhf import RESERVED_JUDGES
from realm_lib.data.chats import Prompt, as_text
from realm_lib.rlhf.errors import RewardError
from realm_lib.rlhf.rewards import Judge, Reward, ask_judge

__all__ = ["check_judge_names", "gold_judge", "judged", "load_judges"]


def gold_judge(prompts: Sequence[Prompt], completions: Sequence[Prompt], **columns: Any) -> list[float]:  # noqa: ARG001
    """The simulator's true utility of each completion; raises where a prompt is not one of its posts."""
    from realm_lib.data.simulator import gold_utility

    return [gold_utility(as_text(prompt), as_text(text)) for prompt, text in zip(prompts, completions, strict=True)]


def load_judges(places: Mapping[str, str], reward: Reward, *, simulated: bool) -> dict[str, Judge]:
    """The judges of a run by name: ``realm`` is ``reward`` itself, ``gold`` the simulator's truth, and your own.

    ``places`` is ``rlhf.judges``: name to ``module:function``. Their answers are checked when they are asked.
    Raises :class:`realm_lib.config.base.ParamsError` for one that cannot be imported or called.
    """
    judges: dict[str, Judge] = {"realm": reward}  # type: ignore[dict-item]
    if simulated:
        judges["gold"] = gold_judge
    for name, place in places.items():
        judges[name] = _imported(name, place)
    return judges


def check_judge_names(names: Iterable[str]) -> None:
    """Raises :class:`ParamsError` for a judge whose scores would take the place of another column."""
    for name in names:
        if name in RESERVED_JUDGES or not name.isidentifier():
            raise ParamsError(f"judges: {name!r} is taken or not a plain name: call your judge something else")


def judged(
    name: str,
    judge: Judge | Reward,
    prompts: Sequence[Prompt],
    completions: Sequence[str],
    places: Sequence[int],
) -> NDArray[np.float64]:
    """The scores of each completion by the judge ``name``, float64 [n]; ``places`` are the prompts' numbers.

    Raises :class:`RewardError` with the judge's name for a judge that raises, or that does not answer
    one finite number a completion.
    """
    try:
        return ask_judge(judge, prompts, completions, places)  # type: ignore[arg-type]
    except RewardError as error:
        raise RewardError(f"judge {name!r}: {error}") from error


def _imported(name: str, place: str) -> Judge:
    module, _, path = place.partition(":")
    found: Any
    try:
        found = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ParamsError(
            f"rlhf.judges.{name}: {place} cannot be imported: {error}. Is the module on PYTHONPATH, and spelled so?"
        ) from error
    if not callable(found):
        raise ParamsError(f"rlhf.judges.{name}: {place} is a {type(found).__name__}, not a function")
    judge: Judge = found
    return judge
