"""Metrics drawn at random, well-formed and often extreme: intervals that touch 0 or 1/2, ties, one of everything."""

from collections.abc import Iterable
from itertools import combinations
from typing import Any

import pandas as pd
from hypothesis import strategies as st

from realm_lib.evaluation.result import Evaluation

Made = dict[str, Any]

COUNTS = st.sampled_from([1, 2, 29, 30, 1234, 350_000])
SHARES = st.sampled_from([0.0, 0.203, 0.4996, 0.5, 0.5004, 0.58, 0.691, 1.0]) | st.floats(0, 1)
ENDED = st.sampled_from([0.0, 0.9, 0.95, 0.9699, 0.97, 0.98, 1.0])
SIGNED = st.sampled_from([-1.0, -0.02, -0.0003, 0.0, 0.0003, 0.02, 0.077, 1.0]) | st.floats(-1, 1)
P_VALUES = st.sampled_from([0.0, 0.0009, 0.049, 0.05, 0.0501, 0.3, 1.0])


_ENDS = [
    (0.6, 0.7, 0.8), (0.5, 0.6, 0.7), (0.4, 0.55, 0.7), (0.4, 0.45, 0.6), (0.3, 0.4, 0.5), (0.2, 0.3, 0.4),
    (0.5, 0.5, 0.5), (0.5004, 0.5004, 0.5004), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (0.203, 1.0, 1.0), (0.0, 0.0, 0.797),
]  # fmt: skip
"""Low end, value and high end of a share: on either side of one half, at it, and where there is no width."""


def with_ends(values: st.SearchStrategy[float], value: str, ci: str = "ci") -> st.SearchStrategy[Made]:
    """A share, or a signed number, of ``values`` and its interval, which holds it."""
    ends = _ENDS if values is SHARES else [tuple(2 * end - 1 for end in three) for three in _ENDS]
    drawn = st.lists(values, min_size=3, max_size=3).map(sorted)
    three = st.one_of(st.sampled_from(ends), st.sampled_from(ends), drawn)
    return three.map(lambda ends: {value: ends[1], ci: [ends[0], ends[2]]})


def differences() -> st.SearchStrategy[Made]:
    """An entry of an evaluation's differences."""
    more = st.fixed_dictionaries({"p_holm": P_VALUES, "detectable": st.sampled_from([0.0, 1e-17, 0.004, 0.0384, 0.9])})
    return st.builds(lambda found, rest: {**found, **rest}, with_ends(SIGNED, "value"), more)


@st.composite
def evaluations(draw: st.DrawFn) -> Made:
    """metrics/evaluation.json as far as words read it; realm is the subject."""
    others = draw(st.sets(st.sampled_from(["reward_model", "similarity", "linear", "trees", "length"])))
    texts = "length" in others or draw(st.booleans())
    metrics: Made = {"pairs": draw(COUNTS), "posts": draw(COUNTS), "rewards": {}, "differences": {}}
    for name in ["realm", *sorted(others)]:
        entry = draw(with_ends(SHARES, "accuracy"))
        entry |= {"ties": draw(st.sampled_from([0, 1, 45])), "ece": draw(SHARES), "ece_by_chance": draw(SHARES)}
        entry["temperature"] = draw(st.sampled_from([None, 0.53, 1.44, 289.6]))
        if texts:
            entry["length_controlled"] = draw(st.none() | with_ends(SHARES, "accuracy"))
        metrics["rewards"][name] = entry
    metrics["differences"] = {f"realm - {name}": draw(differences()) for name in sorted(others)}
    if texts:
        metrics["length_split"] = {}
    metrics["by_domain"] = draw(domains())
    if draw(st.booleans()):
        metrics["ceiling"] = draw(with_ends(SHARES, "accuracy"))
        if draw(st.booleans()):
            metrics["feature_ceiling"] = {**draw(with_ends(SHARES, "accuracy")), "difference": draw(differences())}
            del metrics["feature_ceiling"]["difference"]["p_holm"]
    return metrics


@st.composite
def domains(draw: st.DrawFn) -> dict[str, Made]:
    """by_domain: none to five of them, some without pairs; accuracies that are often equal."""
    found: dict[str, Made] = {}
    for name in ["askbaking", "askvet", "changemyview", "explainlikeimfive", "legaladvice"][: draw(st.integers(0, 5))]:
        pairs = draw(st.sampled_from([0, 1, 29, 30, 2000]))
        shares = [draw(SHARES) if pairs else None for _ in range(2)]
        parts = zip(("realm", "reward_model"), shares, strict=True)
        found[name] = {"pairs": pairs, **{reward: {"accuracy": share} for reward, share in parts}}
    return found


def as_evaluation(metrics: Made) -> Evaluation:
    """An evaluation that holds these metrics and no pairs."""
    return Evaluation(metrics, pd.DataFrame(), dict.fromkeys(metrics["rewards"], 1.0), 0.95, "ceiling" in metrics)


def beside_curve() -> st.SearchStrategy[Made]:
    """A policy's number beside best-of-n's."""
    curve = st.sampled_from([0.0, 1.0, 44.7])
    return st.builds(
        lambda found, at: {"curve": at, "difference": found["value"], "ci": found["ci"]},
        with_ends(SIGNED, "value"), curve,
    )  # fmt: skip


def places(judges: Iterable[str]) -> st.SearchStrategy[Made]:
    """A policy's against_best_of_n."""
    by_judge = st.fixed_dictionaries({judge: beside_curve() for judge in judges})
    more = {"by_judge": by_judge, "length": beside_curve(), "ended": beside_curve()}
    return st.fixed_dictionaries({"end": st.just(2.2), "n": st.just(24), **more})


@st.composite
def known_or_not(draw: st.DrawFn) -> Made:
    """A win rate at equal length, or that too few answers are the longer, or the shorter ones to know it."""
    known = draw(with_ends(SHARES, "length_controlled", "length_controlled_ci"))
    longer = draw(st.sampled_from([0.0, 0.02, 0.5, 0.97, 1.0]))
    sides = {"longer": longer, "shorter": draw(st.sampled_from([0.0, 1 - longer]))}
    return {**(known if draw(st.booleans()) else dict.fromkeys(known)), **sides}


@st.composite
def policies(draw: st.DrawFn, equal: st.SearchStrategy[Made] | None = None) -> Made:
    """metrics/policies.json as far as words read it; ``equal`` draws win rates at equal length."""
    judges = draw(st.sampled_from([("realm",), ("realm", "gold")]))
    judge = judges[-1]
    names = draw(st.sampled_from([["ppo"], ["dpo", "ppo"], ["best_of_16", "best_of_4", "dpo", "ppo"]]))
    equal = equal or known_or_not()
    start = {"win_rate": 0.5, "ci": [0.5, 0.5], "length_controlled": 0.5, "kl": 0.0, "kl_kind": "start"}
    found: dict[str, Made] = {"base": {**start, "ended": draw(ENDED), "by_judge": {}}}
    for name in names:
        by_judge = {who: {**draw(with_ends(SHARES, "win_rate")), **draw(equal)} for who in judges}
        trained = name in ("ppo", "dpo")
        entry = {**by_judge[judge], "by_judge": by_judge, "ended": draw(ENDED)}
        entry |= {"kl": draw(st.sampled_from([-0.04, 0.0, 0.6, 2.2, 12.5])) if trained else 0.6}
        entry["kl_kind"] = "estimate" if trained else "upper bound"
        if trained and draw(st.booleans()):
            entry["against_best_of_n"] = draw(places(judges))
        found[name] = entry
    rates = {f"{a} over {b}": draw(with_ends(SHARES, "win_rate")) for b, a in combinations(["base", *names], 2)}
    counts = {"prompts": draw(COUNTS), "answers": draw(COUNTS), "floored": draw(st.sampled_from([0, 1, 1200]))}
    return {**counts, "judge": judge, "policies": found, "pairwise": {judge: rates}}


def changes() -> st.SearchStrategy[Made]:
    """A mean before and after with its difference, as metrics/ppo.json has it."""
    return st.builds(
        lambda before, found: {"before": before, "after": before + found["difference"], **found},
        SIGNED, with_ends(SIGNED, "difference", "ci_of_difference"),
    )  # fmt: skip


@st.composite
def ppo_metrics(draw: st.DrawFn) -> Made:
    """metrics/ppo.json; a training that kept its start has changed nothing."""
    updates = draw(st.sampled_from([1, 48]))
    best = draw(st.sampled_from([0, 1, updates]))
    names = draw(st.sampled_from([["reward"], ["reward", "gold"]]))
    same = {"before": 0.25, "after": 0.25, "difference": 0.0, "ci_of_difference": [0.0, 0.0]}
    speed = draw(st.sampled_from([0.034, 9.96, 52.8, 1300.0]))
    return {
        **{name: draw(changes()) if best else same for name in names},
        "kl": draw(st.sampled_from([-0.04, 0.0, 12.3])), "held_out_prompts": draw(COUNTS), "best_step": best,
        "updates": updates, "episodes": draw(COUNTS), "episodes_per_second": speed,
        "floored": draw(st.sampled_from([{}, {"training": 0, "after": 1}, {"before": 1200}])),
        **draw(st.sampled_from([{}, *({"outside": {"before": 0.0, "after": share}} for share in (0.0, 0.004, 1.0))])),
        "between_prompts": draw(st.none() | prompt_shares()),
    }  # fmt: skip


def prompt_shares() -> st.SearchStrategy[Made]:
    """How much of the reward lies between prompts, by transform; null where a transform makes all the same."""
    part = with_ends(SHARES, "share")
    counts = {"prompts": st.sampled_from([2, 64, 1200]), "responses": st.sampled_from([2, 8])}
    return st.fixed_dictionaries({**counts, "none": part, "centred": st.none() | part, "log_sigmoid": st.none() | part})


@st.composite
def dpo_metrics(draw: st.DrawFn) -> Made:
    """metrics/dpo.json as far as words read it."""
    rate = draw(with_ends(SHARES, "win_rate", "win_rate_ci"))
    lengths = st.sampled_from([1.0, 44.2, 65.8])
    return {
        **rate, "judge": draw(st.sampled_from(["gold", "realm"])), "held_out_prompts": draw(COUNTS),
        "pairs_from": draw(st.sampled_from(["human", "on_policy"])), "held_out_pairs": draw(COUNTS),
        "reward_margin": {"before": 0.0, **draw(with_ends(SIGNED, "after"))},
        "accuracy": {"before": 0.5, **draw(with_ends(SHARES, "after"))},
        "length": {"before": draw(lengths), "after": draw(lengths)},
        "ended": {"before": draw(SHARES), "after": draw(SHARES)},
    }  # fmt: skip
