"""Judges by name: who says which of two answers is better."""

import importlib
import operator
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

from realm_lib.config.base import ParamsError
from realm_lib.config.judges import RESERVED_JUDGES
from realm_lib.config.reward_model import RewardModelParams
from realm_lib.data.chats import Prompt, asked_texts
from realm_lib.models.reward_models import Scorer, build_scorer
from realm_lib.rlhf.rewards import Judge, Reward
from realm_lib.runs.run import Run
from realm_lib.runs.weights import locate_model

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


def load_judges(
    sources: Mapping[str, str | RewardModelParams], reward: Reward, *, simulated: bool, run: Run | None = None
) -> dict[str, Judge]:
    """The judges of a run by name: ``realm`` is ``reward`` itself, ``gold`` the simulator's truth, and your own.

    ``sources`` is ``rlhf.judges``: name to ``module:function``, or to a reward model, whose ``run:`` name is of
    ``run``. Their answers are checked when they are asked. Raises :class:`ParamsError` for one that cannot be imported
    or called, and what :func:`locate_model` raises for a reward model.
    """
    judges: dict[str, Judge] = {"realm": reward}  # type: ignore[dict-item]
    if simulated:
        from realm_lib.data.simulator import gold_utilities

        judges["gold"] = gold_utilities
    folder = None if run is None else run.folder
    return judges | {
        name: _imported(name, source) if isinstance(source, str) else RewardModelJudge(source, folder)
        for name, source in sources.items()
    }


class RewardModelJudge:
    """A judge that is a reward model: its score, in its own unit, of which win rates need the order alone.

    The model is looked for at once, and loaded when it is first asked.
    """

    def __init__(self, params: RewardModelParams, run_folder: Path | None = None) -> None:
        if params.backend != "nim":  # whose model_id is a service's name
            locate_model(params.model_id, run_folder)
        self._params, self._run_folder = params, run_folder

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[Prompt]) -> list[float]:
        """The score of each completion; raises what the model does, and :func:`asked_texts`."""
        texts = asked_texts(prompts, completions)
        scores: list[float] = self._scorer.score([asked for asked, _ in texts], [said for _, said in texts]).tolist()
        return scores

    @cached_property
    def _scorer(self) -> Scorer:
        return build_scorer(self._params, self._run_folder)


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
