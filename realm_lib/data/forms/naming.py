"""What a file is told whose columns are of no form that is read."""

from collections.abc import Mapping, Sequence
from itertools import product

_ONE_RESPONSE = {
    ("completion", "label"): "a label for each single response (KTO)",
    ("instruction", "output"): "one response to each instruction (Alpaca)",
    ("prompt", "response"): "one response to each prompt",
    ("prompt", "completion"): "one completion of each prompt",
    ("question", "answer"): "one answer to each question",
    ("messages",): "one dialogue a row",
    ("conversations",): "one dialogue a row (ShareGPT)",
}
_PROMPTS = ("prompt", "history", "question", "query", "instruction", "input", "context", "post", "prompts", "messages")
_BETTER = ("chosen", "chosen_response", "preferred", "accepted", "better", "good", "win", "positive")
_WORSE = ("rejected", "rejected_response", "dispreferred", "reject", "worse", "bad", "lose", "negative")
_STEMS = ("response", "answer", "output", "completion", "candidate", "generation", "conversation", "summary", "text")
_SIDES = [
    (f"{stem}{joint}{first}", f"{stem}{joint}{second}")
    for stem, joint, (first, second) in product(_STEMS, ("_", ""), (("a", "b"), ("0", "1"), ("1", "2")))
]
_JUDGED = (
    *("labels", "label", "winner", "preference", "preferred", "choice", "better_id", "better_response_id"),
    *("safer_response_id", "preference_strength", "overall_preference", "human_preference"),
)
_LABELS = "labels (1 where the first is preferred, 0 where the second is, 0.5 for a tie)"


def how_to_call(columns: Sequence[str], forms: Mapping[str, Sequence[str]]) -> str:
    """Which column is missing for the form that nearly fits, and what to call those that are there.

    ``forms`` has the columns of each form by its name.
    """
    near = _nearest(set(columns), forms)
    renamed = _renamed({column.lower(): column for column in columns})
    single = next((what for needed, what in _ONE_RESPONSE.items() if set(needed) <= set(columns)), None)
    told = []
    if near:
        missing = ", ".join(column for column in forms[near] if column not in columns)
        told.append(f"missing column {missing}; needed are {', '.join(forms[near])} ({near})")
    told.append(f"it has the columns {', '.join(columns)}, which are no form of pairs that is read")
    if renamed:
        told.append(renamed)
    if single and not renamed:
        told.append(f"its rows hold {single}, and a pair needs two responses to one prompt and which is preferred")
    if len(told) == 1:
        told.append("pairs have prompt, chosen and rejected, or SHP's history, human_ref_A, human_ref_B and labels")
    return f"{'; '.join(told)}. params/README.md has the forms that are read"


def _nearest(columns: set[str], forms: Mapping[str, Sequence[str]]) -> str | None:
    """The form of which least is missing, at most half, if more than a prompt is there."""
    share = {
        name: sum(column not in columns for column in needed) / len(needed)
        for name, needed in forms.items()
        if columns & set(needed) - {"prompt", "question", "instruction", "text", "role", "response"}
    }
    name = min(share, key=lambda form: share[form], default=None)
    return name if name is not None and share[name] <= 0.5 else None


def _renamed(columns: Mapping[str, str]) -> str | None:
    """What to call two responses of other names; ``columns`` are by their names in lower case."""
    prompt, judged = _first(columns, _PROMPTS), _first(columns, _JUDGED)
    better, worse = _first(columns, _BETTER), _first(columns, _WORSE)
    if better and worse:
        return f"call {_calls({prompt: 'prompt', better: 'chosen', worse: 'rejected'})}"
    sides = next(((columns[a], columns[b]) for a, b in _SIDES if a in columns and b in columns), None)
    if sides is None:
        return None
    calls = {prompt: "history", sides[0]: "human_ref_A", sides[1]: "human_ref_B", judged: _LABELS}
    lacking = [name for column, name in ((prompt, "the prompt: history"), (judged, _LABELS)) if column is None]
    return f"call {_calls(calls)}" + (f", and add {' and '.join(lacking)}" if lacking else "")


def _first(columns: Mapping[str, str], names: Sequence[str]) -> str | None:
    return next((columns[name] for name in names if name in columns), None)


def _calls(names: Mapping[str | None, str]) -> str:
    return ", ".join(f"{column} {name}" for column, name in names.items() if column not in (None, name))
