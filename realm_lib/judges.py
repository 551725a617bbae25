"""Judges by name: who says which of two answers is better."""

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

from realm_lib.params import ParamsError
from realm_lib.ppo.rewards import Judge, Reward
from realm_lib.preferences import Prompt, as_text

__all__ = ["gold_judge", "load_judges"]


def gold_judge(prompts: Sequence[Prompt], completions: Sequence[Prompt], **columns: Any) -> list[float]:  # noqa: ARG001
    """The simulator's true utility of each completion; raises where a prompt is not one of its posts."""
    from realm_lib.simulator import gold_utility

    return [gold_utility(as_text(prompt), as_text(text)) for prompt, text in zip(prompts, completions, strict=True)]


def load_judges(places: Mapping[str, str], reward: Reward, *, simulated: bool) -> dict[str, Judge]:
    """The judges of a run by name: ``realm`` is ``reward`` itself, ``gold`` the simulator's truth, and your own.

    ``places`` is ``rlhf.judges``: name to ``module:function``. Their answers are checked when they are asked.
    Raises :class:`realm_lib.params.ParamsError` for one that cannot be imported or called.
    """
    judges: dict[str, Judge] = {"realm": reward}  # type: ignore[dict-item]
    if simulated:
        judges["gold"] = gold_judge
    for name, place in places.items():
        judges[name] = _imported(name, place)
    return judges


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
