"""A function as a user would write it for the section ``signals``."""

from collections.abc import Sequence


def shares(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
    """The share of the prompt's words that the response repeats; not a number for a response that asks for it."""
    return [_share(*texts) for texts in zip(prompts, responses, strict=True)]


def _share(prompt: str, response: str) -> float:
    if response == "no number":
        return float("nan")
    words = set(prompt.lower().split())
    return len(words & set(response.lower().split())) / max(1, len(words))
