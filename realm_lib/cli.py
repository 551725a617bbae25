"""The shell's door: ``predict`` and ``score`` for people; ``prepare``, ``execute``, ``report``, ``verify`` for make."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="REALM: a reward for RLHF that combines a reward model with prompt-response similarity.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def prepare(
    profile: Annotated[str, typer.Argument(help="A profile of params/ (demo, local, small, full) or a YAML file.")],
    overrides: Annotated[list[str] | None, typer.Option("--set", help="section.key=value, may be repeated.")] = None,
) -> None:
    """Resolve a profile into its run's folder and print that folder (make calls this)."""
    from realm_lib.pipeline import prepare as prepare_run

    typer.echo(_relative(prepare_run(profile, overrides or []).folder))


@app.command()
def execute(
    run: Annotated[Path, typer.Argument(help="A run's folder, as outputs/demo.")],
    notebook: Annotated[str, typer.Argument(help="A notebook's name, as 02_combiner_training.")],
) -> None:
    """Execute one notebook into a run (make calls this)."""
    from realm_lib.pipeline import execute as execute_notebook
    from realm_lib.runs import Run

    execute_notebook(Run(run), notebook)


@app.command()
def report(run: Annotated[Path, typer.Argument(help="A run's folder, as outputs/demo.")]) -> None:
    """Render a run's notebooks and its index page into RUN/reports."""
    from realm_lib.report import write_report
    from realm_lib.runs import Run

    typer.echo(_relative(write_report(Run(run))))


@app.command()
def verify(
    run: Annotated[Path, typer.Argument(help="The run to check.")],
    reference: Annotated[Path, typer.Argument(help="The run that it should reproduce.")],
) -> None:
    """Compare a run's parameters and metrics with a reference; exit code 1 when they differ."""
    from realm_lib.verification import compare_runs

    differences = compare_runs(run, reference)
    for line in differences:
        typer.echo(line)
    if differences:
        raise typer.Exit(1)
    typer.echo(f"{run} reproduces {reference}: parameters and counts equal, metrics within the tolerances")


@app.command()
def predict(
    run: Annotated[Path, typer.Option(help="A run's folder, as outputs/demo.")],
    prompt: Annotated[str, typer.Option(help="The post or question.")],
    response: Annotated[list[str], typer.Option(help="A response; repeat the option to score several.")],
) -> None:
    """Print the reward of each response as a JSON object a line: reward, spread, score, similarity."""
    from realm_lib.reward import RealmReward

    explained = RealmReward.from_pretrained(run).explain([prompt] * len(response), response)
    for row in explained.to_dict("records"):
        typer.echo(json.dumps(row))


@app.command()
def score(
    run: Annotated[Path, typer.Option(help="A run's folder, as outputs/demo: its params.yaml names the reward model.")],
    source: Annotated[Path, typer.Option("--input", help="A .jsonl, .jsonl.gz or .parquet file of texts or pairs.")],
    target: Annotated[Path, typer.Option("--output", help="The .parquet file to write: the input and its rewards.")],
) -> None:
    """Score a file with a run's reward model: {prompt, response}, {prompt, chosen, rejected} or SHP's columns."""
    from realm_lib.score_file import score_file

    done = score_file(run, source, target)
    known = done.texts - done.scored
    typer.echo(
        f"{_relative(target)}: {done.rows:,} rows, {done.texts:,} distinct texts, {done.scored:,} scored now, "
        f"{known:,} known, {done.seconds:.1f} s"
    )


def _relative(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def main() -> None:
    """Run the command; an error that a user can mend is one message on standard error and exit code 1."""
    try:
        app()
    except (ValueError, OSError, RuntimeError) as error:
        # The library's own errors say what to do; anything else is a fault of ours and keeps its traceback.
        if not type(error).__module__.startswith("realm_lib."):
            raise
        sys.exit(f"realm: {error}")
