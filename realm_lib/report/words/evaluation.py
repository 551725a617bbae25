"""An evaluation in words, made from metrics/evaluation.json: the verdict, five answers, captions, and runs compared."""

from collections.abc import Iterable, Mapping, Sequence

from realm_lib.evaluation.parts import parts
from realm_lib.evaluation.result import Evaluation
from realm_lib.report.words.numbers import (
    Metrics,
    against_half,
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
from realm_lib.report.words.rewards import all_features, reward_name
from realm_lib.report.words.seeds import seeds
from realm_lib.report.words.signals import calibration, worth_paying

_BEYOND_LENGTH = {
    "above": ("It is more than length", "No"),
    "holds": ("It is not shown to be more than length", "More than length is not shown"),
    "below": ("Apart from length it is wrong more often than right", "Apart from length it is wrong more often"),
}
_STANDING = {
    "better": "better than",
    "better, not surely": "perhaps better than",
    "worse": "worse than",
    "worse, not surely": "perhaps worse than",
    "the data cannot tell": "not to be told from",
}
_AGAINST_LINEAR = {
    "better": "It is better than a weighted sum of {all}: the network earns its place.",
    "better, not surely": "It seems better than a weighted sum of {all}, but not surely.",
    "worse": "A plain weighted sum of {all} does better than with the network's bend.",
    "worse, not surely": "A plain weighted sum of {all} seems to do better than with the network's bend.",
    "the data cannot tell": "The network's bend is not shown to be better than a plain weighted sum of {all}.",
}
_NAMED_PAIRS = 30
"""A domain of fewer pairs is counted but not named: its accuracy is mostly luck."""


def verdict(evaluation: Evaluation) -> str:
    """What the numbers say: how good the reward is, against what, what these pairs could show, and what is possible.

    "Better" and "worse" mean that the whole interval of a difference lies on that side of zero, "perhaps" that it no
    longer counts once all comparisons are corrected for.
    """
    metrics, subject = evaluation.metrics, evaluation.subject
    others = [*parts(metrics["rewards"]), "linear", "trees"]
    sentences = [_ranking(metrics, others, evaluation.confidence), _length(metrics)[0]]
    if "reward_model" in _differences(metrics):
        sentences.append(power(metrics))
    name, accuracy = _name(subject, metrics), metrics["rewards"][subject]["accuracy"]
    if "ceiling" in metrics:
        ceiling = metrics["ceiling"]["accuracy"]
        away = f"{100 * abs(ceiling - accuracy):.1f}"
        place = "level with it" if away == "0.0" else f"{away} points {'below' if ceiling > accuracy else 'above'} it"
        sentences.append(
            f"The true utility of these simulated pairs, the ceiling, reaches {percent(ceiling)}: {name} is {place}."
        )
    if "feature_ceiling" in metrics:
        best = metrics["feature_ceiling"]
        sentences.append(
            f"The best use of {all_features(metrics['rewards'])} features that could be fitted to the known truth "
            f"reaches {percent(best['accuracy'])}: {name} differs from it by {points(best['difference'])}."
        )
    return " ".join(sentences)


def two_sentences(metrics: Metrics) -> str:
    """Is the combined reward better than its parts, and is it more than length: a sentence each."""
    return f"{_ranking(metrics, [*parts(metrics['rewards']), 'linear'])} {_length(metrics)[0]}"


def power(metrics: Metrics) -> str:
    """What the pairs could have shown: the smallest difference from the reward model alone with 80 % power."""
    detectable = _differences(metrics)["reward_model"]["detectable"]
    both = f"{_name(_subject(metrics), metrics)} and {_name('reward_model', metrics)}"
    if detectable < 1e-9:
        return (
            f"How large a difference between {both} these pairs would show cannot be said: it is the same in each post."
        )
    return (
        f"With {counted(metrics['posts'], 'posts')}, a true difference of {100 * detectable:.1f} points between {both} "
        "would be told from zero in four of five such test sets, a smaller one in fewer."
    )


def questions_answered(metrics: Metrics) -> list[tuple[str, str]]:
    """The questions that a reader of one page has, each with its answer in numbers."""
    differences = _differences(metrics)
    compared = {name: differences[name] for name in parts(metrics["rewards"]) if name in differences}
    much = "; ".join(f"against {_name(name, metrics)} {points(entry)}" for name, entry in compared.items())
    answers = [
        ("Is it better?", _better(metrics, compared)),
        ("By how much?", f"{capital(much)} (95 % intervals over posts)." if much else "Not compared with its parts."),
        ("How sure is that?", _how_sure(metrics, compared) or "That was not tested."),
    ]
    if (domains := _domains(metrics)) is not None:
        answers.append(("On which domains?", domains))
    if "signals" in metrics:
        answers.append(("Which signals are worth paying for?", worth_paying(metrics["signals"], metrics["pairs"])))
    return [*answers, ("Is it only length?", _length(metrics)[1])]


def captions(metrics: Metrics) -> dict[str, tuple[str, str]]:
    """Title and caption of the figures that matter: what to see in each, with this run's own numbers."""
    intervals = [entry["ci"] for entry in metrics["differences"].values()]
    right, left = sum(low > 0 for low, _ in intervals), sum(high < 0 for _, high in intervals)
    others = "" if all_features(metrics["rewards"]) == "the two" else " Drawn are the two features that matter most."
    found = {
        "evaluation_differences": (
            "How much better, and how sure.",
            f"Intervals that lie wholly right of zero, where the combined reward is better: {right} of "
            f"{len(intervals)}; wholly left, where it is worse: {left}. One that holds zero says that the data cannot "
            "tell. The p-values are corrected for all that are compared.",
        ),
        "evaluation_domains": (
            "Where it is right.",
            f"{_domains(metrics) or 'One domain only.'} Read no order into intervals that overlap.",
        ),
        "evaluation_length": (
            "Whether it is only length.",
            "A reward that merely likes long responses lies on the grey line: wrong on the left, where the preferred "
            "response is the shorter one, right on the right. The flatter a reward's line, the less it owes to length.",
        ),
        "combiner_surface": (
            "What the combiner has learned.",
            "Brighter is a higher reward. Straight parallel bands order responses as a weighted sum does; where they "
            "bend, how much each feature counts depends on the response. White lines hold the densest 50 % and 90 % of "
            f"the responses: beyond those of training it is level.{others}",
        ),
        "evaluation_reliability": ("Whether its probabilities can be trusted.", _reliability(metrics)),
    }
    if "signals" in metrics:
        found["evaluation_signals"] = (
            "What each signal adds.",
            "The accuracy that is lost where the reward is trained without it, and what it cost. An interval that "
            "holds zero: it is not shown to be worth that.",
        )
    return found


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


def _name(reward: str, metrics: Metrics) -> str:
    return reward_name(reward, metrics["rewards"])


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
    pairs = "simulated pairs" if "ceiling" in metrics else "pairs"
    ties = f"; ties, {reward['ties']:,} here, count half" if reward["ties"] else ""
    start = (
        f"On {counted(metrics['pairs'], pairs)} of {counted(metrics['posts'], 'posts')} {_name(subject, metrics)} "
        f"ranks {percent(reward['accuracy'])} rightly ({100 * confidence:g} % interval {interval(reward['ci'])}{ties})"
    )
    standing = _standing(metrics, [name for name in others if name in differences], numbers=True)
    return f"{start}: {standing}." if standing else f"{start}."


def _standing(metrics: Metrics, others: Iterable[str], *, numbers: bool = False) -> str:
    """How the subject stands to ``others``, a clause an outcome, with the ``numbers`` if wanted."""
    differences = _differences(metrics)
    names: dict[str, list[str]] = {outcome: [] for outcome in _STANDING}
    for other in others:
        told = f"{_name(other, metrics)} ({points(differences[other])})" if numbers else _name(other, metrics)
        names[in_words(differences[other])].append(told)
    return "; ".join(f"it is {_STANDING[outcome]} {listed(those)}" for outcome, those in names.items() if those)


def _length(metrics: Metrics) -> tuple[str, str]:
    """Is it more than length: as a sentence, and as an answer.

    Accuracy where both cases count alike says whether there is more than length; to beat the longer response is
    another question, with a clause of its own.
    """
    subject, differences = _subject(metrics), _differences(metrics)
    if "length_controlled" not in metrics["rewards"][subject]:
        start = answer = "Whether it is only length was not measured"
        clauses = [] if "length_split" in metrics else ["these pairs hold no texts"]
    elif (controlled := metrics["rewards"][subject]["length_controlled"]) is None:
        start = answer = "Whether it is only length cannot be said"
        clauses = ["these pairs hold none whose preferred response is the longer one, or none where it is the shorter"]
    else:
        start, answer = _BEYOND_LENGTH[against_half(controlled["ci"], "above", "holds", "below")]
        clauses = [
            "where the longer and the shorter response count alike, so that length alone gets 50 %, it is right in "
            f"{with_interval(controlled['accuracy'], controlled['ci'])}"
        ]
    if "length" in differences:
        against = _standing(metrics, ["length"], numbers=True)
        clauses.append(f"{against}, which is right in {percent(metrics['rewards']['length']['accuracy'])}")
    text = "; ".join(clauses)
    return f"{start}: {text}." if text else f"{start}.", f"{answer}. {capital(text)}." if text else f"{answer}."


def _reliability(metrics: Metrics) -> str:
    """What the reliability diagram shows of the reward, and what its probabilities are made of."""
    realm = metrics["rewards"]["realm"]
    if "calibration" in metrics:
        folded = metrics["calibration"]
        scaled = f"REALM's differences are taken as the log-odds that they are: {calibration(folded)}"
        shown = folded["after"]
    elif realm["temperature"] is None:
        scaled, shown = "On the validation pairs REALM was no better than chance: it says 50 % everywhere.", realm
    else:
        scaled = (
            f"REALM's differences were divided by {realm['temperature']:.3g}, the temperature that fits the validation "
            "pairs."
        )
        shown = realm
    return (
        f"On the dotted line a reward is as often right as it says. {scaled} REALM's distance from the line is "
        f"{100 * shown['ece']:.1f} points on average; that of a perfect one would be about "
        f"{100 * shown['ece_by_chance']:.1f} in a sample of this size."
    )


def _better(metrics: Metrics, compared: Mapping[str, Metrics]) -> str:
    words = {in_words(difference) for difference in compared.values()}
    if not words:
        text = "Not compared with its parts."
    elif "worse" in words:
        text = f"No: {_standing(metrics, compared)}."
    elif words == {"better"}:
        text = f"Yes: {_standing(metrics, compared)}."
    else:
        text = f"{'In part' if 'better' in words else 'Not shown'}: {_standing(metrics, compared)}."
    if (linear := _differences(metrics).get("linear")) is None:
        return text
    everything = all_features(metrics["rewards"])
    return f"{text} {_AGAINST_LINEAR[in_words(linear)].format(all=everything)}"


def _how_sure(metrics: Metrics, compared: Mapping[str, Metrics]) -> str:
    p_values = [f"{p_value(entry['p_holm'])} against {_name(name, metrics)}" for name, entry in compared.items()]
    sentences = [f"{listed(p_values)}, after correction for all comparisons made."] if p_values else []
    if "reward_model" in compared:
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
    furthest = [
        f"furthest {side} in {listed([f'{domain} ({100 * gap:+.1f} points)' for gap, domain in most])}"
        for side, most in (
            ("ahead", [entry for entry in named[::-1][:2] if entry[0] > 0]),
            ("behind", [entry for entry in named[:2] if entry[0] < 0]),
        )
        if most
    ]
    text = f"Ahead of the reward model in {ahead} of {len(gaps)}, behind in {behind}."
    if furthest:
        among = f"Of those with {_NAMED_PAIRS} pairs or more, " if len(named) < len(gaps) else ""
        text += f" {capital(among + ', '.join(furthest))}."
    fewest, most = (pick(entry["pairs"] for entry in domains.values()) for pick in (min, max))
    return f"{text} A domain has {f'{fewest:,} to ' if fewest < most else ''}{counted(most, 'pairs')}."
