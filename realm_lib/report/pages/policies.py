"""What the reward was used for: trainings and policies compared, with intervals, and answers to read."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from realm_lib.report.words.numbers import between, counted, measured, with_interval
from realm_lib.report.words.policies import policy_name, verdict
from realm_lib.runs.run import Run

if TYPE_CHECKING:
    from markupsafe import Markup

_SHOWN_PROMPTS = 3


def read_policies(run: Run) -> dict[str, Any] | None:
    """metrics/policies.json, or None where notebook 06 has not run."""
    return run.read_metrics("policies") if run.path("metrics", "policies.json").exists() else None


def policies_content(run: Run) -> dict[str, Any] | None:
    """The index page's section on policies; None for a run that has trained none."""
    trainings, compared = training_rows(run), read_policies(run)
    if not trainings and compared is None:
        return None
    content: dict[str, Any] = {"trainings": trainings, "rows": [], "figures": [], "judge": None}
    if compared is not None:
        lead, *found = verdict(compared).splitlines()
        content |= {
            "judge": _judge(compared),
            "prompts": compared["prompts"],
            "lead": lead,
            "found": [_with_code(line.removeprefix("- ")) for line in found],
            "has_gold": _has_gold(compared),
            "rows": [_row(name, entry) for name, entry in compared["policies"].items()],
            "figures": [name for name in _figures(compared) if run.path("figures", f"{name}.svg").exists()],
        }
    return content


def training_rows(run: Run) -> list[dict[str, str]]:
    """PPO and DPO, where they ran: what changed on the held-out prompts."""
    rows = []
    for name in ("ppo", "dpo"):
        if not run.path("metrics", f"{name}.json").exists():
            continue
        found, unit = run.read_metrics(name), "episodes" if name == "ppo" else "pairs"
        rows.append(
            {
                "name": name.upper(),
                "reward": _before_after(found["reward"]),
                "gold": _before_after(found["gold"]) if "gold" in found else "",
                "length": f"{found['length']['before']:.0f} → {found['length']['after']:.0f}",
                "size": counted(found[unit], unit),
                "seconds": f"{found['seconds']:.0f} s",
            }
        )
    return rows


def samples(run: Run) -> list[dict[str, Any]]:
    """The first held-out prompts with every policy's answer and its scores; none where notebook 06 has not run."""
    import pandas as pd

    path = run.path("metrics", "policy_answers.parquet")
    if not path.exists():
        return []
    answers = pd.read_parquet(path)
    shown = answers[answers["picked"]].sort_values("row", kind="stable")
    return [
        {
            "prompt": rows["prompt"].iloc[0],
            "answers": [
                {
                    "policy": policy_name(str(row.policy)),
                    "text": row.answer or "(empty)",
                    "realm": f"{row.realm:+.2f}",
                    "gold": f"{row.gold:+.2f}" if "gold" in answers else None,
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
        "equal": "" if start else with_interval(entry["length_controlled"], entry["length_controlled_ci"]),
        "realm": measured(entry["realm"]["mean"], entry["realm"]["ci"], ".2f"),
        "gold": measured(entry["gold"]["mean"], entry["gold"]["ci"], ".2f") if "gold" in entry else "",
        "kl": {"start": "0", "upper bound": f"at most {entry['kl']:.1f}"}.get(entry["kl_kind"], f"{entry['kl']:.1f}"),
        "length": f"{entry['length']:.0f}",
    }


def _figures(compared: Mapping[str, Any]) -> list[str]:
    return [f"policies_win_rates_{compared['judge']}", "policies_reward_kl"]


def _has_gold(compared: Mapping[str, Any]) -> bool:
    return "gold" in compared["policies"]["base"]


def _judge(compared: Mapping[str, Any]) -> str:
    return "the simulated truth" if compared["judge"] == "gold" else "REALM's own reward, which has an interest"


def _with_code(markdown: str) -> "Markup":
    """The words of a verdict, the names between backticks as code."""
    from markupsafe import Markup, escape

    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(markdown))))


def _before_after(found: Mapping[str, Any]) -> str:
    text = f"{found['before']:.2f} → {found['after']:.2f}"
    if "ci_of_difference" in found:
        text += f" ({found['after'] - found['before']:+.2f}, {between(found['ci_of_difference'], '+.2f')})"
    return text
