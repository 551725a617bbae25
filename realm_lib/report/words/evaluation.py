"""An evaluation in words, made from metrics/evaluation.json: the verdict, five answers, captions, and runs compared."""

from collections.abc import Mapping, Sequence

from realm_lib.evaluation.result import Evaluation
from realm_lib.report.words.numbers import (
    Metrics,
    capital,
    counted,
    in_words,
    interval,
    listed,
    p_value,
    percent,
    points,
    with_interval,
)

_NAMES = {
    "realm": "the combined reward",
    "reward_model": "the reward model alone",
    "similarity": "similarity alone",
    "linear": "a plain weighted sum of the two",
    "trees": "boosted trees on both",
    "length": "taking the longer response",
}
_AGAINST_LENGTH = {
    "better": ("It is not only length", "No."),
    "better, not surely": ("It may be only length", "It may be."),
    "worse": ("Simply taking the longer response is better", "It is worse than length."),
    "worse, not surely": ("Simply taking the longer response seems better", "It seems worse than length."),
    "the data cannot tell": ("It is not shown to be more than length", "More than length is not shown."),
}
_AGAINST_LINEAR = {
    "better": "It is better than a weighted sum of the two, so the network earns its place.",
    "better, not surely": "It seems better than a weighted sum of the two, but not surely.",
    "worse": "A weighted sum of the two does better than the network.",
    "worse, not surely": "A weighted sum of the two seems to do better than the network.",
    "the data cannot tell": "The network is not shown to be better than a plain weighted sum of the two.",
}
_PARTS = ("reward_model", "similarity")
_NAMED_PAIRS = 30
"""A domain of fewer pairs is counted but not named: its accuracy is mostly luck."""


def verdict(evaluation: Evaluation) -> str:
    """What the numbers say: how good the reward is, against what, what these pairs could show, and what is possible.

    "Better" and "worse" mean that the whole interval of a difference lies on that side of zero.
    """
    metrics, subject = evaluation.metrics, evaluation.subject
    others = [*_PARTS, "linear", "trees"]
    sentences = [_ranking(metrics, others, evaluation.confidence), _length(metrics)[0]]
    if "reward_model" in _differences(metrics):
        sentences.append(power(metrics))
    name, accuracy = _name(subject), metrics["rewards"][subject]["accuracy"]
    if "ceiling" in metrics:
        ceiling = metrics["ceiling"]["accuracy"]
        side = "below" if ceiling >= accuracy else "above"
        sentences.append(
            f"The true utility of these simulated pairs, the ceiling, reaches {percent(ceiling)}: {name} is "
            f"{100 * abs(ceiling - accuracy):.1f} points {side} it."
        )
    if "feature_ceiling" in metrics:
        best = metrics["feature_ceiling"]
        sentences.append(
            "The best use of the two features that could be fitted to the known truth reaches "
            f"{percent(best['accuracy'])}: {name} differs from it by {points(best['difference'])}."
        )
    return " ".join(sentences)


def two_sentences(metrics: Metrics) -> str:
    """Is the combined reward better than its parts, and is it more than length: a sentence each."""
    return f"{_ranking(metrics, [*_PARTS, 'linear'])} {_length(metrics)[0]}"


def power(metrics: Metrics) -> str:
    """What the pairs could have shown: the smallest difference from the reward model alone with 80 % power."""
    detectable = 100 * _differences(metrics)["reward_model"]["detectable"]
    return (
        f"With these {counted(metrics['posts'], 'posts')}, a true difference of {detectable:.1f} points between "
        f"{_name(_subject(metrics))} and {_NAMES['reward_model']} would be found in four of five such test sets; "
        "smaller ones would often be missed."
    )


def seeds(spread: Metrics, ci: Sequence[float]) -> str:
    """What another training would change, beside what other posts would: ``ci`` is the accuracy's interval."""
    text = (
        f"Trained from {counted(len(spread['ensemble']), 'seeds')}, the combiner reaches {_ends(spread['ensemble'])} % "
        f"on these pairs (standard deviation {100 * spread['sd']:.2f} points; single networks "
        f"{100 * spread['members_sd']:.2f}). "
    )
    if "retrained" in spread:
        retrained = spread["retrained"]
        text += (
            f"With the reward model trained again too, {len(retrained['realm'])} trainings in all, the combiner "
            f"reaches {_ends(retrained['realm'])} % (standard deviation {100 * retrained['sd']['realm']:.2f}), the "
            f"reward model alone {_ends(retrained['reward_model'])} % ({100 * retrained['sd']['reward_model']:.2f}). "
        )
    else:
        text += "The reward model is taken as it is: what another training of it would change is not in this. "
    return f"{text}The interval over posts is {100 * (ci[1] - ci[0]):.1f} points wide."


def _ends(values: Sequence[float]) -> str:
    return interval((min(values), max(values)))


def questions_answered(metrics: Metrics) -> list[tuple[str, str]]:
    """The questions that a reader of one page has, each with its answer in numbers."""
    differences = _differences(metrics)
    parts = {name: differences[name] for name in _PARTS if name in differences}
    much = "; ".join(f"against {_name(name)} {points(difference)}" for name, difference in parts.items())
    answers = [
        ("Is it better?", _better(differences, parts)),
        ("By how much?", f"{capital(much)} (95 % intervals over posts)." if much else "Not compared with its parts."),
        ("How sure is that?", _how_sure(metrics, parts)),
    ]
    if (domains := _domains(metrics)) is not None:
        answers.append(("On which domains?", domains))
    return [*answers, ("Is it only length?", _length(metrics)[1])]


def captions(metrics: Metrics) -> dict[str, tuple[str, str]]:
    """Title and caption of the five figures that matter: what to see in each, with this run's own numbers."""
    differences, realm = _differences(metrics), metrics["rewards"]["realm"]
    better = sum(difference["ci"][0] > 0 for difference in differences.values())
    chance = f"; a perfect one would show {100 * realm['ece_by_chance']:.1f} in a sample of this size"
    return {
        "evaluation_differences": (
            "How much better, and how sure.",
            f"An interval that lies wholly right of zero is a difference that other posts would show too: {better} of "
            f"{len(differences)} do. One that crosses zero says that the data cannot tell.",
        ),
        "evaluation_domains": (
            "Where it is right.",
            f"{_domains(metrics) or 'One domain only.'} Wide intervals are small domains: read no order into them.",
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
            "On the dotted line a reward is as often right as it says. REALM's distance from it is "
            f"{100 * realm['ece']:.1f} points on average{chance}.",
        ),
    }


def runs_compared(names: Sequence[str], runs: Sequence[Metrics], changed: Sequence[str]) -> str:
    """How the combined reward of other runs stands to the first's; ``changed`` are the parameters that differ."""
    first, *others = (metrics["rewards"]["realm"] for metrics in runs)
    more = f" and {len(changed) - 4} more" if len(changed) > 4 else ""
    text = f"The runs differ in {', '.join(changed[:4])}{more}." if changed else "The runs have the same parameters."
    for name, other in zip(names[1:], others, strict=True):
        apart = other["ci"][0] > first["ci"][1] or other["ci"][1] < first["ci"][0]
        text += (
            f" The combined reward of {name} ranks {percent(other['accuracy'])} rightly, that of {names[0]} "
            f"{percent(first['accuracy'])}: their intervals {'lie apart' if apart else 'overlap'}."
        )
    return text


def _name(reward: str) -> str:
    return _NAMES.get(reward, reward)


def _subject(metrics: Metrics) -> str:
    return "realm" if "realm" in metrics["rewards"] else str(next(iter(metrics["rewards"])))


def _differences(metrics: Metrics) -> dict[str, Metrics]:
    """The subject's differences in accuracy by the other reward's name."""
    start = f"{_subject(metrics)} - "
    differences = metrics["differences"].items()
    return {name.removeprefix(start): difference for name, difference in differences if name.startswith(start)}


def _ranking(metrics: Metrics, others: Sequence[str], confidence: float = 0.95) -> str:
    """How many pairs the subject ranks rightly, and how it stands to those of ``others`` that it was compared with."""
    subject, differences = _subject(metrics), _differences(metrics)
    reward = metrics["rewards"][subject]
    standing: dict[str, list[str]] = {"better than": [], "worse than": [], "not to be told from": []}
    for other in (name for name in others if name in differences):
        low, high = differences[other]["ci"]
        outcome = "better than" if low > 0 else "worse than" if high < 0 else "not to be told from"
        standing[outcome].append(f"{_name(other)} ({points(differences[other])})")
    clauses = [f"it is {outcome} {listed(names)}" for outcome, names in standing.items() if names]
    pairs = "simulated pairs" if "ceiling" in metrics else "pairs"
    start = (
        f"On {counted(metrics['pairs'], pairs)} of {counted(metrics['posts'], 'posts')} {_name(subject)} ranks "
        f"{percent(reward['accuracy'])} rightly ({100 * confidence:g} % interval {interval(reward['ci'])})"
    )
    return f"{start}: {'; '.join(clauses)}." if clauses else f"{start}."


def _length(metrics: Metrics) -> tuple[str, str]:
    """Is it more than length: as a sentence, and as an answer."""
    if "length" not in (differences := _differences(metrics)):
        texts = "" if "length_split" in metrics else ": these pairs hold no texts"
        return (f"Whether it is only length was not measured{texts}.",) * 2
    subject, outcome = _subject(metrics), in_words(differences["length"])
    numbers = (
        f"against taking the longer response, right in {percent(metrics['rewards']['length']['accuracy'])}, "
        f"{_name(subject)} has {points(differences['length'])}"
    )
    if controlled := metrics["rewards"][subject].get("length_controlled"):
        numbers += (
            "; where the longer and the shorter response count alike, so that length alone gets 50 %, it is right in "
            f"{with_interval(controlled['accuracy'], controlled['ci'])}"
        )
        if outcome == "better" and controlled["ci"][0] <= 0.5:
            outcome = "better, not surely"
    start, answer = _AGAINST_LENGTH[outcome]
    return f"{start}: {numbers}.", f"{answer} {capital(numbers)}."


def _better(differences: Mapping[str, Metrics], parts: Mapping[str, Metrics]) -> str:
    words = [in_words(difference) for difference in parts.values()]
    ahead = [word.startswith("better") for word in words]
    if any(word.startswith("worse") for word in words):
        text = "No."
    elif not any(ahead):
        text = "These pairs do not show it."
    elif not all(ahead):
        text = "Than one of its parts, not surely than the other."
    else:
        text = "Yes, than either of its parts." if set(words) == {"better"} else "Than either of its parts, not surely."
    return f"{text} {_AGAINST_LINEAR[in_words(differences['linear'])]}" if "linear" in differences else text


def _how_sure(metrics: Metrics, parts: Mapping[str, Metrics]) -> str:
    p_values = [f"{p_value(difference['p_holm'])} against {_name(name)}" for name, difference in parts.items()]
    sentences = [f"{listed(p_values)}, after correction for all comparisons made."] if p_values else []
    if "reward_model" in parts:
        sentences.append(power(metrics))
    if "seeds" in metrics:
        sentences.append(seeds(metrics["seeds"], metrics["rewards"]["realm"]["ci"]))
    return " ".join(sentences)


def _domains(metrics: Metrics) -> str | None:
    """In how many domains REALM is ahead of the reward model, and where most and least; None with one domain."""
    domains = {domain: entry for domain, entry in metrics["by_domain"].items() if entry["pairs"]}
    if len(domains) < 2:
        return None
    gaps = {domain: entry["realm"]["accuracy"] - entry["reward_model"]["accuracy"] for domain, entry in domains.items()}
    ahead, behind = sum(gap > 0 for gap in gaps.values()), sum(gap < 0 for gap in gaps.values())
    named = sorted((gap, domain) for domain, gap in gaps.items() if domains[domain]["pairs"] >= _NAMED_PAIRS)
    text = f"Ahead of the reward model in {ahead} of {len(gaps)}, behind in {behind}."
    if best := [f"{domain} ({100 * gap:+.0f} points)" for gap, domain in named[::-1][:2] if gap > 0]:
        text += f" Furthest ahead in {listed(best)}"
        worst = [f"{domain} ({100 * gap:+.0f})" for gap, domain in named[:2] if gap < 0]
        text += f", furthest behind in {listed(worst)}." if worst else "."
    fewest, most = (pick(entry["pairs"] for entry in domains.values()) for pick in (min, max))
    return f"{text} A domain has {fewest:,} to {most:,} pairs, too few to rank them."
