"""The versions that a notebook ran with, in one line."""

import platform
from importlib.metadata import version


def show_versions(*packages: str) -> None:
    """Print the versions of Python, of realm_lib and of ``packages``, as ``Python 3.11.7 · realm_lib 0.1.0 · …``.

    Nothing is imported for it. Raises :class:`importlib.metadata.PackageNotFoundError` for one that is not installed.
    """
    own = [f"Python {platform.python_version()}", f"realm_lib {version('realm-lib')}"]
    print(" · ".join([*own, *(f"{package} {version(package)}" for package in packages)]))
