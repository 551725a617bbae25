"""What sentences made from numbers may say, worked out a second time and plainly, to hold the words against.

Nothing here uses realm_lib: each rule is written down again from the numbers.
"""

import re
from typing import Any

NAMES = {
    "reward_model": "the reward model alone",
    "similarity": "similarity alone",
    "linear": "a plain weighted sum of the two",
    "trees": "boosted trees on both",
    "length": "taking the longer response",
}
OUTCOMES = ("perhaps better than", "perhaps worse than", "better than", "worse than", "not to be told from")
_PLURALS = "pairs|posts|domains|prompts|answers|seeds|updates|episodes|responses|characters|ties|parameters|networks"


def side(ci: list[float], middle: float = 0.0) -> str:
    """above, below, or holds."""
    if ci[0] > middle:
        return "above"
    if ci[1] < middle:
        return "below"
    return "holds"


def outcome(difference: dict[str, Any]) -> str:
    """Which of OUTCOMES is true of a difference."""
    where = side(difference["ci"])
    if where == "holds":
        return "not to be told from"
    word = "better than" if where == "above" else "worse than"
    return word if difference.get("p_holm", 0.0) <= 0.05 else f"perhaps {word}"


def told(text: str) -> dict[str, str]:
    """The outcome that ``text`` tells of each reward, from clauses as "it is better than A (..) and B (..)"."""
    found: dict[str, str] = {}
    for clause in re.split(r"[;:] |\. ", text):
        if match := re.match(rf"[Ii]t is ({'|'.join(OUTCOMES)}) (.+)", clause):
            for name, words in NAMES.items():
                if words in match[2]:
                    assert name not in found, f"{name} is told of twice: {text}"
                    found[name] = match[1]
    return found


def points(text: str, name: str) -> list[float]:
    """The difference and its ends that stand behind a reward's name, in points."""
    match = re.search(rf"{re.escape(NAMES[name])} \(([-+][\d.]+) points, ([-+][\d.]+) to ([-+][\d.]+)[,)]", text)
    assert match, text
    return [float(number) for number in match.groups()]


def share(value: float) -> str:
    """A share as a reader expects it."""
    return f"{value * 100:.1f} %"


def rate(value: float, ci: list[float]) -> str:
    """A share with its interval."""
    return f"{value * 100:.1f} % ({ci[0] * 100:.1f} to {ci[1] * 100:.1f})"


def check_language(text: str) -> None:
    """No plural after a one, no leak of the program, no hole in the sentence."""
    one = rf"(?<![\d.,])1 (?:[a-z-]+ )?(?:{_PLURALS})\b"
    for wrong in (one, r"\bnan\b|\binf\b|None|[{}]", r"  ", r" [,.;]", r"\.\.|,,|;;|\(\)", r": [.;]"):
        assert not re.search(wrong, text), (wrong, text)
    assert re.search(r"[.:](\*\*)?$", text), text
