"""Everything that can stop a run, looked for before weights are loaded or money is spent, and said at once."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from realm_lib.config.profile import Params, load_params
from realm_lib.config.rlhf import RlhfParams
from realm_lib.config.signals import EmbeddingSignal, RewardModelSignal
from realm_lib.features.checks import Ahead, Checks, distinct_of
from realm_lib.features.store import FeatureStore
from realm_lib.features.stored import stored_texts
from realm_lib.runs.extras import check_engine
from realm_lib.runs.run import Run

LOOKED_AHEAD = "looked ahead"
"""The event in a run's log that says how many texts of each feature were stored as notebook 01 began."""


class AheadError(RuntimeError):
    """What would stop the run later, a line each; nothing was loaded or paid."""


def check_ahead(params: Params, pairs: Mapping[str, pd.DataFrame], store: FeatureStore, run: Run) -> pd.DataFrame:
    """What was checked and what was found, a row each (columns what, found), for the splits ``pairs`` of a profile.

    Looked at are the keys that will be sent, what embedding would cost, whether every model of the hub may be read,
    the reward models' configurations, memory and reading of every response, and the disk. No weights are read, and
    none but the hub and a reward model's own servers is asked. The policies that later notebooks train are those of
    the run's params.yaml, where it has one. Raises :class:`AheadError` naming all that is wrong; a model that an
    earlier notebook makes is a :class:`realm_lib.runs.run.MissingStepError` by itself.
    """
    profile = run.path("params.yaml")
    rlhf = load_params(profile).rlhf if profile.exists() else None
    ahead = look_ahead(params, pairs, store, run.folder, rlhf)
    if ahead.faults:
        raise AheadError(told_faults(ahead.faults))
    stored = stored_texts(params, distinct_of(pairs), store.folder)
    run.log(LOOKED_AHEAD, stored={each.feature: each.stored for each in stored})
    return pd.DataFrame(ahead.found, columns=["what", "found"])


def told_faults(faults: Sequence[str]) -> str:
    """All that would stop a run, a line each."""
    number = f"{len(faults)} thing{'s' if len(faults) > 1 else ''}"
    listed = "\n".join(f"- {fault}" for fault in faults)
    return f"{number} would stop this run; nothing was loaded or paid:\n{listed}"


def look_ahead(
    params: Params,
    pairs: Mapping[str, pd.DataFrame],
    store: FeatureStore,
    run_folder: Path,
    rlhf: RlhfParams | None,
    *,
    asked: pd.DataFrame | None = None,
    own_models: bool = True,
    expected: tuple[int, int] = (0, 0),
    outputs: int = 0,
) -> Ahead:
    """What :func:`check_ahead` checks, faults and all.

    ``asked`` are the texts (columns prompt, response) of which each model says whether it reads them; None means all.
    Without ``own_models`` those of the run (``run:``) are left out, as an earlier notebook may still have to make them.
    ``expected`` are the texts and the tokens that an embedding service will be asked for where the ``pairs`` are not
    known yet: an estimate, which no budget stops. ``outputs`` are the bytes that the run's own folder is going to take.
    """
    here = params.run.engine == "local"
    checks = Checks(pairs, store, run_folder, asked, own_models=own_models, expected=expected, here=here)
    with checks.of("run.engine"):
        check_engine(params.run)
    rows = {"reward_model": params.reward_model} | _kinds(params, RewardModelSignal, "reward_model")
    for name, reward_model in rows.items():
        with checks.of(name):
            checks.reward_model(name, reward_model)
    rows = {"embedding": params.embedding} | _kinds(params, EmbeddingSignal, "embedding")
    for name, embedding in rows.items():
        with checks.of(name):
            checks.embedding(name, embedding)
    probe = None if own_models or params.offline_models is None else params.offline_models.probe
    if probe is not None and not (run_folder / "models" / "probe").exists():
        with checks.of(name := "offline_models.probe"):
            checks.probe(name, probe)
    if rlhf is not None:
        checks.rlhf(rlhf)
    with checks.of("disk"):
        checks.disk(outputs)
    return checks.ahead


def _kinds(params: Params, kind: type, section: str) -> dict[str, Any]:
    return {
        f"signals.{name}": getattr(signal, section)
        for name, signal in params.signals.items()
        if isinstance(signal, kind)
    }
