"""Packages that only some profiles need, and that an installation has where it was asked for them."""

import importlib.metadata

from realm_lib.config.base import ParamsError
from realm_lib.config.run import RunParams


def check_engine(params: RunParams) -> None:
    """Raise :class:`ParamsError` with the line that installs it where what ``run.engine`` needs is missing."""
    if params.engine == "local":
        return
    try:
        importlib.metadata.version("ray")
    except importlib.metadata.PackageNotFoundError:
        raise ParamsError(
            "run.engine ray: Ray is not installed: .venv/bin/pip install -c constraints.txt -e '.[ray]' (run.engine "
            "local needs none)"
        ) from None
