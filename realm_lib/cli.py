"""The shell's door: ``predict``, ``score``, ``serve``, ``evaluate``, ``report``; the other commands are make's.

How a command ends where something goes wrong is said in :mod:`realm_lib.ending`.
"""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from realm_lib.ending import one_message

_PEOPLE = "Use a run"
_MAKE = "What make calls"
_REFERENCE = "Keep the reference"

app = typer.Typer(
    help="REALM: a reward for RLHF that combines a reward model with prompt-response similarity.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command(rich_help_panel=_PEOPLE)
def predict(
    run: Annotated[Path, typer.Option(help="A run's folder, as outputs/demo.")],
    prompt: Annotated[str | None, typer.Option(help="The post or question.")] = None,
    response: Annotated[list[str] | None, typer.Option(help="A response; repeat the option to score several.")] = None,
    source: Annotated[
        str | None,
        typer.Option("--input", metavar="FILE.jsonl", help='Rows of {"prompt", "response"}; - is standard input.'),
    ] = None,
    compare: Annotated[bool, typer.Option("--compare", help="Rank the responses to each prompt, best first.")] = False,
) -> None:
    """Print the reward of each response, a JSON object a line: reward, what it is made of, outside, models.

    `outside`: a feature lies beyond the range of the training responses; how many do is said last, on standard error,
    and what the embedding model could not read whole.
    """
    if (source is None) == (prompt is None) or (prompt is None) != (not response):
        raise typer.BadParameter("give --prompt with --response (one or more), or --input")
    from realm_lib.inference import predict as prediction
    from realm_lib.reward.realm_reward import RealmReward

    if source is None:
        questions = iter(prediction.from_options(prompt or "", response or []))
    else:
        questions = prediction.read_questions(source)
    within = prediction.WITHIN if source == "-" else None
    reward = RealmReward.from_pretrained(run)
    texts_read = prediction.TextsRead(reward)
    answers = texts_read.of(prediction.predict(reward, questions, within=within))
    outside: list[bool] = []
    for row in prediction.rank(answers) if compare else (answer for _, answer in answers):
        typer.echo(json.dumps(row, allow_nan=False))
        outside.append(row["outside"])
    if any(outside):
        typer.echo(prediction.told_outside(outside), err=True)
    for line in texts_read.told():
        typer.echo(line, err=True)


@app.command(rich_help_panel=_PEOPLE)
def score(
    run: Annotated[Path, typer.Option(help="A run's folder, as outputs/demo: its params.yaml names the reward model.")],
    source: Annotated[Path, typer.Option("--input", help="A .jsonl, .json, .csv or .parquet file of texts or pairs.")],
    target: Annotated[Path, typer.Option("--output", help="The .parquet file to write: the input and its scores.")],
) -> None:
    """Score a file with a run's reward model: {prompt, response}, {prompt, chosen, rejected} or SHP's columns."""
    from realm_lib.inference.score_file import score_file

    done = score_file(run, source, target)
    known = done.texts - done.scored
    typer.echo(
        f"{_relative(target)}: {done.rows:,} rows, {done.texts:,} distinct texts, {done.scored:,} scored now, "
        f"{known:,} known, {done.seconds:.1f} s"
    )


@app.command(rich_help_panel=_PEOPLE)
def serve(
    run: Annotated[Path, typer.Option(help="A run's folder, as outputs/demo.")],
    host: Annotated[str, typer.Option(help="Address to listen on; any but this machine's own needs a token.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    queue: Annotated[int, typer.Option(min=1, help="Responses that may wait for an answer; more get 429.")] = 4096,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds until a request gets 503 or 504.")] = 120.0,
    stop: Annotated[float, typer.Option(min=0.0, help="Seconds that a stop waits for answers; then 503.")] = 8.0,
) -> None:
    """Answer rewards over HTTP: /predict, and what OpenRLHF and LLaMA-Factory ask for.

    Clients send the token in REALM_SERVER_TOKEN (environment or .env) as `Authorization: Bearer ...`, where it is set.
    """
    from realm_lib.inference.server import Limits
    from realm_lib.inference.server.running import serve as serve_run

    serve_run(run, host, port, Limits(queue=queue, timeout=timeout, stop=stop))


@app.command(rich_help_panel=_PEOPLE)
def evaluate(
    run: Annotated[Path, typer.Option(help="A run's folder, as outputs/demo.")],
    pairs: Annotated[Path, typer.Option(help="Pairs in a form that params/README.md names, as SHP's.")],
    subset_column: Annotated[str | None, typer.Option(help="The column that names a pair's subset.")] = None,
    name: Annotated[str | None, typer.Option(help="What the outputs call it; the file's name by default.")] = None,
) -> None:
    """Judge a run's reward on another file of pairs, and print the verdict and where the report page is."""
    from realm_lib.report.pages.benchmark import evaluate_file
    from realm_lib.runs.run import Run

    verdict, page = evaluate_file(Run(run), pairs, subset_column=subset_column, name=name)
    typer.echo(verdict)
    typer.echo(_relative(page))


@app.command(rich_help_panel=_PEOPLE)
def report(
    runs: Annotated[list[Path], typer.Argument(help="A run's folder, as outputs/demo; several are set side by side.")],
    output: Annotated[Path | None, typer.Option(help="Several runs: the HTML file to write, and where.")] = None,
) -> None:
    """Render a run's notebooks and its index page into RUN/reports, or a page that compares several runs."""
    from realm_lib.report.pages import write_report
    from realm_lib.report.pages.side_by_side import write_side_by_side
    from realm_lib.runs.run import Run

    if len(runs) == 1 and output is None:
        typer.echo(_relative(write_report(Run(runs[0]))))
    else:
        typer.echo(_relative(write_side_by_side([Run(run) for run in runs], output)))


@app.command(rich_help_panel=_PEOPLE)
def plan(
    profile: Annotated[
        str, typer.Argument(help="A profile of params/ (demo, local, small, full), a YAML file or a run.")
    ],
    overrides: Annotated[list[str] | None, typer.Option("--set", help="section.key=value, one or more.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
    brief: Annotated[
        bool, typer.Option("--brief", help="For make: a few lines, and of a run without anything left its status only.")
    ] = False,
) -> None:
    """Say what a run takes before it begins: texts, tokens, memory, hours, disk, money; exit code 1 where it cannot.

    No weights are read and nothing is paid. What would stop the run is said all at once.
    """
    from realm_lib.report.words import plan as words
    from realm_lib.runs.notebooks import read_profile
    from realm_lib.runs.run import Run
    from realm_lib.runs.steps import is_done, steps_of

    params = read_profile(profile, overrides or [])
    run = Run(params.run.folder)
    if brief and is_done(steps := steps_of(run), "01_feature_extraction"):
        typer.echo(words.status_line(_relative(run.folder), steps))
        return
    from realm_lib.features.ahead import AheadError, told_faults
    from realm_lib.rlhf.plan import plan_run

    found = plan_run(params, keep=brief)
    if as_json:
        typer.echo(json.dumps(found.to_dict(), allow_nan=False))
    else:
        typer.echo(words.brief_plan(found) if brief else words.plan(found))
    if found.faults:
        raise AheadError(told_faults(found.faults))


@app.command(rich_help_panel=_PEOPLE)
def status(
    run: Annotated[Path, typer.Argument(help="A run's folder, as outputs/demo.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Say how far a run is: notebooks, texts stored, trainings, time and money left. It may be at work, or killed."""
    from realm_lib.report.words.plan import status as words
    from realm_lib.rlhf.status import status_of
    from realm_lib.runs.run import Run

    found = status_of(Run.existing(run))
    typer.echo(json.dumps(found.to_dict(), allow_nan=False) if as_json else words(found))


@app.command(rich_help_panel=_MAKE)
def prepare(
    profile: Annotated[str, typer.Argument(help="A profile of params/ (demo, local, small, full) or a YAML file.")],
    overrides: Annotated[list[str] | None, typer.Option("--set", help="section.key=value, one or more.")] = None,
) -> None:
    """Resolve a profile into its run's folder and print that folder."""
    from realm_lib.runs.notebooks import prepare as prepare_run

    typer.echo(_relative(prepare_run(profile, overrides or []).folder))


@app.command(rich_help_panel=_MAKE)
def execute(
    run: Annotated[Path, typer.Argument(help="A run's folder, as outputs/demo.")],
    notebook: Annotated[str, typer.Argument(help="A notebook's name, as 02_combiner_training.")],
) -> None:
    """Execute one notebook into a run."""
    from realm_lib.runs.notebooks import execute as execute_notebook
    from realm_lib.runs.run import Run

    execute_notebook(Run.existing(run), notebook)


@app.command(rich_help_panel=_MAKE)
def train(
    run: Annotated[Path, typer.Argument(help="A run's folder, as outputs/demo, whose reward is there.")],
    method: Annotated[Literal["ppo", "dpo"], typer.Argument(help="Whose policy to train.")],
) -> None:
    """Train notebook 04's policy (ppo) or 05's under `accelerate launch`; the notebook then trains nothing again."""
    from realm_lib.rlhf.launched import train as train_policy
    from realm_lib.runs.run import Run

    typer.echo(train_policy(Run.existing(run), method), nl=False)


@app.command(rich_help_panel=_MAKE)
def verify(
    run: Annotated[Path, typer.Argument(help="The run to check.")],
    reference: Annotated[Path, typer.Argument(help="The run that it should reproduce.")],
    every: Annotated[bool, typer.Option("--all", help="Print every number, not only those that are outside.")] = False,
) -> None:
    """Compare a run's parameters and metrics with a reference's, number by number; exit code 1 when any is outside."""
    from realm_lib.report.words import verification as words
    from realm_lib.runs.verification import verify as compare
    from realm_lib.runs.verification import write_rows

    found = compare(run, reference)
    kept = run / "verification.csv"
    write_rows(kept, found.rows)
    parts = [words.summary(found)]
    parts += [words.table(rows) for rows in (found.rows if every else found.outside, words.headlines(found)) if rows]
    typer.echo("\n\n".join(parts))
    typer.echo(f"\nevery number: {_relative(kept)}\n{words.conclusion(found, run, reference)}")
    if found.outside:
        raise typer.Exit(1)


@app.command(rich_help_panel=_REFERENCE)
def reference(
    run: Annotated[Path, typer.Argument(help="A finished run, as outputs/demo.")],
    target: Annotated[Path, typer.Argument(help="The folder that git keeps, as outputs/reference/demo.")],
) -> None:
    """Keep a finished run as the reference: its parameters, manifest, metrics and the README's figures."""
    from realm_lib.runs.reference import keep_reference

    for path in keep_reference(run, target):
        typer.echo(_relative(path))


@app.command(rich_help_panel=_REFERENCE)
def spread(
    reference: Annotated[Path, typer.Argument(help="The reference, as outputs/reference/demo; it is one of the runs.")],
    runs: Annotated[list[Path], typer.Argument(help="Runs of the same parameters under other processor settings.")],
) -> None:
    """Measure how far runs on processors that round differently lie apart, and write REFERENCE/spread.json.

    Prints how many values of each run are outside the tolerances that the others give; there should be none.
    """
    from realm_lib.runs.spread import measure_spread, write_spread
    from realm_lib.runs.verification import SPREAD, leave_one_out

    found = measure_spread([reference, *runs])
    write_spread(reference / SPREAD, found)
    count = len(found.kinds)
    moves = "1 kind of number moves" if count == 1 else f"{count} kinds of numbers move"
    typer.echo(f"{_relative(reference / SPREAD)}: {moves} between {found.runs} runs")
    if found.runs > 2:
        for run, left_out in leave_one_out([reference, *runs]).items():
            typer.echo(f"{_relative(run)} by the others: {len(left_out.outside)} of {len(left_out.rows):,} outside")
            for row in left_out.outside:
                typer.echo(f"  {row.file}: {row.key}: {row.reference} to {row.here}, {row.verdict}")


@app.command(rich_help_panel=_REFERENCE)
def tables(
    check: Annotated[bool, typer.Option("--check", help="Write nothing; exit code 1 where one differs.")] = False,
) -> None:
    """Write the documents' tables and sentences with numbers of the demo, from outputs/reference/demo."""
    from realm_lib.report.documents import write_documents

    changed = write_documents(check=check)
    for path in changed:
        typer.echo(f"{_relative(path)}: {'is not what the reference gives: run `make tables`' if check else 'written'}")
    if check and changed:
        raise typer.Exit(1)


def _relative(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def main() -> None:
    """Run the command; what goes wrong is one message on standard error, and an exit code."""
    with one_message():
        app()
