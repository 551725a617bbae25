"""How a command ends: one message, an exit code, and the traceback of what nobody expected in a file."""

import errno
import io
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from realm_lib.config.base import ParamsError
from realm_lib.ending import FAULT, one_message


def ending(error: BaseException) -> object:
    with pytest.raises(SystemExit) as ended, one_message():
        raise error
    return ended.value.code


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ParamsError("params.yaml: seed: unknown key"), "realm: params.yaml: seed: unknown key"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "aaa"), "realm: aaa: File name too long"),
        (PermissionError(errno.EACCES, "Permission denied", b"runs/\xff"), "realm: runs/\udcff: Permission denied"),
        (OSError(errno.EXDEV, "Invalid cross-device link", "a", None, "b"), "realm: b: Invalid cross-device link"),
        (OSError(errno.ENOSPC, "No space left on device"), "realm: No space left on device"),
        (MemoryError(), "realm: memory ran out"),
    ],
    ids=["ours", "long_name", "not_unicode", "two_names", "no_name", "memory"],
)
def test_what_can_be_mended_is_one_message(error: BaseException, message: str) -> None:
    code = ending(error)
    assert isinstance(code, str)
    assert code.startswith(message)
    assert "\n" not in code


def test_an_interruption_is_130() -> None:
    assert ending(KeyboardInterrupt()) == 130


@pytest.mark.parametrize("error", [KeyError("x"), ValueError("x"), OSError("no number"), AssertionError()], ids=repr)
def test_a_fault_is_reported_with_its_traceback_for_this_user_alone(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert ending(error) == FAULT
    (kept,) = tmp_path.iterdir()
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert str(kept) in said
    assert kept.stat().st_mode & 0o777 == 0o600
    assert "Traceback (most recent call last)" in kept.read_text(encoding="utf-8")
    assert type(error).__name__ in kept.read_text(encoding="utf-8")


def test_a_fault_that_cannot_be_kept_is_still_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    assert ending(KeyError("x")) == FAULT
    assert "KeyError in test_ending.py" in capsys.readouterr().err


def test_a_letter_that_the_terminal_lacks_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    with one_message():
        print("bread \N{BREAD}")
        sys.stdout.flush()
    assert written.getvalue() == b"bread \\U0001f35e\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_output_is_one_message() -> None:
    """Python itself would flush once more as it ends, fail again and print a traceback."""
    program = "from realm_lib.ending import one_message\nwith one_message():\n    print('x', flush=True)"
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", program], stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=300
        )
    assert done.returncode == 1
    assert done.stderr == f"realm: {os.strerror(errno.ENOSPC)}\n"
