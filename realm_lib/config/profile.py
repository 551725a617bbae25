"""Typed parameters: what a profile may say, and the errors when it says something else.

A profile is one YAML file whose top-level keys are the sections below; what it leaves out is the typed default. Unknown
keys and mistyped values are refused with the file and the key. Secrets are written ``${NAME}`` and stay so in every
object, file and log: only the client that sends one reads the environment, through
:func:`realm_lib.config.base.reveal_secret`.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Self, get_type_hints

from pydantic import TypeAdapter, ValidationError

from realm_lib.config.base import ParamsError, Section
from realm_lib.config.data import DataParams
from realm_lib.config.embedding import EmbeddingParams
from realm_lib.config.feature_models import FEATURES
from realm_lib.config.overrides import merge_override
from realm_lib.config.reward_model import RewardModelParams
from realm_lib.config.rlhf import RlhfParams
from realm_lib.config.run import RunParams
from realm_lib.config.signals import SignalsParams
from realm_lib.config.text import read_yaml, write_yaml
from realm_lib.config.training import ModelParams, OfflineModelsParams, TrainingParams


def _given(name: str) -> Any:
    """A read-only attribute: the section ``name``, or an error that names it where it was not given."""

    def get(params: "Params") -> Any:
        if name not in params.sections:
            raise ParamsError(f"section {name!r} is not in this notebook's parameters cell")
        return params.sections[name]

    return property(get)


class Params:  # noqa: PLW1641, its sections hold lists: there is nothing to hash
    """The sections of a profile: all of them, or those that a notebook uses."""

    run: RunParams = _given("run")
    reward_model: RewardModelParams = _given("reward_model")
    embedding: EmbeddingParams = _given("embedding")
    signals: SignalsParams = _given("signals")
    data: DataParams = _given("data")
    model: ModelParams = _given("model")
    training: TrainingParams = _given("training")
    offline_models: OfflineModelsParams | None = _given("offline_models")
    rlhf: RlhfParams | None = _given("rlhf")

    def __init__(self, sections: Mapping[str, Section | SignalsParams | None]) -> None:
        self.sections: Final = sections

    @classmethod
    def from_sections(cls, **sections: Mapping[str, Any] | None) -> Self:
        """Validate the plain dicts of a notebook's ``parameters`` cell.

        Raises :class:`ParamsError` for an unknown section or key and for a mistyped value.
        """
        return cls(_validated(sections, "the notebook's parameters cell"))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Params) and self.sections == other.sections

    def __repr__(self) -> str:
        return f"Params({self.sections})"


_TYPES = {name: TypeAdapter(kind) for name, kind in get_type_hints(Params, include_extras=True).items()}
SECTIONS = tuple(_TYPES)
"""The names of the sections, in a profile's order."""


def load_params(path: str | Path, overrides: Iterable[str] = ()) -> Params:
    """Read a profile and merge overrides into it.

    ``overrides`` are ``section.key=value`` strings, the value in YAML, merged deeply: ``training.seed=7``.
    Raises :class:`ParamsError` naming the file and the key for anything that the profile may not say.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ParamsError(f"{path}: no such parameter file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path}: cannot be read: {error}") from None
    content = read_yaml(text, f"{path}:")
    if not isinstance(content, dict):
        raise ParamsError(f"{path}: a profile is a mapping of sections, found {type(content).__name__}")
    source = str(path)
    for override in overrides:
        merge_override(content, override)
        source = f"{path} with overrides"
    return Params(_validated({"signals": {}, "offline_models": None, "rlhf": None} | content, source, SECTIONS))


def dump_yaml(params: Params, sections: Iterable[str] | None = None) -> str:
    """The parameters (or only ``sections`` of them), every default written out, as YAML that reads back equal."""
    chosen = {name: params.sections[name] for name in (params.sections if sections is None else sections)}
    return write_yaml({name: _TYPES[name].dump_python(section, mode="json") for name, section in chosen.items()})


def _validated(content: Mapping[str, Any], source: str, required: Iterable[str] = ()) -> dict[str, Any]:
    """The sections of ``content``, in a profile's order. Raises :class:`ParamsError` with a line for each fault."""
    faults = [f"{name}: unknown section; there are {', '.join(SECTIONS)}" for name in content if name not in SECTIONS]
    faults += [f"{name}: missing" for name in required if name not in content]
    sections = {}
    for name in [name for name in SECTIONS if name in content]:
        try:
            sections[name] = _TYPES[name].validate_python(content[name])
        except ValidationError as error:
            faults += _faults(error, name)
    if required and "signals" in sections:
        faults += _feature_faults(sections.get("model"), sections["signals"])
        faults += _offline_faults(sections)
    if faults:
        raise ParamsError("\n".join(f"{source}: {fault}" for fault in faults))
    return sections


def _feature_faults(model: Section | None, signals: Iterable[str]) -> Iterator[str]:
    """A line for what the section ``model`` says of features that are not there."""
    features = [*FEATURES, *signals]
    if not isinstance(model, ModelParams):
        return
    if model.input_dim not in (None, len(features)):
        yield f"model.input_dim: {model.input_dim}, but the features are {', '.join(features)}"
    for name in model.monotone:
        if name not in features:
            yield f"model.monotone: {name!r} is no feature; there are {', '.join(features)}"


def _offline_faults(sections: Mapping[str, Any]) -> Iterator[str]:
    """A line for each model that is notebook 00's to train and not asked of it, and where it has no pairs to do so."""
    offline, data = sections.get("offline_models"), sections.get("data")
    if not isinstance(offline, OfflineModelsParams):
        return
    if isinstance(data, DataParams) and not data.reward_model_share:
        yield "data.reward_model_share: 0, but offline_models are trained on that share of the training posts"
    judges = offline.probe is not None and offline.probe.judge
    asked = {
        "run:models/reward_model": ("reward_model", offline.reward_model is not None),
        "run:models/policy_sft": ("policy", offline.policy is not None),
        "run:models/probe": ("probe", offline.probe is not None),
        "run:models/judge": ("probe.judge", judges),
    }
    for name, section in sections.items():
        for key, text in _texts(_TYPES[name].dump_python(section, mode="json"), name):
            maker, is_asked = asked.get(text, ("", True))
            if not is_asked:
                yield f"{key}: {text}, but offline_models.{maker} is not asked for: nothing trains it"


def _texts(content: Any, key: str) -> Iterator[tuple[str, str]]:
    """The texts in a section, each with its key."""
    if isinstance(content, Mapping):
        for name, value in content.items():
            yield from _texts(value, f"{key}.{name}")
    elif isinstance(content, str):
        yield key, content


def _faults(error: ValidationError, section: str) -> Iterator[str]:
    """A line for each fault of a section: the key, what is wrong, what was found."""
    for fault in error.errors(include_url=False, include_input=True):
        place = [str(part) for part in fault["loc"]]
        if section == "signals":
            del place[1:2]  # the signal's kind once more, or that the fault is in its name
        key = ".".join([section, *place])
        kind, value = fault["type"], fault["input"]
        message = fault["msg"].removeprefix("Value error, ")
        if kind == "extra_forbidden":
            message = "unknown key"
        elif kind == "missing":
            message = "missing"
        elif kind == "union_tag_not_found":
            key, message = f"{key}.kind", "missing"
        elif kind in ("model_type", "model_attributes_type", "dict_type", "mapping_type"):
            message = f"a section is a mapping of keys, not a {type(value).__name__}"
        elif kind.endswith(("_type", "_parsing")) and not key.endswith("api_key"):
            # A list or mapping is not repeated: there may be a key somewhere in it.
            plain = value is None or isinstance(value, (str, int, float))
            message += f", not {value!r}" if plain else f", not a {type(value).__name__}"
            if isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value):
                message += " (YAML reads 1e-3 as text: write 1.0e-3)"
        yield f"{key}: {message}"
