"""Where a trained policy lies against best-of-n's curve, in words, and in what else its answers differ."""

from collections.abc import Mapping
from typing import Any

from realm_lib.report.words.numbers import listed, measured, percent


def against_best_of_n(who: str, entry: Mapping[str, Any]) -> str:
    """Sentences on a policy's place against best-of-n's curve, from its ``against_best_of_n``; empty without one.

    ``who`` is the policy's name as a sentence begins with it. Above or below is said only where the whole interval of
    the difference says so. Beyond the curve's end its end is what can be compared with: the mean reward of best-of-n
    rises with n, so that a reward below the end is below the curve.
    """
    found = entry.get("against_best_of_n")
    if found is None:
        return ""
    realm = found["by_judge"]["realm"]
    below, beyond = realm["ci"][1] < 0, entry["kl"] > found["end"]
    end = f"best of {found['n']} at {found['end']:.1f} nats"
    where = f"the end of best-of-n's curve ({end})" if beyond else "best-of-n's curve at its distance"
    text = f"{who}'s reward {_place(realm, where)}"
    if (gold := found["by_judge"].get("gold")) is not None:
        as_well = {0: " either", 1: " too", -1: " too"}[_side(gold)] if _side(gold) == _side(realm) else ""
        text += f"; its truth {_place(gold, f'it{as_well}')}"
    if beyond and below:
        text += f". {who} went farther, to {entry['kl']:.1f} nats, where best-of-n's reward can only be higher"
    elif beyond:
        text += f". {who} went farther, to {entry['kl']:.1f} nats, where it would take more answers to tell"
    elif _side(realm) > 0:
        text += ". The curve's distances are upper bounds: the true curve may lie higher"
    return f"{text}.{_beside(found) if below else ''}"


def ends_less(who: str, entry: Mapping[str, Any], start: Mapping[str, Any]) -> str:
    """A warning where a trained policy ends fewer than 97 % of its answers, and fewer than the start; else empty."""
    if entry["kl_kind"] != "estimate" or entry["ended"] >= 0.97 or start["ended"] <= entry["ended"]:
        return ""
    return (
        f"Warning: {who} ends {percent(entry['ended'])} of its answers by itself, the start "
        f"{percent(start['ended'])}: the others were cut at the limit of tokens, and nobody wants half an answer. "
        "A larger `rlhf.ppo.missing_eos_penalty` holds PPO to it, pairs whose chosen answers end hold DPO."
    )


def _side(entry: Mapping[str, Any]) -> int:
    """1 where the whole interval of the difference is above 0, -1 where it is below, else 0."""
    low, high = entry["ci"]
    return 1 if low > 0 else -1 if high < 0 else 0


def _place(entry: Mapping[str, Any], where: str) -> str:
    verb = {1: "lies above", 0: "cannot be told from", -1: "lies below"}[_side(entry)]
    return f"{verb} {where}: {_numbers(entry)}"


def _numbers(entry: Mapping[str, Any]) -> str:
    own = entry["curve"] + entry["difference"]
    return f"{own:.2f} against {entry['curve']:.2f}, a difference of {measured(entry['difference'], entry['ci'])}"


def _beside(found: Mapping[str, Any]) -> str:
    """In what, of that which no judge pays for, the answers differ from best-of-n's at the same distance."""
    own = {key: found[key]["curve"] + found[key]["difference"] for key in ("length", "ended")}
    words = {
        "length": f"in length ({own['length']:.1f} tokens against {found['length']['curve']:.1f})",
        "ended": f"in how many end by themselves ({percent(own['ended'])} against {percent(found['ended']['curve'])})",
    }
    apart = [text for key, text in words.items() if _side(found[key])]
    told = f"differ {listed(apart)} from" if apart else "cannot be told by length and endings from"
    return (
        " Best-of-n comes near the most that can be won at a distance (arXiv 2406.00832); the policy's answers "
        f"{told} best-of-n's."
    )
