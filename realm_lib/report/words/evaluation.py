"""The words of the index page, made from metrics/evaluation.json: the verdict in two sentences, and five answers."""

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["captions", "in_words", "points", "questions_answered", "share", "two_sentences"]

_NAMES = {
    "realm": "REALM",
    "reward_model": "the reward model alone",
    "similarity": "similarity alone",
    "linear": "a plain weighted sum of the two",
    "trees": "boosted trees on both",
    "length": "taking the longer response",
}
_PARTS = ("reward_model", "similarity")
_NAMED_PAIRS = 30
"""A domain of fewer pairs is counted but not named: its accuracy is mostly luck."""

Metrics = Mapping[str, Any]


def share(value: float) -> str:
    """0.6865 as ``68.7 %``."""
    return f"{100 * value:.1f} %"


def points(found: Metrics) -> str:
    """A difference in accuracy in percentage points, with its interval: ``+6.8 points, +3.9 to +9.7``."""
    low, high = found["ci"]
    text = f"{100 * found['value']:+.1f} points, {100 * low:+.1f} to {100 * high:+.1f}"
    return text if _sure(found) or low <= 0 <= high else f"{text}, but p = {found['p_holm']:.2f} after correction"


def in_words(ci: Sequence[float]) -> str:
    """What the interval of a difference says."""
    return "better" if ci[0] > 0 else "worse" if ci[1] < 0 else "the data cannot tell"


def two_sentences(evaluation: Metrics) -> str:
    """Is the combined reward better than its parts, and is it more than length: a sentence each."""
    found, differences = evaluation["rewards"]["realm"], _differences(evaluation)
    pairs = "simulated pairs" if "ceiling" in evaluation else "pairs"
    clauses = [
        f"{name} {' and '.join(f'{_NAMES[other]} ({points(differences[other])})' for other in others)}"
        for name, others in _sorted_by_outcome(differences, [*_PARTS, "linear"]).items()
        if others
    ]
    first = (
        f"On {evaluation['pairs']:,} {pairs} of {evaluation['posts']:,} posts the combined reward ranks "
        f"{share(found['accuracy'])} rightly (95 % interval {_between(found['ci'])}): it is {'; it is '.join(clauses)}."
    )
    return f"{first} {_length_sentence(evaluation)}"


def questions_answered(evaluation: Metrics) -> list[tuple[str, str]]:
    """The questions that a reader of one page has, each with its answer in numbers."""
    differences = _differences(evaluation)
    parts = {name: differences[name] for name in _PARTS if name in differences}
    words = {in_words(found["ci"]) for found in parts.values()}
    if words == {"better"}:
        better = "Yes, than either of its parts."
    elif "worse" in words:
        better = "No."
    elif "better" in words:
        better = "Than one of its parts, not surely than the other."
    else:
        better = "These pairs do not show it."
    if "linear" in differences:
        better += {
            "better": " It is also better than a weighted sum of the two, so the network earns its place.",
            "worse": f" A weighted sum of the two {_does(differences['linear'])} better than the network.",
            "the data cannot tell": " The network is not shown to be better than a plain weighted sum of the two.",
        }[in_words(differences["linear"]["ci"])]
    much = "; ".join(f"against {_NAMES[name]} {points(found)}" for name, found in parts.items())
    answers = [("Is it better?", better), ("By how much?", f"{_capital(much)} (95 % intervals over posts).")]
    answers.append(("How sure is that?", _how_sure(evaluation, parts)))
    if (domains := _domains(evaluation)) is not None:
        answers.append(("On which domains?", domains))
    answers.append(("Is it only length?", _length_answer(evaluation)))
    return answers


def captions(evaluation: Metrics) -> dict[str, tuple[str, str]]:
    """Title and caption of the five figures that matter: what to see in each, with this run's own numbers."""
    differences = _differences(evaluation)
    sorted_names = _sorted_by_outcome(differences, list(differences))
    sure = len(sorted_names["better than"])
    found = evaluation["rewards"]["realm"]
    domains = _domains(evaluation)
    return {
        "evaluation_differences": (
            "How much better, and how sure.",
            f"An interval that lies wholly right of zero is a difference that other posts would show too: {sure} of "
            f"{len(differences)} do. One that crosses zero says that the data cannot tell.",
        ),
        "evaluation_domains": (
            "Where it is right.",
            f"{domains or 'One domain only.'} Wide intervals are small domains: read no order into them.",
        ),
        "evaluation_length": (
            "Whether it is only length.",
            "A reward that merely likes long responses lies on the grey line: wrong on the left, where the preferred "
            "response is the shorter one, right on the right. The flatter a reward's line, the less it owes to length.",
        ),
        "combiner_surface": (
            "What the combiner has learned.",
            "Brighter is a higher reward. Straight parallel bands are a weighted sum; where they bend, one feature "
            "decides how much the other counts. White lines hold the middle 50 % and 90 % of the responses: outside "
            "them the network was shown little.",
        ),
        "evaluation_reliability": (
            "Whether its probabilities can be trusted.",
            "On the dotted line a reward is as often right as it says. "
            f"REALM's distance from it is {100 * found['ece']:.1f} points on average"
            + (
                f"; a perfect one would show {100 * found['ece_by_chance']:.1f} in a sample of this size."
                if "ece_by_chance" in found
                else "."
            ),
        ),
    }


def _differences(evaluation: Metrics) -> dict[str, Metrics]:
    """REALM's differences in accuracy by the other reward's name."""
    return {
        name.removeprefix("realm - "): found
        for name, found in evaluation["differences"].items()
        if name.startswith("realm - ")
    }


def _sorted_by_outcome(differences: Mapping[str, Metrics], names: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {"better than": [], "worse than": [], "not to be told from": []}
    phrases = {"better": "better than", "worse": "worse than", "the data cannot tell": "not to be told from"}
    for name in names:
        if name in differences:
            found[phrases[in_words(differences[name]["ci"])]].append(name)
    return found


def _sure(found: Metrics) -> bool:
    """Whether a difference stands after correction for all comparisons made."""
    return float(found.get("p_holm", found["p_value"])) <= 0.05


def _p_value(found: Metrics) -> str:
    p = found.get("p_holm", found["p_value"])
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def _does(found: Metrics) -> str:
    return "does" if _sure(found) else "seems to do"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _between(ci: Sequence[float]) -> str:
    return f"{100 * ci[0]:.1f} to {100 * ci[1]:.1f}"


def _how_sure(evaluation: Metrics, parts: Mapping[str, Metrics]) -> str:
    values = [f"p {_p_value(found)} against {_NAMES[name]}" for name, found in parts.items()]
    text = f"{' and '.join(values)}, after correction for all comparisons made."
    if "detectable" in parts.get("reward_model", {}):
        text += (
            f" A true difference of {100 * parts['reward_model']['detectable']:.1f} points would be found in four of "
            "five such test sets."
        )
    if "seeds" in evaluation:
        text += (
            f" Training again from other seeds moves the accuracy by {100 * evaluation['seeds']['sd']:.2f} points "
            "(standard deviation)."
        )
    return text


def _domains(evaluation: Metrics) -> str | None:
    """In how many domains REALM is ahead of the reward model, and where most and least; None with one domain."""
    found = {domain: entry for domain, entry in evaluation["by_domain"].items() if entry["pairs"]}
    if len(found) < 2:
        return None
    gaps = {domain: entry["realm"]["accuracy"] - entry["reward_model"]["accuracy"] for domain, entry in found.items()}
    ahead, behind = sum(gap > 0 for gap in gaps.values()), sum(gap < 0 for gap in gaps.values())
    named = sorted((gap, domain) for domain, gap in gaps.items() if found[domain]["pairs"] >= _NAMED_PAIRS)
    text = f"Ahead of the reward model in {ahead} of {len(gaps)}, behind in {behind}."
    if best := [f"{domain} ({100 * gap:+.0f} points)" for gap, domain in named[::-1][:2] if gap > 0]:
        text += f" Furthest ahead in {' and '.join(best)}"
        worst = [f"{domain} ({100 * gap:+.0f})" for gap, domain in named[:2] if gap < 0]
        text += f", furthest behind in {' and '.join(worst)}." if worst else "."
    fewest, most = (pick(entry["pairs"] for entry in found.values()) for pick in (min, max))
    return f"{text} A domain has {fewest:,} to {most:,} pairs, too few to rank them."


def _length_sentence(evaluation: Metrics) -> str:
    differences, lengths = _differences(evaluation), evaluation["rewards"].get("length")
    if lengths is None or "length" not in differences:
        return "Whether it is only length was not measured: these pairs hold no texts."
    against, found = differences["length"], evaluation["rewards"]["realm"].get("length_controlled")
    controlled = (
        f" and where length decides nothing it is right in {share(found['accuracy'])} ({_between(found['ci'])})"
        if found
        else ""
    )
    word, longer = in_words(against["ci"]), f"taking the longer response, right in {share(lengths['accuracy'])}"
    if word == "better":
        start = "It is not only length" if found is None or found["ci"][0] > 0.5 else "It may be only length"
        return f"{start}: it beats {longer}, by {points(against)},{controlled}."
    if word == "worse":
        return f"Simply {longer}, is better: the combined reward is {points(against)}, against it{controlled}."
    return f"It is not shown to be more than length: {longer}, does as well, as far as the data can tell{controlled}."


def _length_answer(evaluation: Metrics) -> str:
    differences = _differences(evaluation)
    if "length" not in differences:
        return "Not measured: these pairs hold no texts."
    found = evaluation["rewards"]["realm"].get("length_controlled")
    beats = in_words(differences["length"]["ci"]) == "better"
    more = found is None or found["ci"][0] > 0.5
    if beats:
        text = "No." if more else "It may be."
    elif in_words(differences["length"]["ci"]) == "worse":
        text = "It is worse than length."
    else:
        text = "More than length is not shown."
    text += f" Against taking the longer response {points(differences['length'])}."
    if found:
        text += (
            f" Where the longer and the shorter response count alike it is right in {share(found['accuracy'])} "
            f"({_between(found['ci'])}); length alone gets 50 %."
        )
    return text
