"""Asking a text-level reward, and believing only one finite number a response."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from realm_lib.config.judges import RESERVED_JUDGES
from realm_lib.config.rlhf import RlhfParams
from realm_lib.data.chats import Prompt
from realm_lib.data.texts import is_blank
from realm_lib.models.reward_models import UnscorableError
from realm_lib.rlhf.errors import RewardError
from realm_lib.runs.run import Run

Reward = Callable[..., Sequence[float | None]]
"""``reward(prompts=, completions=) -> list of numbers``: RealmReward, or any of TRL's reward functions. One with
a method ``explain`` that returns a table of numbers (reward, and its parts by their names) is asked through it."""

Judge = Callable[..., Sequence[float]]
"""The same signature; its numbers are logged beside the reward's and never trained on: the simulator's utility."""

_PARTS = {"score", "similarity", "spread", "outside"}
"""What RealmReward tells beside its signals' numbers, whose names are theirs."""


def reward_identity(reward: Reward) -> dict[str, str] | None:
    """What the numbers of ``reward`` depend on, for the fingerprint of a training that was killed and goes on.

    That is its attribute ``models``, as :class:`realm_lib.reward.realm_reward.RealmReward` has it. None for a reward
    that has none: two plain functions cannot be told apart, nor can two versions of one.
    """
    models = getattr(reward, "models", None)
    if models is None:
        return None
    if not isinstance(models, Mapping):
        raise RewardError(f"the reward's attribute models must be a mapping of names, it is {models!r:.80}")
    return {str(name): str(value) for name, value in sorted(models.items())}


def load_reward(params: RlhfParams, run: Run) -> Reward:
    """The reward that a training asks: of the server that ``rlhf.reward_server`` names, or else of ``run`` itself.

    Raises what RealmReward.from_pretrained raises; a server is first asked when it is used.
    """
    if params.reward_server is not None:
        from realm_lib.inference.remote_reward import RemoteReward

        return RemoteReward(params.reward_server)
    from realm_lib.reward.realm_reward import RealmReward

    return RealmReward.from_pretrained(run.folder)


def ask_reward(
    reward: Reward,
    prompts: Sequence[Prompt],
    responses: Sequence[str],
    indices: Sequence[int],
    *,
    needs_spread: bool,
    floor: float | None = None,
) -> pd.DataFrame:
    """One row a response: reward, floored, and the reward's parts where it tells them, in its order. One call.

    ``indices`` say which of the user's prompts these are. With a ``floor`` (``rlhf.floor_reward``) an empty response
    is not sent, and one that the reward cannot score (:class:`UnscorableError`) is left out of a second call: both
    get the floor, floored is True for them and their parts are NaN. Every other failure stays one.
    Raises :class:`RewardError` naming a prompt for a reward that raises, that answers with another number of rewards,
    or with None, NaN or infinity; for a part whose name is taken; and when ``needs_spread`` and there is none.
    """
    completions = [_completion(prompt, response) for prompt, response in zip(prompts, responses, strict=True)]
    sent = [place for place, response in enumerate(responses) if floor is None or not is_blank(response)]
    asking = _Asking(reward, "the reward", prompts, responses, completions, indices, floor)
    places, told = asking.numbers(sent)
    if needs_spread and places and "spread" not in told:
        raise RewardError(
            "reward_uncertainty_penalty is above 0, but the reward tells no spread: it needs a method explain() with a "
            "column spread, as RealmReward has; or set the penalty to 0"
        )
    table = pd.DataFrame(told, index=places, dtype=np.float64).reindex(range(len(responses)))
    table["floored"] = ~table.index.isin(places)
    if floor is not None:
        table.loc[table["floored"], "reward"] = floor
    return table


def ask_judge(
    name: str,
    judge: Judge | Reward,
    prompts: Sequence[Prompt],
    responses: Sequence[str],
    indices: Sequence[int],
    *,
    floor: float | None = None,
) -> NDArray[np.float64]:
    """The number of the judge ``name`` for each response, float64 [n]; asked and checked as a reward is.

    A judge is asked about empty responses too, since a function may well have a number for them; one that is a reward
    (it has ``explain``) is not. What it says that it cannot judge (:class:`UnscorableError`) gets the ``floor``.
    """
    is_reward = hasattr(judge, "explain")
    sent = [
        place for place, response in enumerate(responses) if not is_reward or floor is None or not is_blank(response)
    ]
    asking = _Asking(judge, f"judge {name!r}", prompts, responses, list(responses), indices, floor)
    places, told = asking.numbers(sent)
    numbers = np.full(len(responses), np.nan if floor is None else floor, dtype=np.float64)
    numbers[places] = told["reward"]
    return numbers


def ask_all(
    reward: Reward,
    judges: Mapping[str, Judge],
    prompts: Sequence[Prompt],
    responses: Sequence[str],
    indices: Sequence[int],
    *,
    needs_spread: bool,
    floor: float | None = None,
) -> pd.DataFrame:
    """:func:`ask_reward`'s table with a column for each judge. Raises what both raise, and :class:`RewardError` for a
    judge that has the name of a part of the reward."""
    table = ask_reward(reward, prompts, responses, indices, needs_spread=needs_spread, floor=floor)
    if taken := sorted(judges.keys() & set(table)):
        raise RewardError(f"the judge {taken[0]!r} has the name of a part of the reward: call it something else")
    for name, judge in judges.items():
        table[name] = ask_judge(name, judge, prompts, responses, indices, floor=floor)
    return table


@dataclass(frozen=True)
class _Asking:
    """Whom one call asks about what; ``places`` are positions in the lists."""

    reward: Callable[..., Any]
    who: str
    prompts: Sequence[Prompt]
    responses: Sequence[str]
    completions: Sequence[Any]
    indices: Sequence[int]
    floor: float | None

    def numbers(self, places: list[int]) -> tuple[list[int], dict[str, list[float]]]:
        """Which of ``places`` could be scored (all, without a floor), and the numbers of those by name."""
        while places:
            try:
                return places, self._told(places)
            except UnscorableError as error:
                refused = {places[place] for place in error.places if 0 <= place < len(places)}
                if not refused:
                    raise RewardError(
                        f"{self.who} cannot score places {error.places} of {len(places)} responses, which there are not"
                    ) from error
                places = [place for place in places if place not in refused]
        return [], {"reward": []}

    def _told(self, places: Sequence[int]) -> dict[str, list[float]]:
        explain = getattr(self.reward, "explain", None)
        answer = self._call(explain or self.reward, places)
        if explain is None:
            return {"reward": self._checked(answer, self.who, places)}
        told = {"reward": self._checked(list(answer["reward"]), self.who, places)}
        for part in answer:
            if part == "reward":
                continue
            if part in RESERVED_JUDGES - _PARTS or not str(part).isidentifier():
                raise RewardError(
                    f"{self.who} tells a part {part!r}, a name that is taken or not a plain one: call it something else"
                )
            values = np.asarray(answer[part])  # outside is yes or no
            told[part] = self._checked(
                values.astype(int) if values.dtype == bool else values, f"{self.who}'s {part}", places
            )
        return told

    def _call(self, function: Callable[..., Any], places: Sequence[int]) -> Any:
        try:  # by name: TRL's may take only some
            return function(
                prompts=[self.prompts[place] for place in places],
                completions=[self.completions[place] for place in places],
            )
        except Exception as error:
            unscorable = isinstance(error, UnscorableError)
            if unscorable and self.floor is not None:
                raise
            named = ", ".join(str(self.indices[place]) for place in places[:8]) + (", ..." if len(places) > 8 else "")
            message = f"{self.who} failed on prompts {named}: {type(error).__name__}: {error}"
            if self.floor is None and (unscorable or any(is_blank(self.responses[place]) for place in places)):
                message += ". Responses that are empty or too long get a reward of their own by rlhf.floor_reward"
            raise RewardError(message) from error

    def _checked(self, answer: Any, what: str, places: Sequence[int]) -> list[float]:
        try:
            numbers = list(answer)
        except TypeError:
            raise RewardError(f"{what} answered {type(answer).__name__}, not a list of numbers") from None
        if len(numbers) != len(places):
            raise RewardError(
                f"{what} answered {len(numbers)} numbers for the {len(places)} responses to prompts "
                f"{self.indices[places[0]]} to {self.indices[places[-1]]}"
            )
        for value, place in zip(numbers, places, strict=True):
            number = value.item() if hasattr(value, "item") and getattr(value, "ndim", 0) == 0 else value
            if isinstance(number, bool) or not isinstance(number, (int, float)) or not math.isfinite(number):
                raise RewardError(
                    f"{what} answered {number!r} for prompt {self.indices[place]} (response: "
                    f"{self.responses[place][:60]!r}); every response needs a finite number"
                )
        return [float(value) for value in numbers]


def _completion(prompt: Prompt, response: str) -> Prompt:
    """Conversational prompts get conversational completions, as TRL's reward functions do."""
    return response if isinstance(prompt, str) else [{"role": "assistant", "content": response}]
