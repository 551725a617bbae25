"""What a reward does when a response changes without getting better, or when the prompt is another one."""

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import regex

from realm_lib.evaluation.display import measured
from realm_lib.evaluation.parts import alone
from realm_lib.evaluation.resampling import EvaluationError, Floats, bootstrap_over_posts
from realm_lib.reward.combiner import FEATURES
from realm_lib.runs.seeds import derive_seed

Explain = Callable[[Sequence[str], Sequence[str]], pd.DataFrame]
"""Prompts and responses to a table with a reward and its features, as RealmReward.explain."""

_PADDING = (
    "I hope that this answers what you asked. There is of course a great deal more that one could say about it, and "
    "opinions differ. If anything is unclear, please feel free to ask."
)
_OPENING = "Thank you for asking, what a great question!"
_NO_SPACE_AFTER = r"(?<=[。！？｡][”’」』）]*)"
_SENTENCE_END = regex.compile(rf"(?<=\p{{Sentence_Terminal}})\s+|{_NO_SPACE_AFTER}(?![”’」』）]|$)")
_LATIN, _LETTER = regex.compile(r"\p{Latin}"), regex.compile(r"\p{L}")

PERTURBATIONS = {
    "padded": "empty phrases at the end",
    "polite": "a polite opening",
    "reordered": "its sentences in another order",
    "wrong_prompt": "the same response under another post",
}


def perturbed(response: str, kind: str, seed: int) -> str | None:
    """``response`` padded, polite or reordered; None where it cannot be.

    What is added is English: it is not added to a response that is mostly in another script. One sentence cannot be
    reordered, nor can a response with a block of code.
    """
    if kind in ("padded", "polite") and 2 * len(_LATIN.findall(response)) < len(_LETTER.findall(response)):
        return None
    if kind == "padded":
        return f"{response.rstrip()} {_PADDING}"
    if kind == "polite":
        return f"{_OPENING} {response.lstrip()}"
    sentences = _SENTENCE_END.split(response.strip())
    if len(set(sentences)) < 2 or "```" in response:
        return None
    order = sentences[:]
    generator = random.Random(derive_seed(seed, "reordered", response))
    while order == sentences:
        generator.shuffle(order)
    return regex.sub(rf"{_NO_SPACE_AFTER} ", "", " ".join(order))


def wrong_prompts(prompts: Sequence[str]) -> dict[str, str]:
    """Another one of ``prompts`` for each; raises :class:`EvaluationError` when all are the same."""
    distinct = list(dict.fromkeys(prompts))
    if len(distinct) < 2:
        raise EvaluationError("a wrong prompt needs two posts at least")
    return dict(zip(distinct, distinct[1:] + distinct[:1], strict=True))


def perturbation_suite(
    features: pd.DataFrame,
    explain: Explain,
    names: Sequence[str] = FEATURES,
    *,
    gold: Callable[[str, str], float] | None = None,
    pairs: int = 100,
    resamples: int = 10_000,
    seed: int = 42,
) -> dict[str, Any]:
    """How rewards change on some ``pairs`` of ``features`` when a response is perturbed in ways that add nothing.

    ``explain`` gives the reward (realm) and each feature of ``names`` (called as :func:`alone` does); ``gold`` the true
    utility of a simulated response, to see whether a perturbation really leaves quality alone. A feature that is the
    same for all these responses has no scale and is left out.

    For each kind of :data:`PERTURBATIONS` and each reward: ``change``, the mean change of a response's reward in
    standard deviations of that reward over the unperturbed responses, with ``ci`` over posts; ``raised``, the share of
    responses whose reward rose; and ``won``, the share of pairs in which the response that had the lower reward gets
    the higher one when it alone is perturbed (null for a wrong prompt). ``responses`` is the number perturbed.
    """
    chosen = _sample(features, pairs, seed)
    sides = [chosen.rename(columns={"history": "prompt", f"human_ref_{side}": "response"}) for side in "AB"]
    rows = pd.concat(sides, ignore_index=True)[["post_id", "prompt", "response"]]
    rows["row"] = rows.index
    others = wrong_prompts(features["history"].tolist())
    changed = []
    for kind in PERTURBATIONS:
        part = rows.assign(kind=kind)
        if kind == "wrong_prompt":
            part["prompt"] = part["prompt"].map(others)
        else:
            part["response"] = [perturbed(text, kind, seed) for text in part["response"]]
        changed.append(part.dropna(subset="response"))
    everything = pd.concat([rows.assign(kind=""), *changed], ignore_index=True)
    # One call, so that equal texts are computed once.
    values = explain(everything["prompt"].tolist(), everything["response"].tolist())
    before = (everything["kind"] == "").to_numpy()
    varying = [name for name in names if values[name][before].nunique() > 1]
    columns = {"realm": "reward", **{alone(name): name for name in varying}}
    numbers = {name: values[column].to_numpy(dtype=np.float64) for name, column in columns.items()}
    if gold is not None:
        texts = zip(everything["prompt"], everything["response"], strict=True)
        numbers["gold"] = np.array([gold(prompt, response) for prompt, response in texts], dtype=np.float64)
    kinds: dict[str, dict[str, Any]] = {}
    for kind in PERTURBATIONS:
        of_kind = (everything["kind"] == kind).to_numpy()
        after = everything[of_kind]
        kinds[kind] = {"responses": len(after)}
        for name, rewards_of in numbers.items() if len(after) else ():
            drawn = derive_seed(seed, kind, name)
            kinds[kind][name] = _change(name, rewards_of[before], rewards_of[of_kind], after, resamples, drawn)
            if kind == "wrong_prompt":
                kinds[kind][name]["won"] = None
    return {"pairs": len(chosen), "posts": int(chosen["post_id"].nunique()), "kinds": kinds}


def perturbation_table(metrics: dict[str, Any]) -> pd.DataFrame:
    """One row a kind and reward, with numbers as text for display."""
    rows = [
        {
            "change": PERTURBATIONS[kind],
            "reward": name,
            "mean change (SD)": measured(values["change"], values["ci"]),
            "rose": f"{100 * values['raised']:.0f} %",
            "loser wins": "" if values["won"] is None else f"{100 * values['won']:.0f} %",
            "n": entry["responses"],
        }
        for kind, entry in metrics["kinds"].items()
        for name, values in entry.items()
        if name != "responses"
    ]
    return pd.DataFrame(rows)


def _sample(features: pd.DataFrame, pairs: int, seed: int) -> pd.DataFrame:
    """Some pairs, from as many posts as there can be, in an order fixed by ``seed``."""
    shuffled = features.sample(frac=1.0, random_state=derive_seed(seed, "perturbations"))
    turn = shuffled.groupby("post_id").cumcount().sort_values(kind="stable")
    return shuffled.loc[turn.index[:pairs]]


def _change(
    name: str, start: Floats, changed: Floats, after: pd.DataFrame, resamples: int, seed: int
) -> dict[str, Any]:
    """How far rewards ``changed`` of the rows ``after`` are from those that they had; ``start`` holds all of these."""
    row = after["row"].to_numpy()
    change = changed - start[row]
    spread = float(start.std())
    if spread == 0:
        raise EvaluationError(f"{name} is the same for every response: there is no scale to measure a change on")
    drawn = bootstrap_over_posts(change / spread, after["post_id"].to_numpy(), resamples=resamples, seed=seed)
    count = len(start) // 2
    rival = start[(row + count) % (2 * count)]
    lost = start[row] < rival
    return {
        "change": float(drawn.means[0]),
        "ci": drawn.interval(),
        "raised": float((change > 0).mean()),
        "won": float((changed[lost] > rival[lost]).mean()) if lost.any() else None,
    }
