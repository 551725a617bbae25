"""What parameters mean on this machine: the folder that paths start from, and the secrets behind ``${NAME}``."""

import os
import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

__all__ = ["ParamsError", "SecretReference", "project_root", "resolve_path", "reveal_secret"]

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
