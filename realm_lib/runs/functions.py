"""Functions of the user's, named ``module:name`` in a profile."""

import hashlib
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from realm_lib.config.base import ParamsError, project_root
from realm_lib.config.signals import PythonSignal, SignalsParams

_loaded: dict[str, str] = {}
"""The digest of each module's file as it was when the module was loaded."""


class UserFunction(NamedTuple):
    """A function, the file that it is written in, and that file's SHA-256: an edited function has other values."""

    call: Callable[..., Any]
    file: Path
    digest: str


def load_function(reference: str) -> UserFunction:
    """The function that ``module:name`` names, as its file stands now, whatever was imported before.

    The working directory, the project's folder and its ``params/`` are where Python looks last. Raises
    :class:`ParamsError` for a module that cannot be imported, and for one in which no such function is written.
    """
    module_name, _, name = reference.partition(":")
    root = project_root()
    for folder in map(str, (Path.cwd(), root, root / "params")):
        if folder not in sys.path:
            sys.path.append(folder)
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(module_name)
        file = Path(module.__file__ or "")
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        if _loaded.setdefault(module_name, digest) != digest:
            module = importlib.reload(module)
            _loaded[module_name] = digest
    except Exception as error:
        raise ParamsError(
            f"{reference}: {module_name} cannot be imported: {type(error).__name__}: {error}. It is looked for where "
            f"Python looks, then in {Path.cwd()}, {root} and {root / 'params'}"
        ) from error
    function = getattr(module, name, None)
    if not callable(function) or getattr(function, "__module__", None) != module_name:
        # Of another file nobody would notice that it changed.
        raise ParamsError(f"{reference}: no function {name} is written in {file}")
    return UserFunction(function, file, digest)


def function_files(signals: SignalsParams) -> list[Path]:
    """The files that the functions of ``signals`` are written in.

    Raises :class:`ParamsError` naming the first signal whose function is not there.
    """
    files = []
    for name, signal in signals.items():
        if isinstance(signal, PythonSignal):
            try:
                files.append(load_function(signal.function).file)
            except ParamsError as error:
                raise ParamsError(f"signals.{name}.function: {error}") from error
    return files
