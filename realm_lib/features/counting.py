"""How many pairs, texts and tokens a profile has, counted where its data is at hand, else estimated and called so."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from realm_lib.config.base import resolve_path
from realm_lib.config.data import DataParams, Split, SplitSizes
from realm_lib.config.profile import Params
from realm_lib.data.chats import PairsError, readable
from realm_lib.data.kept import are_kept, keep_pairs
from realm_lib.data.pairs import PairSplit, load_splits
from realm_lib.features.ahead import distinct_of
from realm_lib.models.hub import HubError, look_up_data
from realm_lib.runs.run import Run

SPLITS: tuple[Split, ...] = ("train", "validation", "test")
SAMPLED = 2_000
"""Texts of a sample: of prompts, and as many of responses."""
LETTERS_A_TOKEN = 4.0
"""Where no tokenizer is at hand: English has rather more in common vocabularies, other scripts have fewer."""
_SIMULATED = 2_000
_SHP = {"train": 348_718, "validation": 18_436, "test": 18_409}
"""The splits' pairs by the card of stanfordnlp/SHP. It says neither how many texts they hold, two responses a pair at
most, nor how long these are: letters of a post and of a comment, and pairs of a post, are assumed."""
_SHP_LETTERS = (500, 450)
_PAIRS_A_POST = 4


@dataclass(frozen=True)
class TextCounts:
    """Pairs, their distinct texts and the letters of these."""

    pairs: int
    prompts: int
    texts: int
    """Distinct (prompt, response)."""
    prompt_letters: int
    """Of the distinct prompts."""
    repeated_prompt_letters: int
    """Of the prompts once for each of their responses."""
    response_letters: int
    basis: str
    """``counted``, or how it was estimated."""


@dataclass(frozen=True)
class TokenCounts:
    """Tokens that a reward model reads of some texts, and how many of these it does not read whole."""

    naive: int
    """Each text read with its prompt."""
    shared: int
    """A prompt read once for all its responses."""
    cut_prompts: int
    """Texts of which the prompt loses a part."""
    long_responses: int
    """Responses that are too long by themselves: cut or refused."""
    basis: str
    """By which tokenizer, and over which sample."""


class PlannedTexts:
    """The texts of a profile as far as they are known before it runs."""

    def __init__(self, tables: Mapping[str, pd.DataFrame], counts: TextCounts, fault: str = "") -> None:
        self.tables = tables
        """The pairs of each split; none where they are not at hand."""
        self.counts = counts
        self.fault = fault
        """Why the pairs cannot be read; empty where they can, or are not at hand yet."""
        self.texts = pd.DataFrame({"prompt": [], "response": []}, dtype=object)
        if tables:
            self.texts = distinct_of(tables)

    def suspects(self, letters: int) -> pd.DataFrame:
        """A sample of the texts, and all whose response has more ``letters``: those that a model may not read."""
        if self.texts.empty:
            return self.texts
        chosen = (self.texts["response"].str.len() > letters).to_numpy(copy=True)
        chosen[_spread(len(self.texts), SAMPLED)] = True
        return self.texts[chosen].reset_index(drop=True)


def planned_texts(params: Params, run: Run, *, keep: bool) -> PlannedTexts:
    """The texts of a profile: read where they lie on this machine, else estimated.

    ``keep`` leaves the pairs that were read in the run's folder, where notebook 01 finds them. Simulated pairs take as
    long to make as to plan for, so a part of them stands for all.
    """
    data = params.data
    try:
        return _planned(data, run, keep=keep)
    except PairsError as error:
        return PlannedTexts({}, TextCounts(0, 0, 0, 0, 0, 0, "not known"), str(error))


def _planned(data: DataParams, run: Run, *, keep: bool) -> PlannedTexts:
    if are_kept(run, data, SPLITS):
        return _counted(_tables(keep_pairs(run, data, SPLITS)))
    if data.source == "simulator":
        return _simulated(data)
    if data.source == "hub" and not _is_here(name := data.dataset_name or ""):
        try:
            look_up_data(name)
        except HubError as error:
            return PlannedTexts({}, _by_card(data), f"{name}: {error}")
        return PlannedTexts({}, _by_card(data))
    if keep:
        return _counted(_tables(keep_pairs(run, data, SPLITS)))
    return _counted(_tables(load_splits(data, SPLITS)))


def count_tokens(planned: PlannedTexts, tokenizer: Path | None, max_length: int | None, template: int) -> TokenCounts:
    """Tokens of the planned texts for a model that reads ``max_length`` of a text (None: all).

    The ``tokenizer`` (a tokenizer.json) reads a sample, whose tokens a letter stand for all texts; without one
    :data:`LETTERS_A_TOKEN` do. ``template`` are the tokens that each chat has besides its texts.
    """
    (asked, answered), basis = _tokens_a_letter(planned.texts, tokenizer)
    repeated, distinct, responses = _letters(planned)
    of_prompts, of_distinct, of_responses = repeated * asked, distinct * asked, responses * answered
    most = np.inf if max_length is None else max_length
    whole = of_prompts + of_responses + template
    return TokenCounts(
        naive=int(np.minimum(whole, most).sum()),
        shared=int(np.minimum(of_distinct + template, most).sum() + np.minimum(of_responses, most).sum()),
        cut_prompts=int((whole > most).sum()),
        long_responses=int((of_responses + template > most).sum()),
        basis=basis,
    )


def _letters(planned: PlannedTexts) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Letters of the prompt of each text, of each distinct prompt, and of each response; means where none is known."""
    counts, texts = planned.counts, planned.texts
    if texts.empty:
        numbers = (max(counts.texts, 1), max(counts.prompts, 1), max(counts.texts, 1))
        sums = (counts.repeated_prompt_letters, counts.prompt_letters, counts.response_letters)
        repeated, distinct, responses = (np.full(n, whole / n) for n, whole in zip(numbers, sums, strict=True))
        return repeated, distinct, responses
    repeated = texts["prompt"].str.len().to_numpy(np.float64)
    return repeated, repeated[_first_of_each(texts)], texts["response"].str.len().to_numpy(np.float64)


def _tables(splits: Mapping[Split, PairSplit]) -> dict[str, pd.DataFrame]:
    return {str(split): pairs.table for split, pairs in splits.items()}


def _counted(tables: Mapping[str, pd.DataFrame], basis: str = "counted", factor: float = 1.0) -> PlannedTexts:
    """The texts of pairs at hand; ``factor`` makes a part stand for all."""
    none = TextCounts(0, 0, 0, 0, 0, 0, basis)
    planned = PlannedTexts(tables, none)
    letters = planned.texts["prompt"].str.len().to_numpy(np.int64)
    first = _first_of_each(planned.texts)

    def whole(number: float) -> int:
        return round(number * factor)

    planned.counts = TextCounts(
        pairs=whole(sum(map(len, tables.values()))),
        prompts=whole(len(first)),
        texts=whole(len(planned.texts)),
        prompt_letters=whole(letters[first].sum()),
        repeated_prompt_letters=whole(letters.sum()),
        response_letters=whole(planned.texts["response"].str.len().sum()),
        basis=basis,
    )
    return planned


def _simulated(data: DataParams) -> PlannedTexts:
    """Estimated from a part of the pairs, by shares of the splits as they are before any is filtered."""
    sizes = data.splits.model_dump()
    total = sum(sizes.values())
    share = min(1.0, _SIMULATED / total)
    part = SplitSizes(**{split: max(1, round(size * share)) for split, size in sizes.items()})
    try:
        made = load_splits(data.model_copy(update={"splits": part}), SPLITS)
    except PairsError:  # the part may be so small that a filter leaves none of a split
        made = load_splits(data, SPLITS)
        share = 1.0
    tables = _tables(made)
    if share == 1.0:
        return _counted(tables)
    basis = f"estimated from {sum(part.model_dump().values()):,} of {total:,} simulated pairs"
    found = _counted(tables, basis, 1 / share)
    return PlannedTexts({}, found.counts)


def _by_card(data: DataParams) -> TextCounts:
    """What is known of SHP before it is downloaded; of any other set nothing is."""
    if (data.dataset_name or "").rstrip("/").rpartition("/")[2] != "SHP":
        return TextCounts(0, 0, 0, 0, 0, 0, f"not known before {data.dataset_name} is downloaded")
    caps = data.splits.model_dump()
    pairs = sum(min(size, caps[split] or size) for split, size in _SHP.items())
    posts = -(-pairs // _PAIRS_A_POST)
    of_prompt, of_response = _SHP_LETTERS
    return TextCounts(
        pairs=pairs,
        prompts=posts,
        texts=2 * pairs,
        prompt_letters=posts * of_prompt,
        repeated_prompt_letters=2 * pairs * of_prompt,
        response_letters=2 * pairs * of_response,
        basis="estimated, at most: the sizes of SHP's card before any filter, lengths assumed; it is downloaded later",
    )


def _is_here(name: str) -> bool:
    """Whether a data set is a folder, or lies in one of the hub's caches on this machine."""
    from huggingface_hub import constants

    if resolve_path(name).exists():
        return True
    made = Path(os.environ.get("HF_DATASETS_CACHE") or Path(constants.HF_HOME) / "datasets")
    if any(_plain(folder.name) == _plain(name) for folder in made.glob("*/")):
        return True
    downloaded = Path(constants.HF_HUB_CACHE) / f"datasets--{name.replace('/', '--')}"
    return any(file.suffix != ".md" for file in downloaded.glob("snapshots/*/**/*.*"))


def _plain(name: str) -> str:
    """A data set's name without what `datasets` changes in it to name a folder."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _tokens_a_letter(texts: pd.DataFrame, tokenizer: Path | None) -> tuple[tuple[float, float], str]:
    """Tokens a letter of prompts and of responses, and how they were found."""
    if tokenizer is None or texts.empty:
        guess = 1 / LETTERS_A_TOKEN
        return (guess, guess), f"estimated, {LETTERS_A_TOKEN:g} letters a token"
    from tokenizers import Tokenizer

    reader = Tokenizer.from_file(str(tokenizer))
    reader.no_truncation()
    reader.no_padding()
    prompts = [readable(prompt) for prompt in texts["prompt"].iloc[_first_of_each(texts)]]
    rates = [_rate(reader, side) for side in (prompts, texts["response"].tolist())]
    return (rates[0], rates[1]), f"estimated by the model's own tokenizer over {min(SAMPLED, len(texts)):,} responses"


def _rate(reader: object, texts: Sequence[str]) -> float:
    some = [texts[place] for place in _spread(len(texts), SAMPLED)]
    encoded = reader.encode_batch(some, add_special_tokens=False)  # type: ignore[attr-defined]
    return sum(len(found.ids) for found in encoded) / max(1, sum(map(len, some)))


def _first_of_each(texts: pd.DataFrame) -> NDArray[np.int64]:
    """The first row of each distinct prompt."""
    return np.flatnonzero(~texts["prompt"].duplicated().to_numpy())


def _spread(total: int, most: int) -> NDArray[np.int64]:
    """At most ``most`` places, evenly over ``total``: the same ones each time."""
    return np.unique(np.linspace(0, total - 1, min(total, most)).astype(np.int64))
