"""What a run's features take, said before it begins: texts, tokens, what would stop it, and the work of each model."""

import json
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from realm_lib.config.base import resolve_path
from realm_lib.config.embedding import EmbeddingParams
from realm_lib.config.profile import Params
from realm_lib.config.reward_model import RewardModelParams
from realm_lib.config.signals import EmbeddingSignal, RewardModelSignal
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
from realm_lib.runs.weights import locate_model

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
        works.append(scoring_work(name, scorer, outlined, tokens[name], run, elsewhere=elsewhere))
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
    run: Run,
    *,
    elsewhere: bool,
) -> Work:
    """Scoring texts of so many ``tokens`` with the reward model of the section ``name``."""
    weights = outlined.weights if outlined else weights_of(params.model_id, run.folder)
    shares = outlined is None or outlined.shares_prefixes
    read = float(tokens.shared if shares else tokens.naive)
    precision: Precision = params.quantization or params.dtype
    return Work(name, params.model_id, weights, precision, ((read, params.batch_tokens),), elsewhere)


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


def _place(model_id: str, run_folder: Path) -> Path | None:
    """The folder or GGUF file of a model that is on this machine and not in the hub's cache."""
    if model_id.startswith("run:"):  # which notebook 00 may not have made yet
        folder = run_folder / model_id.removeprefix("run:")
        return folder if folder.is_dir() else None
    place = locate_model(model_id)
    return place if isinstance(place, Path) else None


def _tokenizer(model_id: str, revision: str | None, run_folder: Path) -> Path | None:
    """The model's tokenizer.json, where it lies on this machine."""
    if place := _place(model_id, run_folder):
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


def weights_of(model_id: str, run_folder: Path) -> float | None:
    """How many weights a model multiplies with, by the headers of its GGUF file or of a folder's safetensors files;
    embeddings are looked up. Else as many as its name says (``8B``).

    None where neither tells, as of a model that notebook 00 is going to train.
    """
    place = _place(model_id, run_folder)
    if place is None:
        return _by_name(model_id)
    files = sorted(place.glob("*.safetensors")) if place.is_dir() else []
    packed = [place] if place.is_file() else list(place.glob("*.gguf"))
    held = [_held_gguf(packed[0])] if not files and len(packed) == 1 else map(_held, files)
    return sum(held) or _by_name(model_id)


def _held(file: Path) -> float:
    with file.open("rb") as opened:
        header = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
    multiplied = [entry["shape"] for name, entry in header.items() if name[0] != "_" and "embed" not in name]
    return float(sum(np.prod(shape, dtype=np.float64) for shape in multiplied))


def _held_gguf(file: Path) -> float:
    from realm_lib.models.gguf_conversion import tensor_shapes  # late: torch, which takes seconds to import

    shapes = tensor_shapes(file).items()
    return float(sum(np.prod(shape, dtype=np.float64) for name, shape in shapes if not name.startswith("token_embd")))


def _by_name(model_id: str) -> float | None:
    """How many weights a name promises, as ``INF-ORM-Llama3.1-70B`` does."""
    found: Sequence[str] = re.findall(r"(?<![\d.])(\d+(?:\.\d+)?)[bB](?![a-zA-Z])", model_id)
    return 1e9 * float(found[-1]) if found else None


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
