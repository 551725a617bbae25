"""What a run's features take, said before it begins: texts, tokens, what would stop it, and the work of each model."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from realm_lib.config.base import resolve_path
from realm_lib.config.embedding import EmbeddingParams
from realm_lib.config.profile import Params
from realm_lib.config.reward_model import RewardModelParams
from realm_lib.config.signals import EmbeddingSignal, RewardModelSignal
from realm_lib.config.training import ProbeParams
from realm_lib.features.ahead import look_ahead
from realm_lib.features.checks import Ahead, Outlined
from realm_lib.features.counting import (
    LETTERS_A_TOKEN,
    PlannedTexts,
    TextCounts,
    TokenCounts,
    count_tokens,
    planned_texts,
)
from realm_lib.features.model_sizes import model_place, probe_weights, weights_of
from realm_lib.features.store import FeatureStore
from realm_lib.features.stored import stored_texts
from realm_lib.models.throughput import (
    BYTES_A_WEIGHT,
    CARDS,
    Card,
    Precision,
    cards_to_hold,
    find_card,
    tokens_per_second,
)
from realm_lib.runs.run import Run, gpus
from realm_lib.runs.threads import cores

OTHERS = ("RTX 4090", "A100 80GB", "H100")
"""Cards that a plan names beside this machine's own."""
NUMBERS = (1, 8)
_CHECKED_LETTERS = 2
"""Letters of a response for each token of ``max_length`` from which on it is asked whether a model reads it."""
_OUTPUTS = 6
"""Bytes that a run's folder takes for each letter of its pairs: pairs, features, evaluation and report."""
_CPU_BANDWIDTH = 0.02
"""10^12 bytes a second: two channels of memory, or what one process gets of more."""
_TOKENS_EMBEDDED_AT_ONCE = 2048


@dataclass(frozen=True)
class Work:
    """Tokens that go through one model, for one purpose."""

    what: str
    model: str
    weights: float | None
    """How many; None where that is not known before the run."""
    precision: Precision
    passes: tuple[tuple[float, int], ...]
    """Tokens, and how many of them at once; a backward pass counts as two forward."""
    elsewhere: bool = False
    """Whether it is done by a server or a cluster: this machine's hours say nothing of it."""

    @property
    def tokens(self) -> float:
        """Tokens in all, passes counted each."""
        return sum(tokens for tokens, _ in self.passes)

    def hours(self, card: Card, number: int) -> float | None:
        """Hours on ``number`` cards; None where they do not hold the model, or it is not known."""
        if self.weights is None:
            return None
        groups = number // cards_to_hold(self.weights * BYTES_A_WEIGHT[self.precision], card)
        if not groups:
            return None
        speed = [tokens / tokens_per_second(self.weights, card, self.precision, once) for tokens, once in self.passes]
        return sum(speed) / 3600 / groups


@dataclass(frozen=True)
class Place:
    """Cards on which the work may be done."""

    card: Card
    number: int
    here: bool

    def __str__(self) -> str:
        return f"{self.number} x {self.card.name}" if self.number > 1 or not self.here else self.card.name


@dataclass(frozen=True)
class FeaturesPlan:
    """What the features of a run take."""

    ahead: Ahead
    texts: TextCounts
    tokens: dict[str, TokenCounts]
    """By the section of the model that reads them."""
    works: list[Work]
    minutes: dict[str, float]
    """Of a service, at the least, by the limits on requests and tokens: by its section."""
    stored: dict[str, float]
    """The share of the texts that the store holds already, by feature."""


def plan_features(params: Params, run: Run, *, keep: bool) -> FeaturesPlan:
    """Look ahead at the features of a profile. ``keep`` as in :func:`planned_texts`; no weights are read."""
    folder = resolve_path(params.data.preprocessing.cache_dir)
    planned = planned_texts(params, run, keep=keep)
    ahead = _look(params, planned, folder, run)
    if planned.fault:
        ahead.faults.insert(0, f"data: {planned.fault}")
    tokens: dict[str, TokenCounts] = {}
    works: list[Work] = []
    minutes: dict[str, float] = {}
    for name, scorer in _scorers(params).items():
        outlined = ahead.outlined.get(name)
        most = None if scorer.backend == "nim" else scorer.max_length
        template = outlined.template if outlined else 0
        tokens[name] = count_tokens(planned, _tokenizer(scorer.model_id, scorer.revision, run.folder), most, template)
        if scorer.backend == "nim":
            minutes[name] = planned.counts.texts / scorer.requests_per_minute if scorer.requests_per_minute else 0.0
            continue
        elsewhere = scorer.backend == "vllm" or params.run.engine != "local"
        works.append(scoring_work(name, scorer, outlined, tokens[name], params, run, elsewhere=elsewhere))
    for name, embedder in _embedders(params).items():
        if embedder.backend == "sentence_transformers":
            tokens[name] = count_tokens(planned, _tokenizer(embedder.model_id, embedder.revision, run.folder), None, 2)
            weights = weights_of(embedder.model_id, run.folder)
            if weights is None and (found := ahead.looked_up.get(embedder.model_id)) and found.weights:
                weights = found.weights / BYTES_A_WEIGHT["float32"]
            works.append(
                Work(name, embedder.model_id, weights, "float32", ((tokens[name].shared, _TOKENS_EMBEDDED_AT_ONCE),))
            )
        elif quote := ahead.quotes.get(name):
            minutes[name] = _service_minutes(embedder, quote.texts, quote.tokens)
    works += _probe_works(params, planned, tokens["reward_model"], run)
    stored = {}
    if planned.tables and any(folder.glob("*.sqlite")):
        stored = {
            found.feature: found.stored / max(found.texts, 1) for found in stored_texts(params, planned.texts, folder)
        }
    return FeaturesPlan(ahead, planned.counts, tokens, works, minutes, stored)


def scoring_work(
    name: str,
    params: RewardModelParams,
    outlined: Outlined | None,
    tokens: TokenCounts,
    profile: Params,
    run: Run,
    *,
    elsewhere: bool,
) -> Work:
    """Scoring texts of so many ``tokens`` with the reward model of the section ``name``."""
    weights = outlined.weights if outlined else reward_model_weights(params, profile, run)
    shares = outlined is None or outlined.shares_prefixes
    read = float(tokens.shared if shares else tokens.naive)
    precision: Precision = params.quantization or params.dtype
    return Work(name, params.model_id, weights, precision, ((read, params.batch_tokens),), elsewhere)


def reward_model_weights(params: RewardModelParams, profile: Params, run: Run) -> float | None:
    """How many, as :func:`weights_of`; at most, of a probe that notebook 00 is going to train."""
    found, probe = weights_of(params.model_id, run.folder), _probe(profile)
    if found is None and probe is not None and params.backend == "probe" and params.model_id.startswith("run:"):
        return probe_weights(probe, run.folder)
    return found


def _probe(profile: Params) -> ProbeParams | None:
    return None if profile.offline_models is None else profile.offline_models.probe


def _probe_works(profile: Params, planned: PlannedTexts, tokens: TokenCounts, run: Run) -> list[Work]:
    """Reading the reward model's share of the training pairs, and those of the combiner for a judge, and tuning the
    layers by each; nothing where they were read. The share's texts are not planned for: they are taken to be like those
    of the combiner.
    """
    probe, share = _probe(profile), profile.data.reward_model_share
    if probe is None or run.path("models", "probe").exists():
        return []
    times = (share / (1 - share) + probe.judge) * _training_share(profile, planned)
    passes = [(tokens.shared * times, probe.batch_tokens)]
    if probe.tuning is not None:
        passes.append((3.0 * probe.tuning.num_epochs * tokens.naive * times, probe.batch_tokens))
    return [Work("probe", probe.backbone, probe_weights(probe, run.folder), probe.dtype, tuple(passes))]


def _training_share(profile: Params, planned: PlannedTexts) -> float:
    """Of all texts that are planned for: those of pairs that the combiner learns from; all where that is not known."""
    sizes: dict[str, int | None]
    if planned.tables:
        sizes = {split: len(table) for split, table in planned.tables.items()}
    else:
        splits = profile.data.splits
        kept = None if splits.train is None else round(splits.train * (1 - profile.data.reward_model_share))
        sizes = {"train": kept, "validation": splits.validation, "test": splits.test}
    known = [size for size in sizes.values() if size is not None]
    return sizes["train"] / sum(known) if len(known) == len(sizes) and sizes["train"] else 1.0


def places() -> list[Place]:
    """This machine's cards, or its processor where it has none, and a few others."""
    listed = gpus()
    found = [card for line in listed if (card := find_card(line.partition(",")[0]))]
    own = [Place(found[0], len(found), here=True)] if found else []
    if not listed:
        own = [Place(_processor(), 1, here=True)]
    others = [card for card in CARDS if card.name in OTHERS]
    return own + [Place(card, number, here=False) for card in others for number in NUMBERS]


def _look(params: Params, planned: PlannedTexts, folder: Path, run: Run) -> Ahead:
    counts = planned.counts
    letters = counts.prompt_letters + counts.response_letters
    shortest = min([scorer.max_length for scorer in _scorers(params).values()])
    return look_ahead(
        params,
        planned.tables,
        FeatureStore(folder),
        run.folder,
        params.rlhf,
        asked=planned.suspects(_CHECKED_LETTERS * shortest),
        own_models=False,
        expected=(counts.prompts + counts.texts, round(letters / LETTERS_A_TOKEN)),
        outputs=_OUTPUTS * (counts.repeated_prompt_letters + counts.response_letters),
    )


def _scorers(params: Params) -> dict[str, RewardModelParams]:
    signals = params.signals.items()
    return {"reward_model": params.reward_model} | {
        f"signals.{name}": signal.reward_model for name, signal in signals if isinstance(signal, RewardModelSignal)
    }


def _embedders(params: Params) -> dict[str, EmbeddingParams]:
    signals = params.signals.items()
    return {"embedding": params.embedding} | {
        f"signals.{name}": signal.embedding for name, signal in signals if isinstance(signal, EmbeddingSignal)
    }


def _service_minutes(params: EmbeddingParams, texts: int, tokens: int) -> float:
    """At the least, by the limits of the account."""
    requests = texts if params.texts_count else texts / (params.batch_size or 100)
    limits = ((requests, params.requests_per_minute), (tokens, params.tokens_per_minute))
    return max((amount / limit for amount, limit in limits if limit), default=0.0)


def _tokenizer(model_id: str, revision: str | None, run_folder: Path) -> Path | None:
    """The model's tokenizer.json, where it lies on this machine."""
    if place := model_place(model_id, run_folder):
        path = (place if place.is_dir() else place.parent) / "tokenizer.json"
        return path if path.exists() else None
    if ":" in model_id:
        return None
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(model_id, "tokenizer.json", revision=revision)
    except HFValidationError:  # a service's name, or a file
        return None
    return Path(found) if isinstance(found, str) else None


def _processor() -> Card:
    """This machine's processor as a card: its speed in float32 is measured for a moment, all else is assumed.

    By the processor's seconds, not the clock's, so that other work beside it changes little.
    """
    size = 1024
    matrix = np.ones((size, size), dtype=np.float32)
    taken = np.inf
    for _ in range(6):
        start = time.process_time()
        _ = matrix @ matrix
        taken = min(taken, time.process_time() - start)
    speed = cores() * 2 * size**3 / max(taken, 1e-6) / 1e12
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return Card("this CPU", memory, speed, speed, _CPU_BANDWIDTH, 0.0)
