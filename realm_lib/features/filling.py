"""Computing what a table of the feature store lacks, in pieces that are committed one by one."""

import random
from collections.abc import Callable, Generator, Hashable, Sequence
from contextlib import closing
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from realm_lib.features.store import FeatureTable
from realm_lib.models.embedders import EmbedderError
from realm_lib.models.reward_models import ScorerError

Piece = Sequence[tuple[str, ...]]
"""Some of the texts that a model is asked about, as (prompt, response) or (text,)."""


@runtime_checkable
class Pooled(Protocol):
    """A model of which several copies compute side by side, a piece each at a time."""

    def compute_pieces(self, pieces: Sequence[Piece]) -> Generator[tuple[int, NDArray[np.float32]]]:
        """The index of a piece and its values, [n, width], as they are finished; the first error ends it."""


class OverPool(NamedTuple):
    """The texts behind some keys, and the pool that computes them."""

    pool: Pooled
    texts: Sequence[tuple[str, ...]]


def fill(
    table: FeatureTable,
    keys: Sequence[bytes],
    compute: Callable[[Sequence[int]], NDArray[np.float32]] | OverPool,
    *,
    order: Sequence[int],
    groups: Sequence[Hashable],
    sizes: NDArray[np.int64],
    unit: str,
    batch_size: int,
    label: str | None,
) -> list[int]:
    """Compute and commit what ``table`` lacks, in pieces of neighbours in ``order``; returns the indices computed.

    ``sizes``, in ``unit`` (tokens or characters), are what progress is counted in. Raises what ``compute`` raises; what
    came back before is committed.
    """
    missing = [index for index in order if keys[index] not in table]
    pieces = _pieces(missing, groups, batch_size)
    answers = _from_pool(compute, pieces) if isinstance(compute, OverPool) else _here(compute, pieces, table, keys)
    computed: list[int] = []
    total = int(sizes[missing].sum())
    with (
        tqdm(total=total, desc=label, unit=unit, unit_scale=True, disable=label is None, mininterval=1.0) as bar,
        closing(answers),
    ):
        done = 0
        for piece, batch, values in answers:
            if batch:
                table.put([keys[index] for index in batch], values)
            computed += batch
            done += len(piece)
            bar.set_postfix_str(f"{done:,} of {len(missing):,} texts", refresh=False)
            bar.update(int(sizes[piece].sum()))
    return computed


_Answers = Generator[tuple[list[int], list[int], NDArray[np.float32]]]
"""A piece, the indices of it that were computed, and their values."""


def _here(
    compute: Callable[[Sequence[int]], NDArray[np.float32]],
    pieces: list[list[int]],
    table: FeatureTable,
    keys: Sequence[bytes],
) -> _Answers:
    """The pieces one by one, in a random order of this process's own.

    Two that share a store and began together would otherwise compute each piece at the same moment, and neither would
    gain.
    """
    random.SystemRandom().shuffle(pieces)  # not the run's seed, which every process has
    for piece in pieces:
        table.refresh()  # another process may have done some of them by now
        batch = [index for index in piece if keys[index] not in table]
        yield piece, batch, compute(batch) if batch else np.empty((0, table.width), dtype=np.float32)


def _from_pool(over: OverPool, pieces: list[list[int]]) -> _Answers:
    """The pieces as they come back; the longest are the first to go."""
    asked = [[over.texts[index] for index in piece] for piece in pieces]
    with closing(over.pool.compute_pieces(asked)) as answers:
        for number, values in answers:
            yield pieces[number], pieces[number], values


def _pieces(indices: Sequence[int], groups: Sequence[Hashable], size: int) -> list[list[int]]:
    """``indices`` in pieces of at most ``size``, those of one group in one piece unless they are more than that."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and groups[runs[-1][-1]] == groups[index] and len(runs[-1]) < size:
            runs[-1].append(index)
        else:
            runs.append([index])
    pieces: list[list[int]] = []
    for run in runs:
        if pieces and len(pieces[-1]) + len(run) <= size:
            pieces[-1].extend(run)
        else:
            pieces.append(run)
    return pieces


def fill_from_stream(
    table: FeatureTable,
    keys: Sequence[bytes],
    order: Sequence[int],
    stream: Callable[[Sequence[int]], Generator[tuple[list[int], NDArray[np.float32]]]],
    batch_size: int,
    label: str | None,
) -> list[int]:
    """Ask for and commit what ``table`` lacks, ``batch_size`` or so at a time, while more is being asked for.

    ``stream`` gives positions within what it is given, and their values, [n, width] or [n] for a width of 1. Whatever
    ends it, what has been answered is committed. Returns the indices computed.
    """
    missing = [index for index in order if keys[index] not in table]
    committed: list[int] = []
    answered: list[int] = []
    values: list[NDArray[np.float32]] = []

    def commit() -> None:
        if answered:
            table.put([keys[index] for index in answered], np.concatenate(values).reshape(len(answered), -1))
        committed.extend(answered)
        answered.clear()
        values.clear()

    with tqdm(total=len(missing), desc=label, unit="text", disable=label is None, mininterval=1.0) as bar:
        try:
            with closing(stream(missing)) as answers:
                for positions, some in answers:
                    answered += [missing[position] for position in positions]
                    values.append(some)
                    bar.update(len(positions))
                    if len(answered) >= batch_size:
                        commit()
        except (EmbedderError, ScorerError) as error:
            commit()
            kind, what = (EmbedderError, "vectors") if isinstance(error, EmbedderError) else (ScorerError, "scores")
            raise kind(
                f"{error}\n{len(committed)} new {what} are in the feature store: once the cause is gone, run again, "
                "and only the rest is asked for"
            ) from None
        finally:
            commit()
    return committed
