"""What every section of a profile is, the folder that paths start from, and the secrets behind ``${NAME}``."""

import os
import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict

_SECRET = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


class ParamsError(ValueError):
    """A parameter file, a section or an override that cannot be used; the message names the file and the key."""


def project_root() -> Path:
    """The folder that relative paths of a profile start from.

    The nearest folder at or above the working directory that holds both ``notebooks`` and ``params``, so that a
    notebook opened in JupyterLab, a run by make and a Python session mean the same files; elsewhere the working
    directory itself.
    """
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "notebooks").is_dir() and (folder / "params").is_dir():
            return folder
    return here


def resolve_path(path: str) -> Path:
    """``path`` with ``~`` expanded, made absolute from :func:`project_root`."""
    return (project_root() / Path(path).expanduser()).resolve()


def _check_secret(value: str | None) -> str | None:
    if value is not None and not _SECRET.fullmatch(value):
        # The value itself is not repeated: it may be the secret.
        raise ValueError('write the name of an environment variable, as in "${GEMINI_API_KEY}", never the key itself')
    return value


SecretReference = Annotated[str | None, AfterValidator(_check_secret)]


def reveal_secret(reference: str) -> str:
    """The value behind ``${NAME}``, from the environment or from the project's ``.env`` file.

    Call it only where the secret is sent. Raises :class:`ParamsError` naming the variable when it is not set.
    """
    match = _SECRET.fullmatch(reference)
    if match is None:
        raise ParamsError('a secret is written "${NAME}"')
    name = match.group(1)
    value = os.environ.get(name)
    if not value:
        from dotenv import dotenv_values

        value = dotenv_values(project_root() / ".env").get(name)
    if not value:
        raise ParamsError(f"{name} is not set: export it, or write it into .env (see .env.example)")
    return value


def share_hub_token() -> None:
    """Give a HF_TOKEN that stands in ``.env`` to the hub's client, which looks into the environment only."""
    if not os.environ.get("HF_TOKEN"):
        from dotenv import dotenv_values

        if token := dotenv_values(project_root() / ".env").get("HF_TOKEN"):
            os.environ["HF_TOKEN"] = token


class Secret:
    """The key behind ``${NAME}``. It is shown as the name, cannot be pickled, and is read when it is sent."""

    def __init__(self, reference: str) -> None:
        self._reference = reference

    def __repr__(self) -> str:
        return f"Secret({self._reference})"

    def __reduce__(self) -> str | tuple[object, ...]:
        """Refuse to be pickled: a pickle would be a file with a way to the key in it."""
        raise TypeError("a Secret is not pickled")

    def reveal(self) -> str:
        """The key itself. Raises :class:`realm_lib.config.base.ParamsError` naming the variable when it is not set."""
        return reveal_secret(self._reference)

    def hide(self, text: str) -> str:
        """``text`` with the key replaced by its name: services have been seen to repeat a key in an error."""
        return text.replace(self.reveal(), self._reference)


class Section(BaseModel):
    """A section of a profile: frozen, typed strictly, closed to unknown keys."""

    # hide_input_in_errors: a mistyped api_key must not be repeated in a traceback.
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        protected_namespaces=(),
        hide_input_in_errors=True,
    )
