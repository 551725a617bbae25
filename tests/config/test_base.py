"""The project's folder, and secrets that stay names until they are sent."""

import os
from pathlib import Path

import pytest
from support.profiles import LITERAL, profile

from realm_lib.config.base import ParamsError, project_root, resolve_path, reveal_secret, share_hub_token
from realm_lib.config.profile import Params


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for folder in ("notebooks", "params"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    monkeypatch.delenv("REALM_TEST_KEY", raising=False)
    return tmp_path


def test_env_file_is_honoured_and_the_shell_wins(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ParamsError, match=r"REALM_TEST_KEY is not set: export it, or write it into \.env"):
        reveal_secret("${REALM_TEST_KEY}")
    (project / ".env").write_text("REALM_TEST_KEY=from-the-file\n")
    assert reveal_secret("${REALM_TEST_KEY}") == "from-the-file"
    monkeypatch.setenv("REALM_TEST_KEY", "from-the-shell")
    assert reveal_secret("${REALM_TEST_KEY}") == "from-the-shell"


def test_the_hubs_token_is_taken_from_the_env_file_too(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "from-the-shell")
    (project / ".env").write_text("HF_TOKEN=from-the-file\n")
    share_hub_token()
    assert os.environ["HF_TOKEN"] == "from-the-shell"
    monkeypatch.setenv("HF_TOKEN", "")
    share_hub_token()
    assert os.environ["HF_TOKEN"] == "from-the-file"


@pytest.mark.usefixtures("project")
def test_revealing_something_else_does_not_repeat_it() -> None:
    with pytest.raises(ParamsError) as caught:
        reveal_secret(LITERAL)
    assert LITERAL not in str(caught.value)


def test_relative_paths_start_at_the_project(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert project_root() == project
    assert resolve_path("a/b") == project / "a" / "b"
    assert resolve_path("../a") == project.parent / "a"
    assert resolve_path("~") == Path.home().resolve()
    assert Params.from_sections(**profile()).run.folder == project / "outputs" / "trial"
    (project / "params").rmdir()
    monkeypatch.chdir(project)
    assert project_root() == project
