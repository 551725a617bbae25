"""Runs side by side: which parameters differ, and what that did to the numbers."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from realm_lib.config.text import read_yaml
from realm_lib.evaluation.parts import parts
from realm_lib.report.pages.index import failed_steps, rewards_compared, seconds_in_all
from realm_lib.report.pages.pages import Page, write_page
from realm_lib.report.pages.policies import read_policies, training_rows
from realm_lib.report.words.evaluation import runs_compared
from realm_lib.report.words.numbers import counted, in_words, points, with_interval
from realm_lib.report.words.policies import policy_name
from realm_lib.runs.files import LONGEST_NAME
from realm_lib.runs.reading import read_text
from realm_lib.runs.run import MissingStepError, Run


class ComparisonOfRunsError(ValueError):
    """Runs that cannot be set side by side; the message names the run and what is missing."""


def write_side_by_side(runs: Sequence[Run], output: Path | None = None) -> Path:
    """Write a page that compares ``runs``, the first of which the others are compared with; its path.

    It stands in the first run's reports, as side_by_side_WITH_....html, unless ``output`` says otherwise.

    Raises :class:`ComparisonOfRunsError` for fewer than two runs, for one named twice, for a folder that is no run, and
    for a run whose evaluation is missing: with the step that failed, when one did.
    """
    if len(runs) < 2:
        raise ComparisonOfRunsError("name two runs or more, as outputs/demo outputs/seed7")
    for run in runs:
        _need_finished(run)
        if sum(other.folder == run.folder for other in runs) > 1:
            raise ComparisonOfRunsError(f"{run.folder} is named twice")
    names = _names(runs)
    path = output or runs[0].path("reports", f"side_by_side_{'_'.join(names[1:])}.html")
    if len(path.name) > LONGEST_NAME:
        raise ComparisonOfRunsError(f"{len(runs)} names are too long for the name of a file: give --output")
    pages = [Page(path.name, "Side by side")] + [
        Page(Path(os.path.relpath(report, path.resolve().parent)).as_posix(), name)
        for run, name in zip(runs, names, strict=True)
        if (report := run.path("reports", "index.html")).exists()
    ]
    evaluations = [run.read_metrics("evaluation") for run in runs]
    return write_page(
        path,
        "side_by_side.html.j2",
        pages,
        source=" and ".join(names),
        title=f"REALM: {' · '.join(names)}",
        names=names,
        simulated=any("ceiling" in metrics for metrics in evaluations),
        summary=runs_compared(names, evaluations, list(_parameters(runs))),
        tables=_tables(runs, evaluations),
    )


def _need_finished(run: Run) -> None:
    try:
        Run.existing(run.folder)
    except MissingStepError as error:
        raise ComparisonOfRunsError(str(error)) from None
    if run.path("metrics", "evaluation.json").exists():
        return
    steps = run.manifest.get("steps", {})
    ended = [f"{name} ended as {steps[name]['exit']}" for name in failed_steps(steps)]
    reason = ", ".join(ended) or f"it has run {', '.join(steps) or 'no notebook'}"
    raise ComparisonOfRunsError(f"{run.folder}: no evaluation to compare: {reason}; run `make` for this run first")


def _names(runs: Sequence[Run]) -> list[str]:
    """Folder names; with their parent's where two are the same."""
    plain = [run.folder.name for run in runs]
    return [
        name if plain.count(name) == 1 else f"{run.folder.parent.name}-{name}"
        for run, name in zip(runs, plain, strict=True)
    ]


def _parameters(runs: Sequence[Run]) -> dict[str, list[str]]:
    """The parameters in which the runs differ, a value a run; the run's own name is none of them."""
    paths = [run.path("params.yaml") for run in runs]
    flat = [_flat(read_yaml(read_text(path), f"{path}:")) for path in paths]
    keys = dict.fromkeys(key for values in flat for key in values)
    different = {key: [values.get(key, "(not there)") for values in flat] for key in keys}
    return {key: values for key, values in different.items() if len(set(values)) > 1 and key != "run.name"}


def _flat(content: Any, key: str = "") -> dict[str, str]:
    if isinstance(content, dict) and content:
        flat: dict[str, str] = {}
        for name, child in content.items():
            flat |= _flat(child, f"{key}.{name}" if key else str(name))
        return flat
    return {key: "null" if content is None else str(content)}


def _tables(runs: Sequence[Run], evaluations: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Title, note and rows of each table that has rows; a row is its label and a cell a run."""
    from realm_lib.report.figures.theme import label_of

    every = list(dict.fromkeys(name for metrics in evaluations for name in metrics["rewards"]))
    of_features = parts(every)
    shown = ("realm", "linear", *of_features, "length", "ceiling")
    rewards = [metrics["rewards"] | {"ceiling": metrics.get("ceiling")} for metrics in evaluations]
    policies = [(read_policies(run) or {"policies": {}})["policies"] for run in runs]
    trainings = [{row["name"]: row["reward"] for row in training_rows(run)} for run in runs]
    steps = [run.manifest.get("steps", {}) for run in runs]
    accuracy = [
        ("Test pairs", [f"{metrics['pairs']:,} of {counted(metrics['posts'], 'posts')}" for metrics in evaluations]),
        *((label_of(name, every), [_share(entries.get(name), "accuracy") for entries in rewards]) for name in shown),
    ]
    differences = [
        (rewards_compared(name, every), [_difference(metrics["differences"].get(name)) for metrics in evaluations])
        for name in (f"realm - {other}" for other in (*of_features, "linear", "length"))
    ]
    trained = [(name, [rows.get(name, "") for rows in trainings]) for name in ("PPO", "DPO")]
    wins = [
        (policy_name(name), [_share(entries.get(name), "win_rate") for entries in policies])
        for name in dict.fromkeys(name for entries in policies for name in entries if name != "base")
    ]
    what_ran = [
        ("Commit", [str(run.manifest.get("commit", {}).get("id") or "unknown")[:12] for run in runs]),
        ("Minutes", [f"{seconds_in_all(entries) / 60:.1f}" for entries in steps]),
        ("Steps that failed", [", ".join(failed_steps(entries)) or "none" for entries in steps]),
    ]
    judges = "Ties count half; judged by the simulated truth where it is known, else by the reward itself."
    tables = [
        ("Parameters that differ", "", list(_parameters(runs).items())),
        ("Accuracy", "Share of the test pairs ranked rightly, with 95 % intervals over posts.", accuracy),
        ("Is the difference real?", "Within each run, on the same resampled posts.", differences),
        ("Trainings", "Mean reward on held-out prompts, before → after.", [row for row in trained if any(row[1])]),
        ("Policies: wins over the start", judges, wins),
        ("What ran", "", what_ran),
    ]
    return [{"title": title, "note": note, "rows": rows} for title, note, rows in tables if rows]


def _share(entry: Mapping[str, Any] | None, key: str) -> str:
    return "" if entry is None else with_interval(entry[key], entry["ci"])


def _difference(entry: Mapping[str, Any] | None) -> str:
    return "" if entry is None else f"{points(entry)}: {in_words(entry)}"
