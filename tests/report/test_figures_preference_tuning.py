"""Figures and tables of DPO and of the comparison: what they show is read back from their artists."""

import itertools
import re
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from support.policies_made_up import made_up_comparison

from realm_lib import figures
from realm_lib.report.figures.labels import Label, along, label_points
from realm_lib.report.figures.preference_tuning import (
    dpo_training,
    pair_lengths,
    pair_margins,
    policy_colour,
    reward_against_kl,
    win_rate_bars,
)
from realm_lib.report.figures.texts import interval_table, text_table


@pytest.fixture(autouse=True)
def theme() -> Any:
    with mpl.rc_context():
        figures.set_theme()
        yield
    plt.close("all")


HISTORY = pd.DataFrame(
    [
        {"step": step, "split": split, "loss": 0.693 - step / 50, "margin": step / 10, "accuracy": 0.5 + step / 40}
        for step in range(9)
        for split in ("training", "held out")
        if split == "training" or step % 4 == 0
    ]
)


def metrics(simulated: bool) -> dict[str, Any]:
    judges = ["realm", "gold"] if simulated else ["realm"]
    policies: dict[str, Any] = {}
    for place, (name, kl) in enumerate(
        {"base": 0.0, "best_of_4": 0.6, "best_of_16": 1.8, "ppo": 9.0, "dpo": -0.2}.items()
    ):
        rate = {
            "win_rate": 0.5 + place / 20,
            "ci": [0.4, 0.8],
            "length_controlled": 0.45,
            "length_controlled_ci": [0.3, 0.6],
        }
        policies[name] = {judge: {"mean": place - 2.0, "ci": [place - 2.5, place - 1.5]} for judge in judges}
        policies[name] |= {"kl": kl, "by_judge": dict.fromkeys(judges, rate)}
    policies["ppo"]["kl_error"] = 0.7
    return {"judge": judges[-1], "prompts": 64, "policies": policies}


def texts(ax: Any) -> list[str]:
    return [text.get_text() for text in ax.figure.findobj(mpl.text.Text) if text.get_text()]


@pytest.mark.slow
@pytest.mark.parametrize("simulated", [True, False])
def test_each_figure_has_labels_its_n_and_says_simulated_where_it_is(simulated: bool) -> None:
    drawn = {
        "margins": pair_margins([0.1, 0.5, 2.0], simulated=simulated),
        "training": dpo_training(HISTORY, held_out_pairs=140, simulated=simulated)[1],
        "wins": win_rate_bars(metrics(simulated)),
        "kl": reward_against_kl(metrics(simulated))[0],
    }
    for name, ax in drawn.items():
        assert ax.get_xlabel(), name
        assert ax.get_ylabel() or ax.get_yticklabels(), name
        assert any("n = " in text for text in texts(ax)), name
        assert any("simulated" in text for text in texts(ax)) == simulated, name
        ax.figure.canvas.draw()


def test_lengths_are_shown_around_0_with_their_mean() -> None:
    ax = pair_lengths([-10, 0, 4, 30], simulated=True)
    counts = [patch.get_height() for patch in ax.patches]
    edges = [patch.get_x() for patch in ax.patches] + [ax.patches[-1].get_x() + ax.patches[-1].get_width()]
    assert sum(counts) == 4
    np.testing.assert_allclose(edges, -np.array(edges[::-1]), atol=1e-9)
    assert [line.get_xdata()[0] for line in ax.lines][:2] == [0.0, 6.0]
    assert "mean +6.0" in [text.get_text() for text in ax.texts]
    for bad in ([], [1.0, np.nan]):
        with pytest.raises(ValueError, match="must be finite, and there must be some"):
            pair_lengths(bad, simulated=True)


def test_training_is_drawn_by_step_and_split_with_a_line_for_a_policy_that_did_not_move() -> None:
    axes = dpo_training(HISTORY, simulated=False)
    for ax, column, unmoved in zip(axes, ("loss", "margin", "accuracy"), (0.693, 0.0, 0.5), strict=True):
        training, held_out, dashed = ax.lines
        for line, split in ((training, "training"), (held_out, "held out")):
            some = HISTORY[HISTORY["split"] == split]
            assert line.get_xdata().tolist() == some["step"].tolist()
            assert line.get_ydata().tolist() == some[column].tolist()
        assert list(dashed.get_ydata()) == [unmoved, unmoved]


def test_bars_show_both_rates_with_their_intervals_for_the_judge_that_is_asked() -> None:
    found = metrics(True)
    found["policies"]["dpo"]["by_judge"]["realm"] = {
        "win_rate": 0.9, "ci": [0.85, 0.95], "length_controlled": 0.7, "length_controlled_ci": [0.6, 0.8],
    }  # fmt: skip
    for judge in ("realm", "gold"):
        ax = win_rate_bars(found, judge=judge)
        own = [line for line in ax.lines if line.get_color() == policy_colour("dpo")]
        entry = found["policies"]["dpo"]["by_judge"][judge]
        assert [list(line.get_xdata()) for line in own] == [
            entry["ci"], [entry["win_rate"]], entry["length_controlled_ci"], [entry["length_controlled"]],
        ]  # fmt: skip
        assert [line.get_markerfacecolor() for line in own][1::2] == [policy_colour("dpo"), "white"]
        shown = [label.get_text() for label in ax.get_yticklabels()]
        assert shown == ["DPO", "PPO", "Best-of-16", "Best-of-4"]
        assert any(f"judge: {'REALM' if judge == 'realm' else 'the simulated truth'}" in text for text in texts(ax))


def test_a_rate_at_equal_length_that_is_not_known_is_not_drawn() -> None:
    found = metrics(True)
    found["policies"]["dpo"]["by_judge"]["gold"] |= {"length_controlled": None, "length_controlled_ci": None}
    own = [line for line in win_rate_bars(found).lines if line.get_color() == policy_colour("dpo")]
    assert [line.get_markerfacecolor() for line in own][1::2] == [policy_colour("dpo")]


def test_every_policy_stands_at_its_reward_and_distance() -> None:
    found = metrics(True)
    for ax, judge in zip(reward_against_kl(found), ("realm", "gold"), strict=True):
        line, *_ = ax.lines
        assert line.get_xydata().tolist() == [[0.0, -2.0], [0.6, -1.0], [1.8, 0.0]], (
            "the start and best-of-n are joined"
        )
        places = {text.get_text(): text.xy for text in ax.texts if hasattr(text, "xy")}
        names = {"Starting policy": "base", "PPO": "ppo", "DPO": "dpo"}
        names |= {"Best-of-4": "best_of_4", "Best-of-16": "best_of_16"}
        for label, name in names.items():
            entry = found["policies"][name]
            assert places[label] == (entry["kl"], entry[judge]["mean"])
        inside = [low <= entry["kl"] <= high for entry in found["policies"].values() for low, high in [ax.get_xlim()]]
        assert all(inside), "an estimate below 0 is shown too"
        at = ax.transData.transform([(0, 0), (1, 0), (4, 0), (9, 0)])[:, 0]
        np.testing.assert_allclose(np.diff(at), at[1] - at[0])


@pytest.mark.parametrize("kl", [0.55, 3.25])
def test_best_of_n_is_drawn_as_a_curve_with_its_band_and_no_label_covers_anything(kl: float) -> None:
    found = made_up_comparison(kl=kl).metrics()
    curve = found["best_of_n"]
    axes = reward_against_kl(found)
    assert any("curve: best-of-n, n = 1 to 6" in text for text in texts(axes[1]))
    for ax, judge in zip(axes, ("realm", "gold"), strict=True):
        one = curve["by_judge"][judge]
        line, *_ = ax.lines
        assert line.get_xydata().tolist() == [list(point) for point in zip(curve["kl"], one["mean"], strict=True)]
        corners = ax.collections[0].get_paths()[0].vertices.tolist()
        for end in ("low", "high"):
            assert all([x, y] in corners for x, y in zip(curve["kl"], one[end], strict=True)), end
        ax.figure.canvas.draw()
        labels = [text for text in ax.texts if text.get_text() in {"Starting policy", "Best-of-4", "PPO"}]
        boxes = [text.get_window_extent() for text in labels]
        assert len(boxes) == 3
        for first, second in itertools.combinations(boxes, 2):
            assert not first.overlaps(second)
        drawn = ax.transData.transform([(e["kl"], e[judge]["mean"]) for e in found["policies"].values()])
        assert not any(box.contains(*point) for box in boxes for point in drawn)
        room = ax.get_window_extent()
        assert all(room.x0 <= box.x0 and box.x1 <= room.x1 for box in boxes)


def test_labels_of_points_that_are_close_keep_apart() -> None:
    _, ax = plt.subplots(figsize=(4, 3))
    points = [(0.5, 0.5), (0.51, 0.5), (0.5, 0.52), (0.52, 0.51)]
    ax.plot(*zip(*points, strict=True), "o")
    ax.set(xlim=(0, 1), ylim=(0, 1))
    line = along([(0.0, 0.4), (1.0, 0.4)])
    label_points(ax, [Label(at, f"policy {n}", "black") for n, at in enumerate(points)], line)
    ax.figure.canvas.draw()
    boxes = [text.get_window_extent() for text in ax.texts]
    assert not any(first.overlaps(second) for first, second in itertools.combinations(boxes, 2))
    assert not any(box.contains(*at) for box in boxes for at in ax.transData.transform([*points, *line]))
    assert [text.xy for text in ax.texts] == points


def test_points_along_a_line_are_on_it() -> None:
    found = along([(0.0, 0.0), (2.0, 4.0), (2.0, 0.0)], steps=5)
    assert len(found) == 3 + 2 * 5
    assert all(y == 2 * x or x == 2 for x, y in found)


@pytest.mark.parametrize("farthest", [0.02, 0.5, 3.0, 40.0, 900.0])
def test_distances_of_any_size_have_a_few_ticks(farthest: float) -> None:
    found = metrics(False)
    found["policies"]["ppo"] |= {"kl": farthest, "kl_error": farthest / 9}
    found["policies"] = {name: found["policies"][name] for name in ("base", "ppo")}
    (ax,) = reward_against_kl(found)
    low, high = ax.get_xlim()
    assert 1 <= sum(low <= tick <= high for tick in ax.get_xticks()) <= 7


def test_margins_that_are_not_numbers_are_refused() -> None:
    for bad in ([], [np.nan]):
        with pytest.raises(ValueError, match="must be finite"):
            pair_margins(bad, simulated=False)


def test_texts_are_shown_as_they_are_cut_where_they_are_long() -> None:
    frame = pd.DataFrame({"prompt": ["<b>Why?</b>\nBecause", "x" * 900], "realm": [1.23456, 2.0]})
    html = text_table(frame, characters=100).to_html()
    assert "&lt;b&gt;Why?&lt;/b&gt;\nBecause" in html, "no HTML of a response's own"
    assert "x" * 100 + " … (900 characters in all)" in html
    assert "x" * 101 not in html
    assert "1.23" in html
    assert "1.2345" not in html
    assert "pre-wrap" in html
    assert "text-align: left" in html
    named = text_table(frame.set_index("prompt"), characters=100).to_html()
    assert "&lt;b&gt;Why?" in named
    assert "<b>" not in named
    assert "(900 characters in all)" in named
    assert frame["prompt"].iloc[1] == "x" * 900, "the frame stays as it is"


def test_counts_are_whole_and_other_numbers_have_two_digits() -> None:
    frame = pd.DataFrame({"update": [12], "reward": [0.5], "response": ["Yeast."]})
    html = text_table(frame).to_html()
    assert re.findall(r">([\d.]+)</td>", html) == ["12", "0.50"]


def test_an_interval_becomes_two_columns() -> None:
    metrics = {
        "realm": {"win_rate": 0.625, "ci": [0.5, 0.75], "mean": 1.0},
        "gold": {"win_rate": 0.5, "ci": [0.25, 0.75], "mean": -2},
    }
    html = interval_table(metrics, shares=("win_rate", "low", "high")).to_html()
    assert re.findall(r'col_heading level0 col\d" >(\w+)<', html) == ["win_rate", "low", "high", "mean"]
    assert re.findall(r">([-\d.]+%?)</td>", html)[:4] == ["62.5%", "50.0%", "75.0%", "1.00"]
    change = interval_table({"reward": {"difference": 0.1234, "ci_of_difference": [0.1, 0.2]}}, digits=3).to_html()
    assert re.findall(r">([\d.]+)</td>", change) == ["0.123", "0.100", "0.200"]


def test_short_names_of_rows_stand_on_one_line() -> None:
    frame = pd.DataFrame({"prompt": ["x" * 40], "policy": ["best-of-16"], "answer": ["Yeast."]})
    html = text_table(frame.set_index(["prompt", "policy"])).to_html()
    assert re.findall(r"\.row_heading\.level(\d) \{\s*white-space: nowrap", html) == ["1"]
