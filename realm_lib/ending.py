"""How a command ends where something goes wrong: with one message on standard error, and an exit code.

0 done, 1 an error that the message helps to mend, 2 a command that was mistyped, 70 a fault of REALM, 130 interrupted.
"""

import os
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

REPORTED_AT = "https://github.com/Thin-Equation/realm/issues"
FAULT = 70
"""What sysexits.h calls an error of the program itself."""


@contextmanager
def one_message() -> Iterator[None]:
    """End the process where the block fails: the library's errors, and the system's, are a message and exit code 1.

    Anything else is a fault of REALM: its traceback goes to a file that the message names, and the exit code is 70.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal's encoding may lack a letter, and a path need be none
            stream.reconfigure(errors="backslashreplace")
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        # Said after the flush: what the command has printed stands before its end.
        full = _flush()
        message = full or _told(error)
        if message is not None:
            sys.exit(f"realm: {message}")
        print(f"realm: {_reported(error)}", file=sys.stderr)
        sys.exit(FAULT)


def _told(error: Exception) -> str | None:
    """What to say of an error that a user can mend; None for any other."""
    if type(error).__module__.startswith("realm_lib.") and isinstance(error, (ValueError, OSError, RuntimeError)):
        return str(error)
    if isinstance(error, MemoryError):
        return "memory ran out: take fewer rows or a smaller batch at once, or end other programs"
    if type(error) is RuntimeError and str(error).startswith("Symlink loop from"):  # pathlib's ELOOP, before 3.13
        return f"{error}: take the link away"
    if isinstance(error, OSError) and error.errno is not None and error.strerror:
        name = error.filename2 or error.filename
        return f"{os.fsdecode(name)}: {error.strerror}" if isinstance(name, (str, bytes)) else error.strerror
    return None


def _flush() -> str | None:
    """Why standard output takes nothing more; None where all that was printed has gone out."""
    if sys.stdout is None:
        return None
    try:
        sys.stdout.flush()
    except OSError as error:
        # Python flushes once more as it ends, and would add a traceback of its own.
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return f"standard output: {error.strerror}"
    return None


def _reported(error: Exception) -> str:
    """Write the traceback where only this user can read it; what to do with it."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{type(error).__name__} in {Path(last.filename).name}, line {last.lineno}"
    try:
        descriptor, name = tempfile.mkstemp(prefix="realm-fault-", suffix=".txt")
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write("".join(traceback.format_exception(error)))
    except OSError as failure:
        return (
            f"a fault of REALM, not of yours: {place}. Its traceback could not be kept ({failure.strerror}): free some "
            f"space, run the command again, and report the fault at {REPORTED_AT}"
        )
    return (
        f"a fault of REALM, or a file of a run that was changed by hand: {place}. Please report it at {REPORTED_AT} "
        f"with its traceback, which may quote your data: {name}"
    )
