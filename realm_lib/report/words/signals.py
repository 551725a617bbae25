"""The features of a reward in words: what the combiner is, which signals are worth paying for, what is outside."""

from collections.abc import Mapping
from typing import Any

from realm_lib.report.words.numbers import Metrics, counted, in_words, interval, listed, percent, points

_WORTH = {
    "better": "Shown to add something",
    "better, not surely": "Perhaps adding something",
    "the data cannot tell": "Not shown to be worth what they cost",
    "worse": "Better left out",
    "worse, not surely": "Perhaps better left out",
}


def combiner_is(metrics: Metrics) -> str:
    """What the combiner is, from metrics/combiner.json: weights, how much of the network is used, the factor folded in.

    A plain network (``model.prior`` null) has no weights to tell.
    """
    factor, evidence = metrics["scale"], metrics["evidence"]
    folded = "Its differences are as training left them."
    if factor != 1:
        divided = f"Its differences were divided by {1 / factor:.3g}"
        folded = f"{divided}, so that they are log-odds on pairs like those of validation."
    if evidence is None:
        return f"The reward is a plain network, without a weighted sum to lean on. {folded}"
    weights = ", ".join(f"{value:+.2f} for {name}" for name, value in metrics["linear"].items())
    start = f"The reward is a weighted sum (in log-odds for one standard deviation: {weights})"
    if metrics["bend"] == 0:
        return f"{start} and nothing more: the network's bend was not supported (t = {evidence['t']:.1f}). {folded}"
    return (
        f"{start} and a network that bends it: the evidence supports {100 * metrics['bend']:.0f} % of the bend "
        f"(t = {evidence['t']:.1f} on {counted(evidence['pairs'], 'pairs')} that it was not trained on). {folded}"
    )


def worth_paying(worth: Mapping[str, Metrics], pairs: int) -> str:
    """Which features are worth their cost, as far as ``pairs`` can show; ``worth`` from signals_worth."""
    if not worth:
        return "The reward has one feature: there is nothing to leave out."
    told: dict[str, list[str]] = {outcome: [] for outcome in _WORTH}
    for name, entry in worth.items():
        told[in_words(entry["gained"])].append(f"{name} ({points(entry['gained'])}; {spent(entry['cost'])})")
    clauses = [f"{_WORTH[outcome]}: {listed(those)}." for outcome, those in told.items() if those]
    return (
        f"By what the reward loses without each, on {counted(pairs, 'pairs')}. {' '.join(clauses)} Each is left out "
        "alone: where two say the same, neither is missed, though one of them is needed."
    )


def spent(cost: Mapping[str, Any]) -> str:
    """What a feature cost: ``12,000 computed, 1,234,567 tokens, 81 s, $0.40``; what is not known is left out."""
    computed, found = cost["computed"], cost["cache_hits"]
    of = f"{computed:,} of {computed + found:,}" if found else f"{computed:,}"
    said = [f"{of} computed" if computed else "all from the store"]
    if cost["tokens"]:
        said.append(counted(cost["tokens"], "tokens"))
    if computed and cost["seconds"] is not None:
        said.append(f"{cost['seconds']:,.0f} s" if cost["seconds"] >= 1 else "under 1 s")
    if cost["cost"]:
        said.append(f"${cost['cost']:,.2f}")
    return ", ".join(said)


def outside(metrics: Metrics) -> str:
    """How many responses lie beyond the training range, by which feature; ``metrics`` of outside_range."""
    responses = counted(metrics["responses"], "responses")
    if metrics["share"] == 0:
        return f"Of {responses} none lies outside the range of the training responses."
    parts = [f"{name} {percent(share)}" for name, share in metrics["by_feature"].items() if share]
    return (
        f"Of {responses} {percent(metrics['share'])} lie outside the range of the training responses "
        f"({', '.join(parts)}). There the reward takes the border's value: it does not guess on."
    )


def correlated(correlations: Mapping[str, Mapping[str, float | None]], strong: float = 0.7) -> str:
    """The pairs of features that say nearly the same, from feature_correlations."""
    names = list(correlations)
    found = [
        f"{one} and {other} ({value:+.2f})"
        for index, one in enumerate(names)
        for other in names[index + 1 :]
        if (value := correlations[one][other]) is not None and abs(value) >= strong
    ]
    if found:
        return f"Nearly the same is said by {listed(found)}: one of them may do."
    return f"No two features say nearly the same (a rank correlation of {strong} or more)."


def calibration(folded: Metrics) -> str:
    """The calibration error of the bare differences before and after the combiner's factor, from folded_calibration."""
    before, after = (folded[when] for when in ("before", "after"))
    return (
        f"their calibration error is {_error(after)}; before the factor {folded['factor']:.3g} was folded in, it was "
        f"{_error(before)}."
    )


def _error(scores: Metrics) -> str:
    return f"{100 * scores['ece']:.1f} points ({interval(scores['ece_ci'])})"
