"""What is looked at before a run: each model, each service and the disk, whose faults are collected."""

import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from realm_lib.config.base import ParamsError, reveal_secret
from realm_lib.config.embedding import EmbeddingParams
from realm_lib.config.reward_model import RewardModelParams
from realm_lib.config.rlhf import RlhfParams
from realm_lib.config.training import ProbeParams
from realm_lib.data.pairs import distinct_texts, posts_with
from realm_lib.features.lengths import text_lengths
from realm_lib.features.signals import ScoreSignal, SimilaritySignal
from realm_lib.features.similarity import quote_embeddings
from realm_lib.features.store import FeatureStore, text_key
from realm_lib.models.embedders import Embedder, EmbedderError, Quote, build_embedder
from realm_lib.models.embedders.asking import AskingEmbedder
from realm_lib.models.gguf_header import GGUFError
from realm_lib.models.hub import HubError, HubModel, cache_folder, look_up
from realm_lib.models.reward_models import LongResponseError, ScorerError, build_scorer
from realm_lib.models.throughput import BYTES_A_WEIGHT
from realm_lib.runs.weights import GGUF, locate_model

_GIB = 2**30
_NAMED = 3
_EXPECTED = (ParamsError, HubError, ScorerError, EmbedderError, GGUFError)


@dataclass(frozen=True)
class Outlined:
    """What is known of a reward model that runs here before its weights are read."""

    weights: float
    """How many, about: by the bytes that they take."""
    template: int
    """Tokens that its chat template adds to a text."""
    shares_prefixes: bool
    """Whether the responses to one prompt read it once."""


@dataclass
class Ahead:
    """What was found by a look ahead, and all that would stop the run."""

    found: list[tuple[str, str]] = field(default_factory=list)
    """What was looked at, and what was found."""
    faults: list[str] = field(default_factory=list)
    outlined: dict[str, Outlined] = field(default_factory=dict)
    """Reward models that run here, by their sections."""
    quotes: dict[str, Quote] = field(default_factory=dict)
    """What embedding by a service takes, by its section."""
    looked_up: dict[str, HubModel] = field(default_factory=dict)
    """Models of the hub that may be read, by their names."""


def distinct_of(pairs: Mapping[Any, pd.DataFrame]) -> pd.DataFrame:
    """The distinct (prompt, response) of several splits: columns prompt, response."""
    tables = [table[["history", "human_ref_A", "human_ref_B"]] for table in pairs.values()]
    return distinct_texts(pd.concat(tables, ignore_index=True))


class Checks:
    """The checks, and what they have found so far."""

    def __init__(
        self,
        pairs: Mapping[str, pd.DataFrame],
        store: FeatureStore,
        run_folder: Path,
        asked: pd.DataFrame | None,
        *,
        own_models: bool,
        expected: tuple[int, int],
        here: bool,
    ) -> None:
        self.pairs = pairs
        self.expected = expected
        self.store = store
        self.run_folder = run_folder
        self.own_models = own_models
        self.here = here
        """Whether models run on this machine."""
        self.texts = distinct_of(pairs) if asked is None else asked
        self._looked_at = "responses" if asked is None else "responses that were looked at, a sample and the long ones"
        self.prompts: list[Any] = self.texts["prompt"].tolist()
        self.responses: list[str] = self.texts["response"].tolist()
        self.ahead = Ahead()
        self._models: dict[tuple[str, str | None], HubModel] = {}
        self._unpacked: dict[Path, int] = {}
        """Bytes that GGUF files' weights will take, by the folders into which they are unpacked."""
        self._stored = 0
        """Bytes that the feature store will take, estimated."""

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """What is raised inside is one of the faults, and ``name`` is said before it."""
        try:
            yield
        except _EXPECTED as error:
            said = str(error)
            self.ahead.faults.append(said if said.startswith(name) else f"{name}: {said}")

    def reward_model(self, name: str, params: RewardModelParams, *, judges: bool = False) -> None:
        """Key, servers, configuration and memory of the reward model of the section ``name``, and what it refuses.

        One that ``judges`` reads no pairs, but answers that nobody has written yet, and nothing of it is stored.
        """
        if params.backend == "nim":
            scorer = build_scorer(params)
            if not judges:
                self._refuse(ScoreSignal(scorer).refused(self.prompts, self.responses))
            if judges or not self._all_stored("score", scorer.identity):
                reveal_secret(params.api_key or "${NVIDIA_API_KEY}")
            self.ahead.found.append((name, f"{params.model_id}: its key is set"))
            return
        if params.model_id.startswith("run:") and not self.own_models:
            self.ahead.found.append((name, f"{params.model_id}: notebook 00 trains it here: nothing to look at before"))
            return
        # Late: torch, which takes seconds to import, is for models whose layers are looked at.
        from realm_lib.models.reward_models.forward import SHARING_MODELS
        from realm_lib.models.reward_models.outline import outlined_encoder, read_outline
        from realm_lib.models.reward_models.vllm import VLLMScorer

        if params.backend == "vllm":
            served = VLLMScorer(params, self.run_folder)
            outline, encoder = served.outline, served.encoder
        else:
            self._look_up(params.model_id, params.revision)
            outline = read_outline(params, self.run_folder, here=self.here)
            encoder = outlined_encoder(outline, params)
        if not judges:
            self._refuse(text_lengths(encoder, self.prompts, self.responses, self.store)[1])
        self.ahead.outlined[name] = Outlined(
            outline.memory.weights / BYTES_A_WEIGHT[params.quantization or params.dtype],
            len(encoder.encode(["a"], ["a"])[0].ids) - 2,
            outline.config.model_type in SHARING_MODELS,
        )
        said = str(outline.memory)
        if params.backend == "vllm":  # a server of one's own, which costs nothing to ask
            stored = not judges and self._all_stored("score", served.identity)
            said = f"{params.model_id}: {'its scores are stored' if stored else served.check_endpoints()}"
        if judges:
            self.ahead.found.append((name, said))
            return
        self.ahead.found.append((name, f"{said}; reads all {len(self.texts):,} {self._looked_at}"))
        self._stored += 60 * len(self.texts)

    def embedding(self, name: str, params: EmbeddingParams) -> None:
        """Key and cost, or whether it may be read, of the embedding model of the section ``name``; what it refuses."""
        if params.model_id.startswith("run:") and not self.own_models:
            self.ahead.found.append((name, self._within_reach(params.model_id)))
            return
        if params.backend == "sentence_transformers":
            self._look_up(params.model_id, params.revision)
            if params.long_texts == "refuse":  # the one thing for which an embedder that runs here is loaded first
                embedder = build_embedder(params, self.run_folder)
                self._refuse(SimilaritySignal(embedder).refused(self.prompts, self.responses))
            self.ahead.found.append((name, self._within_reach(params.model_id)))
            return
        embedder = build_embedder(params, self.run_folder)
        self._refuse(SimilaritySignal(embedder).refused(self.prompts, self.responses))
        quote = self._quote(embedder)
        self.ahead.found.append((name, f"{params.model_id}: {quote}"))
        if quote is not None:
            self.ahead.quotes[name] = quote
        self._stored += (4 * embedder.dimensions + 60) * (quote.texts if quote else 0)

    def _quote(self, embedder: Embedder) -> Quote | None:
        if self.pairs or not isinstance(embedder, AskingEmbedder):
            return quote_embeddings(self.pairs.values(), embedder, self.store)
        texts, tokens = self.expected
        embedder.authorise(Quote(max(texts, 1), tokens, cost=0.0, cut=0))  # whether its key is set
        return Quote(texts, tokens, tokens * embedder.dollars_per_token, cut=0)

    def probe(self, name: str, params: ProbeParams) -> None:
        """Configuration and memory of the language model under a probe that notebook 00 is going to train."""
        from realm_lib.models.hidden_states import outline_backbone  # late: as in reward_model

        self._look_up(params.backbone, params.revision)
        outline, _ = outline_backbone(params)
        self.ahead.found.append((name, f"{outline.memory}; read as far as layer {outline.config.num_hidden_layers}"))

    def rlhf(self, rlhf: RlhfParams) -> None:
        """Secrets that the trainings send, whether their policies may be read, and judges that are reward models."""
        server, vllm = rlhf.reward_server, rlhf.ppo.vllm
        secrets = {
            "rlhf.reward_server.token": None if server is None else server.token,
            "rlhf.ppo.vllm.api_key": None if vllm is None else vllm.api_key,
        }
        for name, reference in secrets.items():
            with self.of(name):
                if reference is not None:
                    reveal_secret(reference)
        for name, policy in {"rlhf.ppo.model_name": rlhf.ppo, "rlhf.dpo.model_name": rlhf.dpo}.items():
            if policy is not None:
                with self.of(name):
                    self._look_up(policy.model_name, policy.revision)
                    self.ahead.found.append((name, self._within_reach(policy.model_name)))
        for judge, source in rlhf.judges.items():
            if isinstance(source, RewardModelParams):
                with self.of(name := f"rlhf.judges.{judge}"):
                    self.reward_model(name, source, judges=True)

    def disk(self, outputs: int) -> None:
        """Downloads, unpacked weights, the feature store and the run's ``outputs``, by the file systems they lie on."""
        needs: dict[int, tuple[Path, int]] = {}
        missing = sum(model.missing for model in self._models.values())
        places = [(cache_folder(), missing), (self.store.folder, self._stored), (self.run_folder, outputs)]
        for folder, size in [*self._unpacked.items(), *places]:
            place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
            device = place.stat().st_dev
            needs[device] = place, needs.get(device, (place, 0))[1] + size
        for place, size in needs.values():
            free = shutil.disk_usage(place).free
            said = f"about {size / _GIB:.1f} GiB to download and to store, {free / _GIB:.1f} GiB free at {place}"
            if size > free:
                self.ahead.faults.append(f"disk: {said}: free some, or let HF_HOME name a folder on a larger one")
            self.ahead.found.append(("disk", said))

    def _look_up(self, model_id: str, revision: str | None) -> None:
        """Look each model up once: one of the hub's there, another by its place, a GGUF file by its header."""
        if model_id.startswith("run:"):
            return
        if isinstance(place := locate_model(model_id), Path):
            if place.is_file() or any(place.glob(f"*{GGUF}")):
                self._gguf(place)
            return
        if (model_id, revision) not in self._models:
            try:
                self._models[model_id, revision] = look_up(model_id, revision)
            except HubError as error:
                raise HubError(f"{model_id}: {error}") from error
            self.ahead.looked_up[model_id] = self._models[model_id, revision]

    def _gguf(self, place: Path) -> None:
        """Look at the GGUF file that ``place`` means, and at what its weights will take that are not unpacked yet."""
        # Late: torch, which takes seconds to import.
        from realm_lib.models.gguf import find_gguf, gguf_config
        from realm_lib.models.gguf_conversion import unpacked_folder, unpacked_size

        if (file := find_gguf(place)) is not None:
            gguf_config(file)
            folder = unpacked_folder(file)
            self._unpacked[folder] = 0 if folder.is_dir() else unpacked_size(file)

    def _within_reach(self, model_id: str) -> str:
        here = f"{model_id} is {'made by notebook 00' if model_id.startswith('run:') else 'on this machine'}"
        return str(self.ahead.looked_up.get(model_id, here))

    def _all_stored(self, kind: str, identity: Mapping[str, Any]) -> bool:
        if not self.store.has_table(kind, identity):
            return False
        table = self.store.table(kind, identity, 1)
        stored = all(text_key(*text) in table for text in zip(self.prompts, self.responses, strict=True))
        table.close()
        return stored

    def _refuse(self, refused: Mapping[int, Exception]) -> None:
        """Raise :class:`ScorerError` for the texts that have no number, the splits and posts of some named."""
        if not refused:
            return
        first = [re.sub(r"^text 0 ", "a text ", str(refused[index])) for index in list(refused)[:_NAMED]]
        long = sum(isinstance(error, LongResponseError) for error in refused.values())
        splits, posts = self._places(list(refused))
        raise ScorerError(
            f"{len(refused):,} of {len(self.texts):,} responses, of {splits}, have no number ({long:,} for their "
            f"length; post_id {posts}): {'; '.join(first)}"
        )

    def _places(self, indices: Sequence[int]) -> tuple[str, str]:
        """The splits that hold some of the texts, and the first of their posts."""
        at_fault = self.texts.iloc[list(indices)]
        held = {split: posts_with(at_fault, table) for split, table in self.pairs.items()}
        posts = dict.fromkeys(post for of_split in held.values() for post in of_split)
        return " and ".join(split for split in held if held[split]), ", ".join(list(posts)[:5])
