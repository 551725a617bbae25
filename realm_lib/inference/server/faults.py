"""A fault of ours in the log: what kind and where, without its message, which may hold a text."""

import traceback
from pathlib import Path


def describe_fault(error: BaseException) -> str:
    """As ``KeyError at app.py:12 in predict, reward.py:80 in explain``."""
    frames = traceback.extract_tb(error.__traceback__)
    calls = [f"{Path(frame.filename).name}:{frame.lineno} in {frame.name}" for frame in frames]
    return f"{type(error).__name__} at {', '.join(calls)}"
