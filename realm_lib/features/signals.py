"""What a combiner is told of a response: numbers by name, each from a model or a rule, behind one protocol.

The score and the similarity are the first two; the section ``signals`` of a profile adds more.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from realm_lib.config.base import ParamsError
from realm_lib.config.signals import EmbeddingSignal, LengthSignal, RewardModelSignal, SignalParams
from realm_lib.data.chats import readable
from realm_lib.data.lengths import counted, letter_count, word_count
from realm_lib.data.texts import is_blank
from realm_lib.features.engines import Engine, LocalEngine
from realm_lib.features.filling import fill
from realm_lib.features.reading import as_read, refuse_long, refused_for_length
from realm_lib.features.scores import Scores, score_texts
from realm_lib.features.similarity import similarities
from realm_lib.features.store import FeatureStore, text_key
from realm_lib.models.embedders import Embedder, EmbedderError, HostedEmbedder, Reading, by_role, cosine
from realm_lib.models.reward_models import (
    CheckingScorer,
    HostedScorer,
    Scorer,
    ScoreReading,
    ScorerError,
    UnscorableError,
)
from realm_lib.runs.functions import load_function
from realm_lib.runs.run import MissingStepError

Texts = Sequence[str]
_COUNTS = {"words": word_count, "characters": letter_count}


class SignalError(RuntimeError):
    """A function of the user's that fails or answers with anything but a number for each text.

    ``name`` is the signal's, ``places`` are those, in what was asked, of the texts at fault where single ones are.
    """

    def __init__(self, name: str, message: str, places: Sequence[int] = ()) -> None:
        super().__init__(f"signals.{name}: {message}")
        self.name = name
        self.places = list(places)


class EmptyResponseError(UnscorableError, EmbedderError):
    """Empty responses where a hosted model is asked: its service has neither a score nor a vector for them."""


class Stored(NamedTuple):
    """The numbers of some texts, [n], and what they took: see :class:`realm_lib.features.extraction.FeatureCost`."""

    values: NDArray[np.floating[Any]]
    computed: int
    cache_hits: int
    tokens: int | None = None
    cost: float | None = None
    reading: Reading | ScoreReading | None = None

    @classmethod
    def of(cls, scores: Scores) -> Self:
        """Of a reward model's scores; tokens are those of all texts."""
        new, tokens = len(scores.computed), int(scores.tokens.sum())
        return cls(scores.values, new, len(scores.values) - new, tokens, reading=scores.reading)


class Signal(Protocol):
    """A number for every (prompt, response), which depends on these two texts alone."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """Everything besides the texts that changes a number; ``model`` and perhaps ``weights`` are what people see."""

    def values(self, prompts: Texts, responses: Texts) -> NDArray[np.floating[Any]]:
        """The number of each, [n], computed; all finite, or an error that names the text."""

    def refused(self, prompts: Texts, responses: Texts) -> Mapping[int, "ScorerError | EmbedderError | SignalError"]:
        """The errors of texts that are known to have no number before any is computed, by their index."""

    @property
    def hosted(self) -> bool:
        """Whether a service is asked: an error of no text's own is then the service's, which has had its retries."""

    def stored(
        self, prompts: Texts, responses: Texts, store: FeatureStore, batch_size: int, label: str | None
    ) -> Stored:
        """The same for distinct texts, from ``store`` or computed and committed to it; ``label`` names the progress."""


@dataclass(frozen=True)
class ScoreSignal:
    """A reward model's score."""

    scorer: Scorer

    @property
    def identity(self) -> Mapping[str, Any]:
        """The reward model's."""
        return self.scorer.identity

    def values(self, prompts: Texts, responses: Texts) -> NDArray[np.float32]:
        """float32 [n]; raises what the scorer raises."""
        return self.scorer.score(prompts, responses)

    def refused(self, prompts: Texts, responses: Texts) -> dict[int, ScorerError]:
        """Those that the scorer refuses, where it is one that can say; of a service empty responses."""
        told = self.scorer.refused(prompts, responses) if isinstance(self.scorer, CheckingScorer) else {}
        return {**told, **empty_for_a_service(self, responses)}

    @property
    def hosted(self) -> bool:
        """Whether the scorer is a service."""
        return isinstance(self.scorer, HostedScorer)

    def stored(
        self, prompts: Texts, responses: Texts, store: FeatureStore, batch_size: int, label: str | None
    ) -> Stored:
        """See :func:`score_texts`."""
        return Stored.of(score_texts(self.scorer, prompts, responses, store, batch_size=batch_size, label=label))


@dataclass(frozen=True)
class SimilaritySignal:
    """The cosine of prompt and response."""

    embedder: Embedder

    @property
    def identity(self) -> Mapping[str, Any]:
        """The embedding model's; with that of prompts, where it treats them differently."""
        of_prompts, of_responses = by_role(self.embedder)
        if of_prompts.identity == of_responses.identity:
            return of_responses.identity
        return {**of_responses.identity, "of_prompts": dict(of_prompts.identity)}

    def values(self, prompts: Texts, responses: Texts) -> NDArray[np.float64]:
        """float64 [n]; each distinct text is embedded once where the model treats both sides alike."""
        refuse_long(prompts, responses, self.embedder)
        of_prompts, of_responses = by_role(self.embedder)
        prompts = as_read(prompts, self.embedder)
        if of_prompts is not of_responses:
            return cosine(of_prompts.embed(prompts), of_responses.embed(responses))
        texts = list(dict.fromkeys([*prompts, *responses]))
        try:
            vectors = dict(zip(texts, of_responses.embed(texts), strict=True))
        except EmbedderError as error:
            bad = {texts[place] for place in error.places}
            pairs = enumerate(zip(prompts, responses, strict=True))
            error.places = [place for place, pair in pairs if not bad.isdisjoint(pair)]
            raise
        sides = [np.stack([vectors[text] for text in side]) for side in (prompts, responses)]
        return cosine(*sides)

    def refused(self, prompts: Texts, responses: Texts) -> dict[int, ScorerError | EmbedderError]:
        """Those that a hosted embedder cannot send, such as empty ones, and those too long: none is embedded."""
        errors: dict[int, ScorerError | EmbedderError] = {**refused_for_length(prompts, responses, self.embedder)}
        if isinstance(self.embedder, HostedEmbedder):
            for index, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
                try:
                    self.embedder.quote([readable(prompt), response])
                except EmbedderError as error:
                    errors[index] = error
        return {**errors, **empty_for_a_service(self, responses)}

    @property
    def hosted(self) -> bool:
        """Whether the embedder is a service."""
        return isinstance(self.embedder, HostedEmbedder)

    def stored(
        self, prompts: Texts, responses: Texts, store: FeatureStore, batch_size: int, label: str | None
    ) -> Stored:
        """See :func:`similarities`; computed and found are distinct texts, tokens and dollars those of all texts."""
        found = similarities(prompts, responses, self.embedder, store, batch_size, label)
        tokens, cost = (None, None) if found.quote is None else (found.quote.tokens, found.quote.cost)
        return Stored(found.values, found.computed, found.texts - found.computed, tokens, cost, found.reading)


@dataclass(frozen=True)
class FunctionSignal:
    """The numbers of a function of prompts, as people read them, and responses."""

    name: str
    identity: Mapping[str, Any]
    function: Callable[[Texts, Texts], ArrayLike]

    def values(self, prompts: Texts, responses: Texts) -> NDArray[np.float32]:
        """float32 [n]. Raises :class:`SignalError` for a function that fails or does not answer n finite numbers."""
        called = self.identity["model"]
        try:
            told = self.function([readable(prompt) for prompt in prompts], list(responses))
            with np.errstate(over="ignore"):  # too large for float32 is infinite, and refused below
                numbers = np.asarray(told, dtype=np.float64).astype(np.float32)
        except Exception as error:
            raise SignalError(self.name, f"{called} failed: {type(error).__name__}: {error}") from error
        if numbers.shape != (len(prompts),):
            raise SignalError(
                self.name, f"{called} must return {len(prompts)} numbers for as many responses, not {numbers.shape}"
            )
        bad = np.flatnonzero(~np.isfinite(numbers)).tolist()
        if bad:
            text = f"text {bad[0]} ({responses[bad[0]][:60]!r})"
            raise SignalError(self.name, f"{text}: {called} returned {numbers[bad[0]]}, which is no finite number", bad)
        return numbers

    def refused(self, prompts: Texts, responses: Texts) -> dict[int, SignalError]:  # noqa: ARG002
        """None: only the function knows."""
        return {}

    @property
    def hosted(self) -> bool:
        """No."""
        return False

    def stored(
        self, prompts: Texts, responses: Texts, store: FeatureStore, batch_size: int, label: str | None
    ) -> Stored:
        """The numbers, each batch committed before the next is computed."""
        table = store.table("signal", self.identity, 1)
        keys = [text_key(prompt, response) for prompt, response in zip(prompts, responses, strict=True)]

        def compute(rows: Sequence[int]) -> NDArray[np.float32]:
            try:
                return self.values([prompts[row] for row in rows], [responses[row] for row in rows])[:, None]
            except SignalError as error:
                error.places = [rows[place] for place in error.places]
                raise

        computed = fill(
            table,
            keys,
            compute,
            order=range(len(keys)),
            groups=prompts,
            sizes=np.array([len(response) for response in responses], dtype=np.int64),
            unit="char",
            batch_size=batch_size,
            label=label,
        )
        values = table.get(keys)[:, 0]
        table.close()
        return Stored(values, len(computed), len(keys) - len(computed))


def empty_for_a_service(signal: Signal, responses: Texts) -> dict[int, EmptyResponseError]:
    """The errors of empty responses by their index, where ``signal`` asks a service; a model here has a number."""
    if not signal.hosted:
        return {}
    fault = "the response is empty: a hosted model has no number for it"
    return {i: EmptyResponseError(fault, [i]) for i, response in enumerate(responses) if is_blank(response)}


def build_signal(
    name: str, params: SignalParams, run_folder: Path | None = None, engine: Engine | None = None
) -> Signal:
    """The signal ``name`` of a profile; ``run_folder`` is where ``run:`` model ids start.

    Its model runs on ``engine``, in this process where there is none. Raises what the engine's ``scorer`` and
    ``embedder`` and :func:`load_function` raise, naming the signal.
    """
    engine = engine or LocalEngine()
    with naming(name):
        if isinstance(params, RewardModelSignal):
            return ScoreSignal(engine.scorer(params.reward_model, run_folder))
        if isinstance(params, EmbeddingSignal):
            return SimilaritySignal(engine.embedder(params.embedding, run_folder))
        if isinstance(params, LengthSignal):
            count = _COUNTS[params.unit]
            return FunctionSignal(
                name, {"model": str(params)}, lambda _, responses: np.log1p(counted(count, responses))
            )
        function = load_function(params.function)
        return FunctionSignal(name, {"model": params.function, "weights": function.digest}, function.call)


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Errors of models that are raised inside say which signal's they are."""
    try:
        yield
    except (ScorerError, EmbedderError, ParamsError, MissingStepError) as error:
        name_error(name, error)
        raise


def name_error(name: str, error: Exception) -> None:
    """Make ``error`` say that it is the signal's ``name``; one of a function says so itself."""
    if not isinstance(error, SignalError):
        error.args = (f"signals.{name}: {error}", *error.args[1:])
