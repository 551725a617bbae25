"""The line of versions that each notebook prints."""

import platform
from importlib.metadata import PackageNotFoundError, version

import pytest

from realm_lib.runs.versions import show_versions


def test_the_line_names_python_the_library_and_what_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    show_versions("torch", "scikit-learn")
    assert capsys.readouterr().out == (
        f"Python {platform.python_version()} · realm_lib {version('realm-lib')} · "
        f"torch {version('torch')} · scikit-learn {version('scikit-learn')}\n"
    )


def test_a_package_that_is_not_there_is_an_error() -> None:
    with pytest.raises(PackageNotFoundError, match="no-such-package"):
        show_versions("no-such-package")
