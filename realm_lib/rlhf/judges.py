"""Judges by name: who says which of two answers is better."""

import importlib
import operator
from collections.abc import Mapping

from realm_lib.config.base import ParamsError
from realm_lib.config.judges import RESERVED_JUDGES
from realm_lib.rlhf.rewards import Judge, Reward

Judges = Judge | Mapping[str, Judge] | None
"""What an argument ``judge`` may be: nobody, one callable, or several by name."""


def named_judges(judge: Judges) -> dict[str, Judge]:
    """The judges beside the reward, by name: one callable is ``gold``, a mapping keeps its names.

    ``realm`` is left out: it is the reward itself, which is asked as such. Raises :class:`ParamsError` for a name whose
    scores would take the place of another column.
    """
    if judge is None:
        return {}
    judges = dict(judge) if isinstance(judge, Mapping) else {"gold": judge}
    for name in judges:
        if name in RESERVED_JUDGES or not name.isidentifier():
            raise ParamsError(f"judges: {name!r} is taken or not a plain name: call your judge something else")
    return {name: judge for name, judge in judges.items() if name != "realm"}


def load_judges(sources: Mapping[str, str], reward: Reward, *, simulated: bool) -> dict[str, Judge]:
    """The judges of a run by name: ``realm`` is ``reward`` itself, ``gold`` the simulator's truth, and your own.

    ``sources`` is ``rlhf.judges``: name to ``module:function``. Their answers are checked when they are asked.
    Raises :class:`realm_lib.config.base.ParamsError` for one that cannot be imported or called.
    """
    judges: dict[str, Judge] = {"realm": reward}  # type: ignore[dict-item]
    if simulated:
        from realm_lib.data.simulator import gold_utilities

        judges["gold"] = gold_utilities
    return judges | {name: _imported(name, source) for name, source in sources.items()}


def _imported(name: str, source: str) -> Judge:
    module, _, path = source.partition(":")
    try:
        named = operator.attrgetter(path)(importlib.import_module(module))
    except (ImportError, AttributeError) as error:
        raise ParamsError(
            f"rlhf.judges.{name}: {source} cannot be imported: {error}. Is the module on PYTHONPATH, and spelled so?"
        ) from error
    if not callable(named):
        raise ParamsError(f"rlhf.judges.{name}: {source} is a {type(named).__name__}, not a function")
    judge: Judge = named
    return judge
