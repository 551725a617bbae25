"""A model's files on their way to another machine."""

from pathlib import Path

import pytest

from realm_lib.features.ray import recipe
from realm_lib.features.ray.recipe import placed, read_files, source_digest
from realm_lib.runs.weights import folder_digest


def test_a_folder_that_is_here_is_used_and_one_that_is_not_is_written(inform_folder: Path, tmp_path: Path) -> None:
    files = read_files(inform_folder)
    with placed(str(inform_folder), files) as place:
        assert place == inform_folder
    with placed(str(tmp_path / "elsewhere"), files) as place:
        assert place is not None
        assert place != inform_folder
        assert folder_digest(place) == folder_digest(inform_folder)
    assert not place.exists()
    with placed(None, None) as place:
        assert place is None


def test_a_gguf_file_travels_without_the_others_of_its_folder(tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    for name in ("a.gguf", "b.gguf", "config.json"):
        (here / name).write_text(name)
    files = read_files(here / "a.gguf")
    assert files == {"a.gguf": b"a.gguf", "config.json": b"config.json"}
    with placed(str(tmp_path / "there" / "a.gguf"), files) as place:
        assert place is not None
        assert place.name == "a.gguf"
        assert place.read_text() == "a.gguf"


def test_a_model_too_large_to_be_sent_must_lie_on_each_machine(
    inform_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipe, "_MOST_SENT", 1)
    assert read_files(inform_folder) is None
    with (
        pytest.raises(FileNotFoundError, match=r"too large to be sent .*: copy it to the same place on each machine"),
        placed(str(tmp_path / "elsewhere"), None),
    ):
        pytest.fail("nothing is there")


def test_the_source_is_the_same_in_every_process() -> None:
    assert source_digest() == source_digest()
    assert len(source_digest()) == 64
