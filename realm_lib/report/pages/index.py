"""The content of a run's index page: the page that is sent to a colleague."""

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from realm_lib.config.profile import Params, load_params
from realm_lib.data.chats import readable
from realm_lib.evaluation.per_pair import wrong_pairs
from realm_lib.evaluation.resampling import EvaluationError
from realm_lib.report.pages.pages import notebook_label
from realm_lib.report.pages.pictures import picture
from realm_lib.report.pages.policies import policies_content, samples
from realm_lib.report.words.evaluation import captions, questions_answered, two_sentences
from realm_lib.report.words.findings import notable
from realm_lib.report.words.numbers import counted, in_words, interval, percent
from realm_lib.runs.notebooks import read_notebook
from realm_lib.runs.reading import read_table, read_text
from realm_lib.runs.run import MissingStepError, Run

_SHOWN_ERRORS = 2


def index_content(run: Run, notebooks: Sequence[Path], files: Sequence[str]) -> dict[str, Any]:
    """What templates/index.html.j2 shows, from the run's metrics, manifest and parameters alone."""
    evaluation, manifest = run.read_metrics("evaluation"), run.manifest
    rows, axis = reward_rows(evaluation)
    policies = policies_content(run)
    return {
        "title": f"REALM: {run.folder.name}",
        "run_name": run.folder.name,
        "date": datetime.now(UTC).strftime("%d %B %Y"),
        "simulated": "ceiling" in evaluation,
        "verdict": two_sentences(evaluation),
        "verdict_in_full": evaluation["verdict"],
        "answers": questions_answered(evaluation),
        "sizes": f"{counted(evaluation['pairs'], 'pairs')} of {counted(evaluation['posts'], 'posts')}",
        "rewards": rows,
        "axis": axis,
        "differences": [
            _difference_row(name, entry, evaluation["rewards"]) for name, entry in evaluation["differences"].items()
        ],
        "figures": _figures(run, captions(evaluation)),
        "policies": policies,
        "policy_figures": _figures(run, policies["captions"]) if policies else [],
        "samples": samples(run),
        "errors": _surest_errors(run),
        "notebooks": [_notebook_row(path, manifest) for path in notebooks],
        "failed": failed_steps(manifest.get("steps", {})),
        "facts": run_facts(run, manifest),
        "files": files,
        "params": read_text(run.path("params.yaml")),
        "packages": "\n".join(f"{name}=={version}" for name, version in manifest.get("packages", {}).items()),
    }


def _figures(run: Run, explained: Mapping[str, tuple[str, str]]) -> list[dict[str, str]]:
    """The figures that the run has, with title and caption."""
    return [
        {"picture": picture(run, name), "title": title, "caption": caption}
        for name, (title, caption) in explained.items()
        if run.path("figures", f"{name}.svg").exists()
    ]


def reward_rows(evaluation: Mapping[str, Any]) -> tuple[list[dict[str, Any]], tuple[int, int]]:
    """The headline table, best first, with the positions of points and intervals on a common axis in percent."""
    from realm_lib.report.figures.theme import colour_of, label_of

    rewards = evaluation["rewards"] | ({"ceiling": evaluation["ceiling"]} if "ceiling" in evaluation else {})
    ends = [end for entry in rewards.values() for end in entry["ci"]]
    low, high = int(min(0.5, *ends) * 20) * 5, -int(-max(0.5, *ends) * 20 // 1) * 5
    spread = (high - low) / 100

    def position(value: float) -> float:
        return round((value - low / 100) / spread * 100, 2)

    rows = [
        {
            "name": name,
            "label": label_of(name, rewards),
            "colour": colour_of(name, rewards),
            "accuracy": percent(entry["accuracy"]),
            "interval": " to ".join(map(percent, entry["ci"])),
            "position": position(entry["accuracy"]),
            "left": position(entry["ci"][0]),
            "width": round(position(entry["ci"][1]) - position(entry["ci"][0]), 2),
            "log_loss": f"{entry['log_loss']:.3f}" if "log_loss" in entry else "",
            "ece": f"{entry['ece']:.3f}" if "ece" in entry else "",
            "ties": f"{entry['ties']:,}" if "ties" in entry else "",
        }
        for name, entry in sorted(rewards.items(), key=lambda item: -item[1]["accuracy"])
    ]
    return rows, (low, high)


def run_facts(run: Run, manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Data, models, hardware, seeds and commit of a run, in words."""
    params, features = load_params(run.path("params.yaml")), run.read_metrics("features")
    hardware, commit = manifest.get("hardware", {}), manifest.get("commit", {})
    seconds, data = seconds_in_all(manifest.get("steps", {})), params.data
    source = {"simulator": "REALM's simulator", "hub": data.dataset_name, "local": data.path}[data.source]
    pairs = ", ".join(f"{kept['pairs']:,} {split}" for split, kept in features["splits"].items())
    return [
        ("Pairs", f"{source}: {pairs}"),
        ("Reward model", _reward_model(params)),
        ("Embeddings", f"{params.embedding.model_id} ({params.embedding.backend})"),
        *([("Texts read", told)] if (told := notable(features)) else []),
        *([("Policy", params.rlhf.ppo.model_name)] if params.rlhf is not None else []),
        ("Responses", f"{features['unique_responses']:,} distinct, {features['scored']:,} scored in this run"),
        ("Seeds", ", ".join(f"{name} {seed}" for name, seed in manifest.get("seeds", {}).items())),
        (
            "Machine",
            f"{hardware.get('cores')} cores, {hardware.get('memory_gib')} GiB, "
            f"{', '.join(hardware.get('gpus', [])) or 'no GPU'}, Python {manifest.get('python')}",
        ),
        ("Time", f"{seconds / 60:.0f} minutes in all" if seconds >= 120 else f"{seconds:.0f} seconds in all"),
        ("Commit", f"{commit.get('id') or 'not a git checkout'}{' with local changes' if commit.get('dirty') else ''}"),
    ]


def _reward_model(params: Params) -> str:
    """Its name and backend; of a probe that the run trained, what it reads with."""
    model, trained = params.reward_model, params.offline_models
    probe = None if trained is None or not model.model_id.startswith("run:") else trained.probe
    of = "" if probe is None or model.backend != "probe" else f" on {probe.backbone}"
    return f"{model.model_id} ({model.backend}{of})"


def seconds_in_all(steps: Mapping[str, Any]) -> float:
    """What the notebooks of a manifest's ``steps`` took together."""
    return sum(step.get("seconds") or 0.0 for step in steps.values())


def failed_steps(steps: Mapping[str, Any]) -> list[str]:
    """The notebooks of a manifest's ``steps`` that did not end well."""
    return [name for name, step in steps.items() if step.get("exit") != "ok"]


def rewards_compared(difference: str, rewards: Iterable[str]) -> str:
    """The key of a difference between two of ``rewards``, as ``realm - length``, in words."""
    from realm_lib.report.figures.theme import label_of

    return " minus ".join(label_of(name, rewards) for name in difference.split(" - "))


def _difference_row(name: str, entry: Mapping[str, Any], rewards: Iterable[str]) -> dict[str, str]:
    p = entry["p_holm"]
    return {
        "label": rewards_compared(name, rewards),
        "value": f"{100 * entry['value']:+.1f}",
        "interval": interval(entry["ci"], "+.1f"),
        "p": f"{p:.4f}" if p >= 0.0001 else "below 0.0001",
        "words": in_words(entry),
    }


def _surest_errors(run: Run) -> list[dict[str, Any]]:
    """The test pairs that the combined reward is surest of and wrong about, one a post."""
    judged, texts = run.path("metrics", "pairs.parquet"), run.path("features", "test.parquet")
    if not (judged.exists() and texts.exists()):
        return []
    try:
        wrong = wrong_pairs(read_table(judged), read_table(texts), "realm")
    except EvaluationError as error:
        raise MissingStepError(f"{judged}: {error}; run 03_evaluation again") from error
    return [
        {
            "post": readable(pair["prompt"]),
            "chosen": pair["chosen"],
            "chosen_reward": f"{pair['reward_chosen']:+.2f}",
            "rejected": pair["rejected"],
            "rejected_reward": f"{pair['reward_rejected']:+.2f}",
        }
        for pair in wrong.drop_duplicates("post_id").head(_SHOWN_ERRORS).to_dict("records")
    ]


def _notebook_row(path: Path, manifest: Mapping[str, Any]) -> dict[str, str]:
    step = manifest.get("steps", {}).get(path.stem, {})
    seconds = step.get("seconds")
    opening = read_notebook(path).cells[:1]
    question = re.search(r"\*\*Question\.\*\* (.+)", opening[0].source) if opening else None
    return {
        "name": notebook_label(path.stem),
        "href": f"{path.stem}.html",
        "question": question[1] if question else "",
        "seconds": "" if seconds is None else f"{seconds:.0f} s",
        "exit": step.get("exit", ""),
    }
