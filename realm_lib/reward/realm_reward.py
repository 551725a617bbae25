"""RealmReward: prompt and response as text in, the combined reward out."""

import hashlib
import importlib.metadata
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from realm_lib.config.base import ParamsError
from realm_lib.config.feature_models import FeatureModels
from realm_lib.config.profile import Params
from realm_lib.data.chats import Prompt, asked_text, asked_texts
from realm_lib.data.lengths import cut_prompt
from realm_lib.features.identities import DIGITS, changed, identities_of
from realm_lib.features.signals import (
    EmptyResponseError,
    ScoreSignal,
    Signal,
    SignalError,
    SimilaritySignal,
    build_signal,
    empty_for_a_service,
    naming,
)
from realm_lib.models.embedders import Embedder, EmbedderError, build_embedder
from realm_lib.models.reward_models import LongResponseError, Scorer, ScorerError, build_scorer
from realm_lib.runs.files import write_json
from realm_lib.runs.reading import read_json
from realm_lib.runs.run import Run
from realm_lib.runs.trained_on import posts_behind

if TYPE_CHECKING:
    # torch comes with it: it is loaded with the first reward, so that a program which imports the name pays nothing.
    from realm_lib.reward.combiner import Combiner

_FILE = "realm_reward.json"  # beside the combiner: the models whose numbers it combines
_SECTIONS = {"reward_model", "embedding"}
_WORDS, _SIGNALS = "max_prompt_words", "signals"  # the first is written from one version on, the second from the next
_MODELS, _COMBINER = "identities", "combiner"  # from a later one on: what must be the same in use as in training
_AGAIN = "run notebooks 01_feature_extraction and 02_combiner_training again"


class RealmReward:
    """The combined reward, callable with the signature of a TRL reward function.

    A scorer and an embedder give the first two features, ``signals`` the others by name, the combiner makes one number
    of them. Each can be any object that keeps the protocol. Prompts are cut to ``max_prompt_words`` first, as those
    were that the combiner was trained on (:func:`realm_lib.data.lengths.cut_prompt`); None cuts nothing.
    """

    def __init__(
        self,
        scorer: Scorer,
        embedder: Embedder,
        combiner: "Combiner",
        *,
        signals: Mapping[str, Signal] | None = None,
        max_prompt_words: int | None = None,
    ) -> None:
        """Raise :class:`ParamsError` where the combiner's features are others than these models give."""
        self.signals = dict(signals or {})
        self._features: dict[str, Signal] = {"score": ScoreSignal(scorer), "similarity": SimilaritySignal(embedder)}
        self._features |= self.signals
        if tuple(combiner.features) != tuple(self._features):
            taken, given = ", ".join(combiner.features), ", ".join(self._features)
            raise ParamsError(
                f"the combiner takes the features {taken}, the models and signals give {given}: run notebook "
                "02_combiner_training again"
            )
        self.scorer = scorer
        self.embedder = embedder
        self.combiner = combiner
        self.max_prompt_words = max_prompt_words
        self.feature_models: FeatureModels | None = None
        """Of a saved reward: the models that its combiner was trained on, which these are."""
        self._run_folder: Path | None = None

    @property
    def __name__(self) -> str:
        """Trainers log a reward function by its name."""
        return "realm_reward"

    @property
    def models(self) -> dict[str, str]:
        """What the numbers depend on: ``NAME@WEIGHTS`` of the reward model, the embedding model and each signal's model
        or function; the combiner.

        WEIGHTS are the first 12 digits of the SHA-256 or of the hub's commit, where there are weights to know; the
        combiner's are those of ``weights_sha256`` in its config.json.
        """
        return {
            "reward_model": _name_and_weights(self.scorer.identity),
            "embedding": _name_and_weights(self.embedder.identity),
            **{name: _name_and_weights(signal.identity) for name, signal in self.signals.items()},
            "combiner": hashlib.sha256(self.combiner.serialized()).hexdigest()[:DIGITS],
            "realm_lib": importlib.metadata.version("realm-lib"),
        }

    def trained_on(self) -> dict[str, frozenset[str] | None]:
        """Keys of the posts that the reward models and the combiner were trained on or chosen by; None: not known.

        A signal's reward model has the signal's name. Whoever judges the reward leaves those posts out. Raises what
        :func:`posts_behind` raises.
        """
        scorers = {name: signal.scorer for name, signal in self.signals.items() if isinstance(signal, ScoreSignal)}
        of_combiner: frozenset[str] | None = getattr(self.combiner, "trained_on", None)
        if of_combiner is None and self._run_folder is not None:
            of_combiner = posts_behind("run:models/combiner", self._run_folder)
        of_models = {name: self._posts_of(scorer) for name, scorer in {"reward_model": self.scorer, **scorers}.items()}
        return {**of_models, "combiner": of_combiner}

    def _posts_of(self, scorer: Scorer) -> frozenset[str] | None:
        model_id = getattr(getattr(scorer, "params", None), "model_id", None)  # a scorer of your own has none
        return None if model_id is None else posts_behind(model_id, self._run_folder)

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[Prompt], **columns: Any) -> list[float]:  # noqa: ARG002
        """The reward of each completion under its prompt.

        Prompts and completions are strings or lists of chat messages; other columns of a data set are not used.
        Raises ValueError when their numbers differ, and what the scorer and the embedder raise.
        """
        return [float(reward) for reward in self.explain(prompts, completions)["reward"]]

    def explain(self, prompts: Sequence[Prompt], completions: Sequence[Prompt]) -> pd.DataFrame:
        """One row a completion: reward, spread, score, similarity, each signal by its name, outside.

        spread is the standard deviation over the ensemble; outside says whether one of the features lies beyond the
        range of the training responses.

        Equal texts are computed once. Raises :class:`LongResponseError` with the places, among ``completions``, of
        those that are too long for a reward model, :class:`EmptyResponseError` with those of empty ones where a model
        is hosted, what the models and :class:`SignalError` of functions raise, and what :func:`asked_texts` raises.
        """
        texts = asked_texts(prompts, completions, self.read_prompt)
        self._refuse_empty([response for _, response in texts])
        asked = pd.DataFrame(texts, columns=["prompt", "response"], dtype=object)
        columns = ["reward", "spread", *self._features, "outside"]
        if asked.empty:
            return pd.DataFrame(columns=columns, dtype=float).astype({"outside": bool})
        distinct = asked.drop_duplicates(ignore_index=True)
        for name in self._features:
            distinct[name] = self._values(name, distinct[["prompt", "response"]], asked)
        told = self.combine(distinct)
        return asked.merge(told, on=["prompt", "response"], how="left", validate="many_to_one")[columns]

    def _refuse_empty(self, responses: Sequence[str]) -> None:
        """Before anything is computed: models that run here have a number for an empty response, services have none."""
        for name, signal in self._features.items():
            if empty := empty_for_a_service(signal, responses):
                raise EmptyResponseError(f"completion {min(empty)}: {name}: {empty[min(empty)]}", empty)

    def combine(self, features: pd.DataFrame) -> pd.DataFrame:
        """``features``, one row a response, with the columns reward, spread and outside of :meth:`explain`."""
        numbers = features[list(self._features)].to_numpy(dtype=np.float32)
        reward, spread = self.combiner.reward_and_spread(numbers)
        return features.assign(reward=reward, spread=spread, outside=self.combiner.outside(numbers))

    @property
    def features(self) -> Mapping[str, Signal]:
        """What the combiner takes, by name: score, similarity and the signals."""
        return self._features

    def read_prompt(self, prompt: Prompt) -> str:
        """The text of a prompt as the features are made of it: cut. Raises what :func:`asked_text` raises."""
        text = asked_text(prompt)
        return text if self.max_prompt_words is None else cut_prompt(text, self.max_prompt_words)

    def _values(self, name: str, distinct: pd.DataFrame, asked: pd.DataFrame) -> NDArray[np.floating[Any]]:
        """A feature of the ``distinct`` texts of ``asked``; errors about some name their places in ``asked``."""
        texts = list(distinct.itertuples(index=False, name=None))
        try:
            with naming(name) if name in self.signals else nullcontext():
                return self._features[name].values(*map(list, zip(*texts, strict=True)))
        except LongResponseError as error:
            tokens = {texts[place]: number for place, number in error.tokens.items()}
            of_asked = enumerate(asked.itertuples(index=False, name=None))
            long = {place: tokens[text] for place, text in of_asked if text in tokens}
            raise LongResponseError(str(error), long, error.limit) from None
        except (SignalError, ScorerError, EmbedderError) as error:
            at_fault = {texts[place] for place in error.places}
            of_asked = enumerate(asked.itertuples(index=False, name=None))
            error.places = [place for place, text in of_asked if text in at_fault]
            raise

    @staticmethod
    def save_pretrained(folder: str | Path, combiner: "Combiner", models: FeatureModels) -> None:
        """Save a combiner with the models whose features it was trained on, as those features name them.

        See :func:`realm_lib.features.kept.feature_models`. Raises :class:`ParamsError` where ``models`` lack the
        identity of one: what is saved could not be told from a reward of other models.
        """
        if set(models.identities) != set(models.features):
            raise ParamsError(
                f"identities must be of {', '.join(models.features)}, as feature_models of a run has them, not of "
                f"{', '.join(models.identities) or 'none'}"
            )
        combiner.save_pretrained(folder)
        write_json(Path(folder) / _FILE, models.to_dict() | {_COMBINER: _combiner_digest(Path(folder))})

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """The reward of a run, from the run's folder (``outputs/demo``) alone: with the models that it was trained on.

        A model of the hub is loaded in the commit that was trained on, whatever its branch is now. Raises
        :class:`realm_lib.runs.run.MissingStepError` when the run has no trained combiner, and :class:`ParamsError`
        naming both where a model, a signal's function or the combiner is another than the one that was saved.
        """
        run = Path(folder).resolve()
        file = Run(run).require("models", "combiner", _FILE, made_by="02_combiner_training")
        content = read_json(file)
        if set(content) - {_WORDS, _SIGNALS, _MODELS, _COMBINER} != _SECTIONS:
            raise ParamsError(f"{file}: must hold reward_model and embedding: run 02_combiner_training again")
        sections = {name: value for name, value in content.items() if name in {*_SECTIONS, _SIGNALS}}
        try:
            params = Params.from_sections(**{_SIGNALS: {}, **sections})
        except ParamsError as error:
            raise ParamsError(f"{file}: {error}") from error
        words = content.get(_WORDS, 0)  # 0 is what no file says
        if words is not None and (not isinstance(words, int) or isinstance(words, bool) or words < 1):
            raise ParamsError(
                f"{file}: {_WORDS} must be a number of words or null, as this version writes it: run "
                "01_feature_extraction and 02_combiner_training again"
            )
        identities = content.get(_MODELS)
        if not isinstance(identities, dict) or not all(isinstance(entry, dict) for entry in identities.values()):
            raise ParamsError(
                f"{file}: {_MODELS} must be what the models were that the combiner was trained on, as this version "
                f"writes it: {_AGAIN}"
            )
        from realm_lib.reward.combiner import Combiner

        combiner = Combiner.from_pretrained(file.parent)
        if _combiner_digest(file.parent) != content.get(_COMBINER):
            raise ParamsError(
                f"{file}: was saved with another combiner than the one that lies beside it: put that one back, or run "
                "notebook 02_combiner_training again"
            )
        models = FeatureModels(params.reward_model, params.embedding, words, params.signals, identities).of_commits()
        reward = cls(
            build_scorer(models.reward_model, run),
            build_embedder(models.embedding, run),
            combiner,
            signals={name: build_signal(name, signal, run) for name, signal in models.signals.items()},
            max_prompt_words=words,
        )
        if fault := changed(identities, identities_of(reward._features)):
            raise ParamsError(
                f"{file}: the combiner was trained on other models than there are now: {fault}. Put back what was "
                f"there, or {_AGAIN}"
            )
        reward.feature_models = models
        reward._run_folder = run
        return reward


def _combiner_digest(folder: Path) -> str:
    """Of a combiner's configuration, which holds the digest of its weights."""
    return hashlib.sha256((folder / "config.json").read_bytes()).hexdigest()


def _name_and_weights(identity: Mapping[str, Any]) -> str:
    name, weights = str(identity.get("model", "unnamed")), identity.get("weights")
    return f"{name}@{str(weights)[:DIGITS]}" if weights else name
