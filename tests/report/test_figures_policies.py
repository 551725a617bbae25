"""Figures of PPO: every watched number has its panel, the curve shows points, intervals and the kept policy."""

from collections.abc import Iterator

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from realm_lib import figures

WATCHED = ["reward", "kl", "kl_coefficient", "approximate_kl", "clip_fraction", "entropy", "value_error"]
WATCHED += ["explained_variance", "grad_norm", "length", "ended", "episodes_per_second", "gold"]
PARTS = ["score", "similarity", "spread"]
SECONDS = [f"seconds_{part}" for part in ("sampling", "reward", "forward", "update")]


@pytest.fixture(autouse=True)
def themed_and_closed() -> Iterator[None]:
    with plt.rc_context():
        figures.set_theme()
        yield
    plt.close("all")


def history(columns: list[str]) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.random((6, len(columns + SECONDS))), columns=columns + SECONDS)
    return table.assign(seconds=table[SECONDS].sum(axis=1), episodes=np.arange(1, 7) * 64)


@pytest.mark.slow
@pytest.mark.parametrize("parts", [PARTS, []])
def test_every_watched_number_is_drawn(parts: list[str]) -> None:
    rows = history(WATCHED + parts)
    rows["explained_variance"] = rows["explained_variance"].astype(object).where(rows.index > 0, None)
    axes = figures.ppo_progress(rows)
    drawn = [line.get_ydata() for ax in axes for line in ax.lines]
    for name in WATCHED + parts:
        assert any(np.array_equal(values, rows[name].astype(float), equal_nan=True) for values in drawn), name
    titled = [ax for ax in axes if ax.get_title("left")]
    assert len(titled) == len(WATCHED) - 1 + len(parts)  # gold is in reward's


def test_a_constant_is_drawn_above_a_zero_line() -> None:
    ax = figures.ppo_progress(history(["kl_coefficient"]).assign(kl_coefficient=0.05))[0]
    assert ax.get_ylim() == (0.0, 0.1)


def test_a_long_curve_has_numbers_at_its_ends_and_at_the_kept_policy() -> None:
    steps = np.arange(0, 40, 4)
    curve = pd.DataFrame({"step": steps, "kl": steps / 10, "reward": np.sqrt(steps)})
    left, _ = figures.over_optimisation(
        {"plain": curve, "other": curve.assign(kl=steps / 8)}, kept={"plain": 12, "other": 36}
    )
    numbers = [text.get_text() for text in left.texts if text.get_text().isdigit()]
    assert sorted(numbers) == ["0", "12", "36", "36"], "the start, which both share, has one"


@pytest.mark.parametrize("judged", [True, False])
def test_the_curve_has_its_intervals_and_a_ring_at_the_kept_policy(judged: bool) -> None:
    rows = {"step": [0, 4, 8], "kl": [0.0, 2.0, 5.0], "prompts": [40, 40, 40]}
    for name in ("reward", "gold")[: 1 + judged]:
        rows |= {name: [0.0, 0.3, 0.5], f"{name}_low": [0.0, 0.1, 0.2], f"{name}_high": [0.0, 0.5, 0.9]}
    left, right = figures.over_optimisation({"plain": pd.DataFrame(rows)}, kept={"plain": 4}, simulated=judged)
    for ax in (left, right) if judged else (left,):
        lines = [line.get_xydata().tolist() for line in ax.lines]
        assert [[0.0, 0.0], [2.0, 0.3], [5.0, 0.5]] in lines
        assert [[2.0, 0.3]] in lines, "the ring"
        bars = [segment.tolist() for segment in ax.collections[0].get_segments()]
        assert bars[1:] == [[[2.0, 0.1], [2.0, 0.5]], [[5.0, 0.2], [5.0, 0.9]]]
        assert {"0", "4", "8"} == {text.get_text() for text in ax.texts if text.get_text().isdigit()}
    assert any("40 prompts" in text.get_text() for text in left.texts)


def test_the_credit_of_the_first_token_is_written_beside_its_line() -> None:
    ax = figures.token_credit({0.5: [0.25, 0.5, 1.0], 1.0: [1.0, 1.0, 1.0]})
    assert [line.get_ydata().tolist() for line in ax.lines] == [[0.25, 0.5, 1.0], [1.0, 1.0, 1.0]]
    said = [text.get_text() for text in ax.texts]
    assert "λ = 0.5: 25 % for the first" in said
    assert "λ = 1: 100 % for the first" in said


def test_every_part_of_a_reward_has_a_panel_beside_the_features_that_are_known() -> None:
    rows = history(["reward", "score", "kl", "politeness", "outside"])
    axes = figures.ppo_progress(rows, parts=("score", "politeness"))
    titles = [ax.get_title("left") or ax.get_title() for ax in axes[:5]]
    assert titles == [
        "Reward",
        "Reward model's score",
        "politeness",
        "Outside the training range",
        "KL from the reference",
    ]


def test_rewards_stand_by_prompt_in_the_order_of_their_means() -> None:
    means = [2.0, -1.0, 0.5]
    rows = pd.DataFrame(
        [
            {"step": 1, "question": n, "none": mean + own, "centred": own}
            for n, mean in enumerate(means)
            for own in (-1, 1)
        ]
    )
    between = {"none": {"share": 0.426}, "centred": None}
    plain, centred = figures.rewards_by_prompt(rows, between, simulated=True)
    points = np.asarray(plain.collections[0].get_offsets())
    assert points[:, 0].tolist() == [3, 3, 1, 1, 2, 2]
    assert points[:, 1].tolist() == rows["none"].tolist()
    assert np.asarray(centred.collections[0].get_offsets())[:, 1].tolist() == [-1, 1] * 3
    assert [text.get_text() for text in plain.texts] == ["simulated · 43 % of the variance between prompts"]
    assert [text.get_text() for text in centred.texts] == ["simulated"]
    (alone,) = figures.rewards_by_prompt(rows[["step", "question", "none"]], None)
    assert alone.get_title("left") == "Reward"
    (empty,) = figures.rewards_by_prompt(pd.DataFrame(), None)
    assert not empty.axison
