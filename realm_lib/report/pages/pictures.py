"""Figures inside a page: sharp, in the colours of light and of dark pages, and described for who cannot see them."""

import base64
import re
from typing import TYPE_CHECKING

from realm_lib.runs.reading import read_text
from realm_lib.runs.run import Run

if TYPE_CHECKING:
    from markupsafe import Markup

_DARK_COLOURS = {
    "#222222": "#e6e9ee",  # words
    "#5a5a5a": "#b3bcc8",  # smaller words
    "#9a9a9a": "#6b7686",  # axes
    "#e3e3e3": "#2d3540",  # grid
    "#555555": "#a4aebb",
    "#7a7a7a": "#a9a9a9",
    "#a8a8a8": "#c4c4c4",
    "#0072b2": "#4aa8e0",
    "#00456b": "#7fb2d3",
    "#7b3294": "#b884cf",
    "#08306b": "#6f9bd1",
    "#d55e00": "#ee7f2d",
    "#009e73": "#2fc097",
    "#3b8fc4": "#5fade0",
    "#8c6d1f": "#c29f45",  # signals
    "#c0392b": "#e46f63",
    "#2f7f7f": "#55b0b0",
    "#9c4f96": "#cf8bc9",
    "#5b7f1f": "#96bd52",
    "#4b4ba8": "#9292e0",
    "#a65628": "#d6875a",
    "#2c6e9b": "#5fa5d6",  # the reward without one of them
    "#1f2f4f": "#9fb3d9",
    "#3d5a80": "#8fa9cf",
    "#24476b": "#86aede",
}
"""The theme's colours on white, and what has the same part, and contrast enough, on a dark page."""

_DARK_PAPER = "#14181e"

DESCRIPTIONS = {
    "offline_reward_model": "Loss of the small reward model by training step",
    "offline_probe": "Accuracy of probes on pairs left out, by the layers and poolings that they read, one marked",
    "offline_policy": "Loss of the small policy by training step",
    "features_chosen_rejected": "Distributions of score and of similarity over chosen and rejected responses",
    "combiner_training": "Loss and validation accuracy of the combiner by epoch, the kept epoch marked",
    "combiner_surface": "Combined reward over the two features that matter most",
    "evaluation_accuracy": "Accuracy of each reward as a point with its interval",
    "evaluation_differences": "Differences in accuracy between REALM and each other reward, with intervals",
    "evaluation_signals": "Accuracy lost without each feature, with intervals, beside what the feature cost",
    "evaluation_seeds": "Accuracy of combiners trained from other seeds, beside the interval over posts",
    "evaluation_domains": "Accuracy of REALM and of the reward model by domain, with intervals",
    "evaluation_score_ratio": "Accuracy by how clear the votes were",
    "evaluation_length": "Accuracy by how much longer the preferred response is",
    "evaluation_perturbations": "Change of each reward when a response is padded, made polite, reordered or misplaced",
    "evaluation_reliability": "How often the reward is right against how sure it is",
    "evaluation_effects": "Reward against each feature while the others are held",
    "evaluation_spread": "Accuracy against the ensemble's disagreement",
    "evaluation_explorer": "Two responses to a prompt on the surface of the combined reward",
    "ppo_progress": "What is watched during PPO, by episode: reward and its parts, KL, entropy, length and others",
    "ppo_credit": "Share of the reward that each token of a response gets, for two values of lambda",
    "ppo_prompts": "Rewards of the first rollouts by prompt, plain, centred and log-sigmoid",
    "ppo_over_optimisation": "Reward, and the truth where it is known, against the distance from the reference",
    "dpo_margins": "Histograms of the margins and of the length differences of the training pairs",
    "dpo_training": "Loss, margin and accuracy of DPO by step",
    "policies_reward_kl": "Mean reward of each policy against its distance from the start",
}
"""What a figure shows, for its alternative text; the tables of its page hold its numbers."""


def describe(name: str) -> str:
    """The alternative text of figures/NAME."""
    if name.startswith("policies_win"):
        return "Win rate of each policy over the starting policy, with intervals"
    return DESCRIPTIONS.get(name, f"Figure {name.replace('_', ' ')}")


def picture(run: Run, name: str) -> "Markup":
    """figures/NAME.svg as an element that holds it in light and in dark colours."""
    from markupsafe import Markup

    svg = read_text(run.path("figures", f"{name}.svg"))
    width = re.search(r'<svg[^>]*\bwidth="([\d.]+)pt"', svg)
    # Points to CSS pixels; a figure is never drawn larger than it was made.
    size = f' width="{float(width[1]) * 4 / 3:.0f}"' if width else ""
    return Markup(
        '<picture><source media="screen and (prefers-color-scheme: dark)" srcset="{dark}">'
        '<img alt="{alt}" src="{light}"{size}></picture>'
    ).format(dark=_address(_darkened(svg)), light=_address(svg), alt=describe(name), size=Markup(size))


def _darkened(svg: str) -> str:
    """The SVG for a dark page. White areas become the page's colour; white lines and rims stay, as on the surface."""
    svg = re.sub("#[0-9a-f]{6}", lambda match: _DARK_COLOURS.get(match[0], match[0]), svg)
    return svg.replace("fill: #ffffff", f"fill: {_DARK_PAPER}")


def _address(svg: str) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(_slim(svg).encode()).decode()}"


def _slim(svg: str) -> str:
    """Without matplotlib's metadata and indentation, which no reader sees."""
    return re.sub(r"\n\s+(?=<)", "\n", re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL))
