"""Pieces and their values as Ray carries them: a block is a row, its content packed into bytes.

Texts are JSON, which holds every Python text, and a prompt stands in it once however many responses it has.
"""

import json
import zlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from realm_lib.features.filling import Piece
from realm_lib.models.embedders import EmbedderError
from realm_lib.models.reward_models import ScorerError


def pack_texts(number: int, piece: Piece) -> pa.Table:
    """The block of a piece: columns piece, texts."""
    distinct: dict[str, int] = {}
    rows = [[distinct.setdefault(text, len(distinct)) for text in texts] for texts in piece]
    packed = zlib.compress(json.dumps([list(distinct), rows]).encode(), level=1)
    return pa.table({"piece": pa.array([number], pa.int64()), "texts": pa.array([packed], pa.binary())})


def unpack_texts(packed: bytes) -> list[list[str]]:
    """The texts of a piece, a list for prompts and one for responses, or one alone."""
    distinct, rows = json.loads(zlib.decompress(packed))
    return [[distinct[index] for index in column] for column in zip(*rows, strict=True)]


def pack_values(number: int, values: NDArray[np.float32]) -> pa.Table:
    """The block of an answer: columns piece, width, values, fault."""
    rows = values.reshape(len(values), -1)
    return _answer(number, rows.shape[1], rows.astype("<f4").tobytes(), "")


def pack_fault(number: int, error: ScorerError | EmbedderError) -> pa.Table:
    """The same for a piece that has no values: Ray would wrap the error itself in its own, with its traceback."""
    of_scorer = isinstance(error, ScorerError)
    return _answer(number, 0, b"", json.dumps([of_scorer, str(error), list(error.places)]))


def unpack_answer(block: pa.Table) -> Sequence[tuple[int, NDArray[np.float32]]]:
    """The pieces of a block and their values, float32 [n, width]. Raises the error of a piece that has none."""
    answers = []
    for row in block.to_pylist():
        if row["fault"]:
            of_scorer, message, places = json.loads(row["fault"])
            raise (ScorerError if of_scorer else EmbedderError)(message, places)
        answers.append((row["piece"], np.frombuffer(row["values"], "<f4").reshape(-1, row["width"])))
    return answers


def _answer(number: int, width: int, values: bytes, fault: str) -> pa.Table:
    return pa.table(
        {
            "piece": pa.array([number], pa.int64()),
            "width": pa.array([width], pa.int64()),
            "values": pa.array([values], pa.binary()),
            "fault": pa.array([fault], pa.string()),
        }
    )
