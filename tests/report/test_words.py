"""Every clause of every sentence is there exactly when it is true, for metrics drawn at random.

What is true is worked out a second time in support/plain_words.py, and here, from the numbers alone.
"""

import itertools
import math
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import plain_words as plain
from support import random_metrics as made

from realm_lib.report.words import evaluation as words
from realm_lib.report.words import findings, pairs, reading
from realm_lib.report.words import policies as of_policies
from realm_lib.report.words.distances import against_best_of_n


def drawn(
    *strategies: st.SearchStrategy[Any], examples: int = 100
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """``given``, without a limit of time for one example: the machine may be busy."""
    return lambda test: settings(deadline=None, max_examples=examples)(given(*strategies)(test))


def differences(metrics: dict[str, Any]) -> dict[str, Any]:
    return {name.removeprefix("realm - "): entry for name, entry in metrics["differences"].items()}


# An evaluation


@drawn(made.evaluations())
def test_the_verdict_ranks_as_the_intervals_do(metrics: dict[str, Any]) -> None:
    text = words.verdict(made.as_evaluation(metrics))
    plain.check_language(text)
    compared = differences(metrics)
    assert plain.told(text) == {name: plain.outcome(entry) for name, entry in compared.items()}
    for name, entry in compared.items():
        assert plain.points(text, name) == pytest.approx([100 * n for n in (entry["value"], *entry["ci"])], abs=0.0501)
        corrected = f"but p {'<' if entry['p_holm'] < 0.001 else '='}"
        assert text.count(plain.NAMES[name]) >= 1
        assert not (entry["p_holm"] <= 0.05 and re.search(rf"{re.escape(plain.NAMES[name])} \([^)]*{corrected}", text))
    realm = metrics["rewards"]["realm"]
    low, high = (f"{100 * end:.1f}" for end in realm["ci"])
    assert f"ranks {plain.share(realm['accuracy'])} rightly (95 % interval {low} to {high}" in text
    assert ("count half" in text) == (realm["ties"] > 0)
    assert ("simulated" in text) == ("ceiling" in metrics)


@drawn(made.evaluations())
def test_the_verdict_places_the_reward_below_level_with_or_above_the_ceiling(metrics: dict[str, Any]) -> None:
    text = words.verdict(made.as_evaluation(metrics))
    if "ceiling" not in metrics:
        assert "the ceiling" not in text
        return
    above = 100 * (metrics["rewards"]["realm"]["accuracy"] - metrics["ceiling"]["accuracy"])
    place = re.search(
        r"reaches ([\d.]+) %: the combined reward is (?:(level with)|([\d.]+) points (below|above)) it", text
    )
    assert place
    assert float(place[1]) == pytest.approx(100 * metrics["ceiling"]["accuracy"], abs=0.0501)
    told = 0.0 if place[2] else float(place[3]) * {"below": -1, "above": 1}[place[4]]
    assert told == pytest.approx(above, abs=0.0501)
    assert " 0.0 points" not in text.partition("the ceiling")[2].partition("best use")[0]
    assert ("best use of the two features" in text) == ("feature_ceiling" in metrics)


_LENGTH = {
    "above": ("It is more than length: ", "No. "),
    "holds": ("It is not shown to be more than length: ", "More than length is not shown. "),
    "below": ("Apart from length it is wrong more often than right: ", "Apart from length it is wrong more often. "),
    "unknown": ("Whether it is only length cannot be said: ", "Whether it is only length cannot be said. "),
    "unmeasured": ("Whether it is only length was not measured", "Whether it is only length was not measured"),
}


@drawn(made.evaluations())
def test_more_than_length_is_said_where_the_length_controlled_interval_says_so(metrics: dict[str, Any]) -> None:
    sentence, answer = words.two_sentences(metrics), dict(words.questions_answered(metrics))["Is it only length?"]
    controlled = metrics["rewards"]["realm"].get("length_controlled", "unmeasured")
    kind = plain.side(controlled["ci"], 0.5) if isinstance(controlled, dict) else controlled or "unknown"
    for name, (start, short) in _LENGTH.items():
        assert (start in sentence) == answer.startswith(short) == (name == kind)
    alike = "so that length alone gets 50 %, it is right in "
    expected = plain.rate(controlled["accuracy"], controlled["ci"]) if isinstance(controlled, dict) else None
    for text in (sentence, answer):
        plain.check_language(text)
        assert (alike in text) == (expected is not None)
        assert expected is None or f"{alike}{expected}" in text
        assert ("taking the longer response" in text) == ("length" in differences(metrics))
        if "length" in differences(metrics):
            assert text.endswith(f", which is right in {plain.share(metrics['rewards']['length']['accuracy'])}.")
    assert ("these pairs hold no texts" in sentence) == (kind == "unmeasured" and "length_split" not in metrics)


@drawn(made.evaluations())
def test_better_is_yes_only_where_every_part_is_beaten(metrics: dict[str, Any]) -> None:
    answers = dict(words.questions_answered(metrics))
    for answer in answers.values():
        plain.check_language(answer)
    compared = differences(metrics)
    stands = {name: plain.outcome(compared[name]) for name in ("reward_model", "similarity") if name in compared}
    better, outcomes = answers["Is it better?"], list(stands.values())
    if not outcomes:
        start = "Not compared"
    elif "worse than" in outcomes:
        start = "No: "
    elif outcomes.count("better than") == len(outcomes):
        start = "Yes: "
    else:
        start = "In part: " if "better than" in outcomes else "Not shown: "
    assert better.startswith(start)
    linear = {name: outcome for name, outcome in plain.told(better).items() if name != "linear"}
    assert linear == stands
    sentence = {
        "better than": "It is better than a weighted sum of the two: the network earns its place.",
        "perhaps better than": "It seems better than a weighted sum of the two, but not surely.",
        "worse than": "A plain weighted sum of the two does better than with the network's bend.",
        "perhaps worse than": "A plain weighted sum of the two seems to do better than with the network's bend.",
        "not to be told from": "The network's bend is not shown to be better than a plain weighted sum of the two.",
    }
    for outcome, said in sentence.items():
        assert (said in better) == ("linear" in compared and plain.outcome(compared["linear"]) == outcome)
    sure = answers["How sure is that?"]
    for name in stands:
        p = compared[name]["p_holm"]
        assert f"{'p < 0.001' if p < 0.001 else f'p = {p:.3f}'} against {plain.NAMES[name]}" in sure
    known = "reward_model" in stands and compared["reward_model"]["detectable"] > 1e-9
    assert ("would be told from zero" in sure) == known
    assert ("it is the same in each post" in sure) == ("reward_model" in stands and not known)
    assert not known or f"difference of {100 * compared['reward_model']['detectable']:.1f} points" in sure


@drawn(made.evaluations())
def test_domains_are_counted_anew_and_only_large_ones_are_named(metrics: dict[str, Any]) -> None:
    answer = dict(words.questions_answered(metrics)).get("On which domains?")
    known = {name: entry for name, entry in metrics["by_domain"].items() if entry["pairs"]}
    assert (answer is None) == (len(known) < 2)
    if answer is None:
        return
    gaps = {name: entry["realm"]["accuracy"] - entry["reward_model"]["accuracy"] for name, entry in known.items()}
    ahead, behind = len([n for n in gaps if gaps[n] > 0]), len([n for n in gaps if gaps[n] < 0])
    assert answer.startswith(f"Ahead of the reward model in {ahead} of {len(known)}, behind in {behind}.")
    large = {name: gap for name, gap in gaps.items() if known[name]["pairs"] >= 30}
    named: set[str] = set()
    for word, sign in (("ahead", 1), ("behind", -1)):
        part = re.search(rf"urthest {word} in (.*?\))(?:\.|, furthest)", answer)
        wanted = sorted((sign * gap for gap in large.values() if sign * gap > 0), reverse=True)[:2]
        found = dict(re.findall(r"(\w+) \(([-+][\d.]+) points\)", part[1])) if part else {}
        assert sorted((sign * large[name] for name in found), reverse=True) == wanted
        for name, said in found.items():
            assert float(said) == pytest.approx(100 * gaps[name], abs=0.0501)
        named |= set(found)
    assert ("Of those with 30 pairs or more, furthest" in answer) == (bool(named) and len(large) < len(known))
    counts = sorted(entry["pairs"] for entry in known.values())
    some = f"{counts[0]:,} to " if counts[0] != counts[-1] else ""
    assert answer.endswith(f" A domain has {some}{counts[-1]:,} pair{'s' if counts[-1] != 1 else ''}.")


@drawn(made.evaluations())
def test_captions_count_intervals_and_tell_the_calibration_that_was_found(metrics: dict[str, Any]) -> None:
    captions = words.captions(metrics)
    for title, caption in captions.values():
        plain.check_language(title)
        plain.check_language(caption)
    where = [plain.side(entry["ci"]) for entry in metrics["differences"].values()]
    caption = captions["evaluation_differences"][1]
    assert f"is better: {where.count('above')} of {len(where)}; wholly left, where it is worse: " in caption
    assert f"worse: {where.count('below')}." in caption
    realm, caption = metrics["rewards"]["realm"], captions["evaluation_reliability"][1]
    assert f"from the line is {100 * realm['ece']:.1f} points on average" in caption
    assert f"about {100 * realm['ece_by_chance']:.1f} in a sample" in caption
    assert ("no better than chance" in caption) == (realm["temperature"] is None)
    assert realm["temperature"] is None or f"were divided by {realm['temperature']:.3g}," in caption


@drawn(made.with_ends(made.SHARES, "accuracy"), made.with_ends(made.SHARES, "accuracy"))
def test_runs_overlap_or_lie_apart(first: dict[str, Any], second: dict[str, Any]) -> None:
    text = words.runs_compared(["a", "b"], [{"rewards": {"realm": run}} for run in (first, second)], ["x.y"])
    common = max(first["ci"][0], second["ci"][0]) <= min(first["ci"][1], second["ci"][1])
    assert text.endswith("overlap." if common else "lie apart.")
    assert f"b ranks {plain.share(second['accuracy'])} rightly, that of a {plain.share(first['accuracy'])}" in text


# Policies


def directly(metrics: dict[str, Any], first: str, second: str) -> str:
    rates = metrics["pairwise"][metrics["judge"]]
    if f"{first} over {second}" in rates:
        return plain.side(rates[f"{first} over {second}"]["ci"], 0.5)
    return {"above": "below", "below": "above", "holds": "holds"}[
        plain.side(rates[f"{second} over {first}"]["ci"], 0.5)
    ]


_VERBS = {"above": "beats", "holds": "cannot be told from", "below": "loses to"}


@drawn(made.policies())
def test_policies_stand_to_the_start_and_to_each_other_as_their_intervals_say(metrics: dict[str, Any]) -> None:
    text = of_policies.verdict(metrics)
    for line in text.splitlines():
        plain.check_language(line)
    entries = {name: entry for name, entry in metrics["policies"].items() if name != "base"}
    lines = {name: line for name in entries for line in text.splitlines()
             if re.match(rf"- {re.escape(of_policies.policy_name(name))} [a-z ]+ the start: ", line)}  # fmt: skip
    for name, entry in entries.items():
        line, where = lines[name], plain.side(entry["ci"], 0.5)
        assert f"{_VERBS[where]} the start: wins {plain.rate(entry['win_rate'], entry['ci'])}" in line
        equal = entry["length_controlled_ci"]
        if entry["length_controlled"] is not None:
            assert f"at equal length {plain.rate(entry['length_controlled'], equal)}" in line
            assert ("length may explain" in line) == (where == "above" and equal[0] <= 0.5)
        else:
            side = "longer" if entry["longer"] < entry["shorter"] else "shorter"
            share = f"{100 * entry[side]:.1f} %"
            assert f"at equal length not known (its answer is the {side} one in {share} of comparisons)" in line
            assert ("length may explain" in line) == (where == "above")
        assert "KL of -" not in line
    winners = [name for name in entries if plain.side(entries[name]["ci"], 0.5) == "above"]
    assert ("No policy is shown to be better than the start." in text) == (not winners)
    found = re.search(
        r"- (\S+) (alone beats the start|wins most often of those that beat the start)(.*)\.\n", f"{text}\n"
    )
    assert bool(found) == bool(winners)
    if found:
        (best,) = [name for name in entries if of_policies.policy_name(name) == found[1]]
        most = max(entries[name]["win_rate"] for name in winners)
        assert best in winners
        assert entries[best]["win_rate"] == most
        assert found[2].startswith("alone") == (len(winners) == 1)
        others = [name for name in entries if name != best]
        as_often = [name for name in winners if name != best and entries[name]["win_rate"] == most]
        assert ("as often as" in found[3]) == bool(as_often)
        said = dict(re.findall(r"it (beats|cannot be told from|loses to) ([^;]+)", found[3]))
        for name, (where, verb) in itertools.product(others, _VERBS.items()):
            named = of_policies.label(name) in re.split(r", | and ", said.get(verb, ""))
            assert named == (directly(metrics, best, name) == where), (name, verb, text)
    assert ("The judge is the reward itself." in text) == (metrics["judge"] == "realm")
    assert ("got the floor reward" in text) == (metrics["floored"] > 0)


@drawn(made.policies())
def test_over_optimisation_and_unended_answers_are_told_where_they_are(metrics: dict[str, Any]) -> None:
    text, start = of_policies.verdict(metrics), metrics["policies"]["base"]
    for name, entry in metrics["policies"].items():
        if name == "base":
            continue
        who, judges = of_policies.policy_name(name), entry["by_judge"]
        liked = plain.side(judges["realm"]["ci"], 0.5) == "above"
        truth = plain.side(judges["gold"]["ci"], 0.5) if "gold" in judges else "above"
        line = rf"- {re.escape(who)} wins [\d.]+ % under REALM's reward, which the truth "
        assert bool(re.search(f"{line}contradicts", text)) == (liked and truth == "below")
        assert bool(re.search(f"{line}does not confirm", text)) == (liked and truth == "holds")
        cut = name in ("ppo", "dpo") and entry["ended"] < 0.97 and entry["ended"] < start["ended"]
        assert (f"Warning: {who} ends {plain.share(entry['ended'])} of its answers" in text) == cut


@drawn(made.places(("realm", "gold")), st.sampled_from([-0.04, 2.2, 12.5]), st.booleans(), examples=200)
def test_a_place_against_best_of_n_is_told_by_its_intervals(found: dict[str, Any], kl: float, truth: bool) -> None:
    if not truth:
        del found["by_judge"]["gold"]
    line, beyond = against_best_of_n("PPO", {"kl": kl, "against_best_of_n": found}), kl > found["end"]
    plain.check_language(line)
    verbs = {"above": "lies above", "holds": "cannot be told from", "below": "lies below"}
    realm = plain.side(found["by_judge"]["realm"]["ci"])
    curve = "the end of best-of-n's curve (best of 24 at 2.2 nats)" if beyond else "best-of-n's curve at its distance"
    assert line.startswith(f"PPO's reward {verbs[realm]} {curve}: ")
    if truth:
        gold = plain.side(found["by_judge"]["gold"]["ci"])
        also = "" if gold != realm else " either" if gold == "holds" else " too"
        assert f"; its truth {verbs[gold]} it{also}: " in line
    assert ("went farther, to" in line) == beyond
    assert ("can only be higher" in line) == (beyond and realm == "below")
    assert ("the true curve may lie higher" in line) == (not beyond and realm == "above")
    length, ended = (plain.side(found[key]["ci"]) != "holds" for key in ("length", "ended"))
    assert ("in length (" in line) == (realm == "below" and length)
    assert ("in how many end by themselves (" in line) == (realm == "below" and ended)
    assert ("by length and endings" in line) == (realm == "below" and not length and not ended)


# Trainings


@drawn(made.ppo_metrics(), st.booleans(), examples=300)
def test_ppo_says_better_only_where_the_truth_does(metrics: dict[str, Any], simulated: bool) -> None:
    text = findings.ppo(metrics, simulated=simulated, trained_here=True)
    plain.check_language(text)
    assert " -0.0 nats" not in text
    assert " 0 a second" not in text
    kept_start = metrics["best_step"] == 0
    assert ("is the one that training began with" in text) == kept_start
    told = "gold" in metrics and not kept_start
    truth = plain.side(metrics["gold"]["ci_of_difference"]) if told else ""
    liked = plain.side(metrics["reward"]["ci_of_difference"]) == "above"
    assert text.endswith("the policy got better, not only better liked.") == (truth == "above" and liked)
    assert text.endswith(": the policy got better.") == (truth == "above" and not liked)
    assert text.endswith("it was liked better: the reward is over-optimised.") == (truth == "below" and liked)
    assert text.endswith(": it got worse.") == (truth == "below" and not liked)
    assert text.endswith("cannot be told from chance.") == (truth == "holds")


@drawn(made.ppo_metrics(), st.sampled_from(["none", "centred", "log_sigmoid"]))
def test_what_is_the_prompts_is_said_as_a_share(metrics: dict[str, Any], transform: str) -> None:
    text = findings.between_prompts(metrics, transform)
    plain.check_language(text)
    found = metrics["between_prompts"]
    assert ("cannot be told here" in text) == (found is None)
    if found is not None:
        assert ("the gradient is that of the plain reward" in text) == (transform == "centred")
        assert ("A gain counts the less" in text) == (transform == "log_sigmoid")
        share, low, high = (100 * end for end in (found["none"]["share"], *found["none"]["ci"]))
        assert f"**{share:.1f} % ({low:.1f} to {high:.1f})** lies between prompts" in text
        part = None if transform == "none" else found[transform]
        assert ("makes of it, it is" in text) == (part is not None)


@drawn(made.dpo_metrics(), st.booleans(), st.booleans())
def test_dpo_beats_or_loses_only_where_the_interval_does(metrics: dict[str, Any], simulated: bool, here: bool) -> None:
    text = findings.dpo(metrics, simulated=simulated, trained_here=here).split("\n")[0]
    plain.check_language(text)
    verbs = {"above": "beat", "holds": "cannot be told from", "below": "lose to"}
    for where, verb in verbs.items():
        won = f"answers {verb} the starting policy's: they win **{plain.share(metrics['win_rate'])}**" in text
        assert won == (plain.side(metrics["win_rate_ci"], 0.5) == where)
    chance = {"above": "more than chance", "holds": "which cannot be told from chance", "below": "less than chance"}
    right = metrics["accuracy"]
    for where, said in chance.items():
        assert (f"{plain.rate(right['after'], right['ci'])}, {said}." in text) == (
            plain.side(right["ci"], 0.5) == where
        )
    assert ("which ordered its pairs" in text) == (metrics["judge"] == "realm" and metrics["pairs_from"] == "on_policy")
    assert ("came from people" in text) == (metrics["judge"] == "realm" and metrics["pairs_from"] == "human")


# Features, pairs, numbers


@drawn(made.COUNTS, made.COUNTS, made.COUNTS, made.COUNTS, st.sampled_from([-1.0, 0.0, 0.34, float("nan")]))
def test_features_are_counted(pairs_: int, unique: int, scored: int, hits: int, correlation: float) -> None:
    counts = {"pairs": pairs_, "unique_responses": unique, "scored": scored, "cache_hits": hits}
    text = findings.features(
        {**counts, "tokens_scored": 0, "tokens_naive": 1}, simulated=False, rank_correlation=correlation
    )
    plain.check_language(text)
    assert "(100 % fewer)" in text
    assert ("never varies" in text) == math.isnan(correlation)


@drawn(made.SIGNED, made.SIGNED, made.SIGNED, made.SIGNED, made.SHARES)
def test_lengths_of_pairs_have_each_its_own_sign(
    tokens: float, characters: float, share: float, of_characters: float, longer: float
) -> None:
    tokens, characters = 20 * tokens, 90 * characters
    shares = {"tokens_share": share, "characters_share": of_characters, "longer": longer}
    text = pairs.pair_lengths({"tokens": tokens, "characters": characters, **shares})
    plain.check_language(text)
    for value, digits, thing in ((tokens, 1, "token"), (characters, 0, "character")):
        size = round(abs(value), digits)
        assert bool(re.search(rf"[\d.]+ more {thing}", text)) == (size > 0 and value > 0)
        assert bool(re.search(rf"[\d.]+ fewer {thing}", text)) == (size > 0 and value < 0)
    larger = share if abs(share) >= abs(of_characters) else of_characters
    assert ("answers that are longer" in text) == (larger > 0.05)
    assert ("answers that are shorter" in text) == (larger < -0.05)


@drawn(st.floats(-5, 5), st.floats(-5, 5), st.floats(0, 3), st.sampled_from([None, 0, 1]))
def test_the_preferred_response_is_the_one_of_the_higher_reward(
    first: float, second: float, scale: float, readers: int | None
) -> None:
    from scipy.special import expit

    probability = float(expit(scale * (first - second)))
    text = pairs.preferred((first, second), probability, readers)
    plain.check_language(text)
    assert "100 %" not in text
    if first == second:
        assert text == "Both get the same reward."
    elif probability != 0.5:
        assert text.startswith(f"Response {'A' if first > second else 'B'} would be preferred with ")
        assert ("is right" in text) == (readers == (0 if first > second else 1))
        assert ("is wrong" in text) == (readers is not None and "is right" not in text)


@drawn(made.COUNTS, made.COUNTS, made.COUNTS, made.COUNTS, made.COUNTS)
def test_pairs_of_a_file_agree_in_number(read: int, dropped: int, seen: int, judged: int, cut: int) -> None:
    entry = {"posts": seen, "ids": cut, "pairs": dropped, "first": ["a row 1"]}
    source = {"read": read, "posts_cut": cut, "dropped": {"ties": entry}, "seen_in_training": seen}
    source["ids"] = {"several_ids": entry, "several_texts": entry}
    source["annotators"] = {"pairs": seen, "judgements": cut + 2, "with_majority": 0.75, "alpha": -0.25}
    source["other_ratios"] = entry
    plain.check_language(reading.pairs_judged("x", source, {"pairs": judged, "posts": judged}))
