"""The posts that a model was trained on or chosen by, as hashes in a file beside its weights, copied with them."""

from collections.abc import Iterable
from pathlib import Path

from realm_lib.config.base import ParamsError
from realm_lib.runs.files import write_json
from realm_lib.runs.reading import DamagedFileError, read_json
from realm_lib.runs.run import MissingStepError, Run
from realm_lib.runs.weights import TRAINED_ON, locate_model

_TRAINED_BY = {
    "models/reward_model": ("offline_models", "00_offline_models"),
    "models/policy_sft": ("offline_models", "00_offline_models"),
    "models/probe": ("offline_models", "00_offline_models"),
    "models/judge": ("offline_models", "00_offline_models"),
    "models/combiner": ("combiner", "02_combiner_training"),
    "models/policy_ppo": ("ppo", "04_ppo"),
    "models/policy_dpo": ("dpo", "05_dpo"),
}
"""By a model's folder in a run: the metrics of the notebook that trains it, and that notebook."""


def write_trained_on(folder: Path, posts: Iterable[str] | None) -> None:
    """Write the keys of ``posts`` into a model's folder; with None, where they are not known, no file is left there."""
    if posts is None:
        (folder / TRAINED_ON).unlink(missing_ok=True)
    else:
        write_json(folder / TRAINED_ON, {"posts": sorted(set(posts))})


def read_trained_on(folder: Path) -> frozenset[str] | None:
    """The keys of the posts that the model in ``folder`` was trained on or chosen by; None where it does not say.

    Raises :class:`ParamsError` for a damaged file.
    """
    file = folder / TRAINED_ON
    if not file.exists():
        return None
    try:
        posts = read_json(file)["posts"]
    except DamagedFileError as error:  # removed, it would say that the model's posts are not known
        raise ParamsError(f"{error.fault}: train the model again") from error
    if not isinstance(posts, list) or not all(isinstance(post, str) for post in posts):
        raise ParamsError(f"{file}: posts must be a list of keys: train the model again")
    return frozenset(posts)


def posts_behind(model_id: str, run_folder: Path | None = None) -> frozenset[str] | None:
    """The keys of the posts that the model of a profile's ``model_id`` was trained on or chosen by.

    None where nothing is known: a model of the hub, or a folder that does not say. Raises :class:`MissingStepError`
    for a model of the run that one of its notebooks trained without keeping them, in an earlier version.
    """
    if model_id.startswith("run:") and run_folder is None:
        return None
    source = locate_model(model_id, run_folder)
    posts = read_trained_on(source) if isinstance(source, Path) else None
    trained_by = _TRAINED_BY.get(model_id.removeprefix("run:"))
    if posts is None and run_folder is not None and trained_by is not None:
        metrics, notebook = trained_by
        if Run(run_folder).path("metrics", f"{metrics}.json").exists():
            raise MissingStepError(
                f"{source}: made by an earlier version, without the posts that it was trained on ({TRAINED_ON}): run "
                f"notebook {notebook} again"
            )
    return posts
