"""Typed parameters: what a profile may say, and the errors when it says something else.

A profile is one YAML file whose top-level keys are the sections below. Unknown keys and mistyped values are refused
with the file and the key. Secrets are written ``${NAME}`` and stay so in every object, file and log: only the client
that sends one reads the environment, through :func:`reveal_secret`.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, NoReturn, Self

import yaml
from pydantic import BaseModel, Field, ValidationError

from realm_lib.config.base import ParamsError, Section, resolve_path
from realm_lib.config.data import DataParams
from realm_lib.config.embedding import EmbeddingParams
from realm_lib.config.reward_model import RewardModelParams
from realm_lib.config.rlhf import (
    RlhfParams,
)
from realm_lib.config.training import ModelParams, OfflineModelsParams, TrainingParams

__all__ = ["Params", "RunParams", "dump_yaml", "load_params"]


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
