"""What the reward was used for: trainings and policies compared, with intervals, and answers to read."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from realm_lib.config.profile import load_params
from realm_lib.data.chats import readable
from realm_lib.report.words.numbers import between, counted, measured, with_interval
from realm_lib.report.words.policies import TRUTH_OF_OTHERS, at_equal_length, captions, distance, policy_name, verdict
from realm_lib.runs.reading import read_table
from realm_lib.runs.run import Run

if TYPE_CHECKING:
    from markupsafe import Markup

_SHOWN_PROMPTS = 3
_ANSWERS = ("row", "picked", "prompt", "policy", "answer", "realm")


def read_policies(run: Run) -> dict[str, Any] | None:
    """metrics/policies.json, or None where notebook 06 has not run."""
    return run.read_metrics("policies") if run.path("metrics", "policies.json").exists() else None


def policies_content(run: Run) -> dict[str, Any] | None:
    """The index page's section on policies; None for a run that has trained none."""
    trainings, metrics = training_rows(run), read_policies(run)
    if metrics is None:
        return {"trainings": trainings, "rows": [], "captions": {}, "judge": None} if trainings else None
    lead, *lines = verdict(metrics).splitlines()
    rlhf = load_params(run.path("params.yaml")).rlhf
    if metrics["judge"] == "gold" and rlhf is not None and not rlhf.ppo.model_name.startswith("run:"):
        lines.append(TRUTH_OF_OTHERS)
    judge = "the simulated truth" if metrics["judge"] == "gold" else "REALM's own reward, which has an interest"
    return {
        "trainings": trainings,
        "judge": judge,
        "prompts": counted(metrics["prompts"], "held-out prompts"),
        "answers": counted(metrics.get("answers", 1), "answers"),
        "lead": lead,
        "lines": [_with_code(line.removeprefix("- ")) for line in lines],
        "has_gold": "gold" in metrics["policies"]["base"],
        "rows": [_row(name, entry) for name, entry in metrics["policies"].items()],
        "captions": captions(metrics["judge"]),
    }


def training_rows(run: Run) -> list[dict[str, str]]:
    """PPO and DPO, where they ran: what changed on the held-out prompts."""
    rows = []
    for name in ("ppo", "dpo"):
        if not run.path("metrics", f"{name}.json").exists():
            continue
        metrics, unit = run.read_metrics(name), "episodes" if name == "ppo" else "pairs"
        rows.append(
            {
                "name": name.upper(),
                "reward": _before_after(metrics["reward"]),
                "gold": _before_after(metrics["gold"]) if "gold" in metrics else "",
                "length": f"{metrics['length']['before']:.0f} → {metrics['length']['after']:.0f}",
                "size": counted(metrics[unit], unit),
                "seconds": f"{metrics['seconds']:.0f} s",
            }
        )
    return rows


def samples(run: Run) -> list[dict[str, Any]]:
    """The first held-out prompts with every policy's answer and its scores; none where notebook 06 has not run."""
    path = run.path("metrics", "policy_answers.parquet")
    if not path.exists():
        return []
    answers, metrics = read_table(path, _ANSWERS), read_policies(run)
    further = [name for name in metrics["pairwise"] if name not in ("realm", "gold")] if metrics else []
    shown = answers[answers["picked"]].sort_values("row", kind="stable")
    return [
        {
            "prompt": readable(rows["prompt"].iloc[0]),
            "answers": [
                {
                    "policy": policy_name(str(row.policy)),
                    "text": row.answer or "(empty)",
                    "realm": f"{row.realm:+.2f}",
                    "gold": f"{row.gold:+.2f}" if "gold" in answers else None,
                    "further": [(name, f"{getattr(row, name):+.2f}") for name in further],
                }
                for row in rows.itertuples()
            ],
        }
        for _, rows in list(shown.groupby("row"))[:_SHOWN_PROMPTS]
    ]


def _row(name: str, entry: Mapping[str, Any]) -> dict[str, str]:
    start = name == "base"
    return {
        "name": policy_name(name),
        "win_rate": "" if start else with_interval(entry["win_rate"], entry["ci"]),
        "equal": "" if start else at_equal_length(entry),
        "realm": measured(entry["realm"]["mean"], entry["realm"]["ci"], ".2f"),
        "gold": measured(entry["gold"]["mean"], entry["gold"]["ci"], ".2f") if "gold" in entry else "",
        "kl": distance(entry),
        "length": f"{entry['length']:.0f}",
    }


def _with_code(markdown: str) -> "Markup":
    """The words of a verdict, the names between backticks as code."""
    from markupsafe import Markup, escape

    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(markdown))))


def _before_after(entry: Mapping[str, Any]) -> str:
    text = f"{entry['before']:.2f} → {entry['after']:.2f}"
    if "ci_of_difference" in entry:
        text += f" ({entry['after'] - entry['before']:+.2f}, {between(entry['ci_of_difference'], '+.2f')})"
    return text
