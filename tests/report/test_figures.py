"""Every figure is drawn; what it shows is read back from its artists."""

import io
import itertools
from pathlib import Path
from types import SimpleNamespace

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from realm_lib import figures
from realm_lib.evaluation.judging import evaluate_rewards
from realm_lib.evaluation.learned import partial_effects

DOMAINS = [f"domain{number:02d}" for number in range(18)]


@pytest.fixture(autouse=True)
def theme():
    with mpl.rc_context():
        figures.set_theme()
        yield
    plt.close("all")


def make_features(simulated, pairs=180):
    rng = np.random.default_rng(0)
    features = pd.DataFrame(rng.normal(size=(pairs, 2)), columns=["score_A", "score_B"])
    features[["similarity_A", "similarity_B"]] = rng.uniform(-0.2, 0.9, size=(pairs, 2))
    features["labels"] = rng.integers(0, 2, pairs)
    features["post_id"] = np.arange(pairs) // 2
    features["domain"] = [f"{DOMAINS[post % 18]}_test" for post in features["post_id"]]
    if simulated:
        features[["gold_A", "gold_B"]] = rng.normal(size=(pairs, 2))
    return features


def make_evaluation(simulated):
    features = make_features(simulated)
    lift = np.where(features["labels"] == 1, 1, -1)[:, None] * [[0.8, 0]]
    rng = np.random.default_rng(1)
    rewards = {name: lift * size + rng.normal(size=(180, 2)) for name, size in
               {"realm": 2, "reward_model": 1, "similarity": 0.2, "length": 0.1, "linear": 1.2}.items()}  # fmt: skip
    return evaluate_rewards(features, rewards, scales=dict.fromkeys(rewards, 1.0), resamples=100)


HISTORY = SimpleNamespace(
    train_loss=[0.69, 0.6, 0.55, 0.54],
    validation_loss=[0.68, 0.61, 0.59, 0.6],
    validation_accuracy=[0.55, 0.66, 0.7, 0.69],
    out_of_fold_loss=[],
    best_epoch=3,
)


def draw_all(simulated):
    features, evaluation = make_features(simulated), make_evaluation(simulated)
    loss, accuracy = figures.training_curves(HISTORY, train_pairs=900, validation_pairs=180, simulated=simulated)
    return {
        "score": figures.feature_distributions(features, "score"),
        "similarity": figures.feature_distributions(features, "similarity"),
        "surface": figures.response_surface(lambda x: x[:, 0] * x[:, 1], features),
        "bars": figures.accuracy_bars(evaluation),
        "domains": figures.accuracy_by_domain(evaluation),
        "reliability": figures.reliability(evaluation, ("realm", "reward_model")),
        "loss": loss,
        "accuracy": accuracy,
    }


def texts(ax):
    return [text.get_text() for text in ax.figure.findobj(mpl.text.Text) if text.get_text()]


@pytest.mark.slow
@pytest.mark.parametrize("simulated", [True, False])
def test_each_figure_has_labels_its_n_and_says_simulated_where_it_is(simulated):
    for name, ax in draw_all(simulated).items():
        shown = texts(ax)
        axes = [ax, *ax.child_axes]
        assert any(one.get_xlabel() for one in axes), name
        assert ax.get_ylabel() or ax.get_yticklabels(), name
        assert any("n = " in text for text in shown), name
        assert any("simulated" in text for text in shown) == simulated, name


def test_figures_draw_on_the_axes_given_and_open_no_other():
    evaluation, features = make_evaluation(False), make_features(False)
    figure, axes = plt.subplots(2, 3)
    first, second, third, *pair, last = axes.ravel()
    assert figures.accuracy_bars(evaluation, first) is first
    assert figures.feature_distributions(features, "score", second) is second
    assert figures.accuracy_by_domain(evaluation, ax=third) is third
    assert figures.training_curves(HISTORY, tuple(pair)) == tuple(pair)
    assert figures.reliability(evaluation, ax=last) is last
    assert plt.get_fignums() == [figure.number]


def test_bars_show_points_intervals_chance_and_ceiling():
    evaluation = make_evaluation(True)
    ax = figures.accuracy_bars(evaluation)
    found = evaluation.to_dict()
    for name, reward in found["rewards"].items():
        mine = [line for line in ax.lines if line.get_color() == figures.COLOURS[name]]
        assert any(list(line.get_xdata()) == reward["ci"] for line in mine), name
        assert any(list(line.get_xdata()) == [reward["accuracy"]] for line in mine), name
    verticals = [line.get_xdata()[0] for line in ax.lines if list(line.get_ydata()) == [0, 1]]
    assert verticals == [0.5, found["ceiling"]["accuracy"]]
    accuracy = {figures.LABELS[name]: reward["accuracy"] for name, reward in found["rewards"].items()}
    shown = [label.get_text() for label in ax.get_yticklabels()]
    assert shown == sorted(accuracy, key=accuracy.__getitem__)


def test_domains_are_sorted_by_the_first_reward_with_their_n():
    evaluation = make_evaluation(False)
    found = evaluation.to_dict()["by_domain"]
    shown = [label.get_text() for label in figures.accuracy_by_domain(evaluation).get_yticklabels()]
    assert len(shown) == 18
    domains = [label.split()[0] for label in shown]
    accuracy = [found[domain]["realm"]["accuracy"] for domain in domains]
    assert accuracy == sorted(accuracy)
    assert all(f"(n = {found[domain]['pairs']})" in label for domain, label in zip(domains, shown, strict=True))


def test_domain_names_do_not_overlap():
    ax = figures.accuracy_by_domain(make_evaluation(False))
    ax.figure.canvas.draw()
    boxes = [label.get_window_extent() for label in ax.get_yticklabels()]
    assert all(not one.overlaps(other) for one, other in itertools.pairwise(boxes))
    legend = ax.get_legend().get_window_extent()
    assert not legend.overlaps(ax.xaxis.get_label().get_window_extent())
    assert not legend.overlaps(ax.bbox)


def test_distributions_follow_the_preference():
    features = pd.DataFrame({"score_A": [1.0, 2, 3], "score_B": [11.0, 12, 13], "labels": [0, 0, 1]})
    shown = [text.get_text() for text in figures.feature_distributions(features, "score").get_legend().get_texts()]
    assert shown == ["Chosen, median 11.00", "Rejected, median 2.00"]


def test_surface_asks_the_reward_in_the_order_of_the_features():
    features = make_features(False).assign(similarity_A=100.0, similarity_B=101.0)
    asked = []

    def reward_of(points):
        asked.append(points)
        return points.sum(axis=1)

    figures.response_surface(reward_of, features)
    assert asked[0].dtype == np.float32
    assert asked[0][:, 0].max() < 10
    assert asked[0][:, 1].min() > 90


def test_of_many_domains_the_largest_are_drawn():
    features = make_features(False)
    features["domain"] = ["large"] * 60 + ["small"] * 60 + [f"d{number}" for number in range(60)]
    rewards = {name: np.random.default_rng(1).normal(size=(180, 2)) for name in ("realm", "reward_model")}
    evaluation = evaluate_rewards(features, rewards, scales=dict.fromkeys(rewards, 1.0), resamples=20)
    ax = figures.accuracy_by_domain(evaluation)
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert len(labels) == 24
    assert {"large  (n = 60)", "small  (n = 60)"} <= set(labels)
    assert any("the 24 largest of 62 domains" in text for text in texts(ax))


@pytest.mark.slow
@pytest.mark.parametrize("column", ["score", "similarity"])
def test_a_constant_feature_can_be_drawn(column):
    features = make_features(False).assign(**{f"{column}_A": 0.3, f"{column}_B": 0.3})
    assert figures.feature_distributions(features, column).get_title("left")
    ax = figures.response_surface(lambda points: points[:, 0], features)
    ax.figure.canvas.draw()
    assert ax.get_xlabel()


def test_training_curves_mark_the_best_epoch():
    left, right = figures.training_curves(HISTORY)
    marks = [line for ax in (left, right) for line in ax.lines if line.get_label() == "Best epoch (3)"]
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in marks] == [(3, 0.59), (3, 0.7)]


def test_training_curves_with_the_prior_begin_with_the_weighted_sum():
    history = SimpleNamespace(
        train_loss=[0.6, 0.55, 0.54],
        validation_loss=[0.63, 0.6, 0.61],
        validation_accuracy=[0.62, 0.66, 0.65],
        out_of_fold_loss=[0.62, 0.6, 0.59, 0.61],
        best_epoch=2,
    )
    left, right = figures.training_curves(history)
    marks = [line for ax in (left, right) for line in ax.lines if line.get_label() == "Best epoch (2)"]
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in marks] == [(2, 0.59), (2, 0.65)]
    assert [list(line.get_xdata()) for line in left.lines[:3]] == [[0, 1, 2], [0, 1, 2], [0, 1, 2, 3]]
    assert "0: the weighted sum" in left.get_xlabel()


def test_same_figure_same_svg_bytes():
    def svg():
        file = io.BytesIO()
        figures.accuracy_bars(make_evaluation(True)).figure.savefig(file, format="svg", metadata={"Date": None})
        return file.getvalue()

    assert svg() == svg()


def test_each_reward_has_a_colour_of_its_own_and_a_label():
    assert set(figures.COLOURS) == set(figures.LABELS)
    assert len(set(figures.COLOURS.values())) == len(figures.COLOURS)


def test_bad_features_are_refused():
    features = make_features(False)
    with pytest.raises(ValueError, match="lack the column 'score_A'"):
        figures.feature_distributions(features.drop(columns="score_A"), "score")
    with pytest.raises(ValueError, match="NaN"):
        figures.feature_distributions(features.assign(score_A=np.nan), "score")
    with pytest.raises(ValueError, match="nothing to draw"):
        figures.feature_distributions(features.iloc[:0], "similarity")


# What an evaluation shows beside its accuracies


def make_texts_evaluation(simulated):
    features = make_features(simulated)
    rng = np.random.default_rng(2)
    for side in "AB":
        features[f"human_ref_{side}"] = ["word " * count for count in rng.integers(1, 30, 180)]
    features["score_ratio"] = rng.uniform(1, 6, 180)
    rewards = {name: rng.normal(size=(180, 2)) for name in ("realm", "reward_model", "length")}
    margin = np.diff(rewards["realm"], axis=1)[:, 0]
    return evaluate_rewards(
        features, rewards, scales=dict.fromkeys(rewards, 1.0), feature_ceiling=margin, resamples=100
    )


def make_perturbations(gold):
    entry = {"change": 0.4, "ci": [0.3, 0.5], "raised": 0.9, "won": 0.1}
    names = ["realm", "reward_model", "similarity", *(["gold"] if gold else [])]
    kinds = {kind: {"responses": 40} | dict.fromkeys(names, entry) for kind in ("padded", "wrong_prompt")}
    return {"pairs": 20, "posts": 20, "kinds": kinds | {"reordered": {"responses": 0}}}


SEEDS = {"ensemble": [0.7, 0.71], "members": [0.69, 0.7, 0.71, 0.72], "sd": 0.007, "members_sd": 0.01}
RETRAINED = SEEDS | {"retrained": {"realm": [0.7, 0.69, 0.72]}}
SPREAD = pd.DataFrame(
    {"disagreement": [0.1, 0.4], "accuracy": [0.8, 0.6], "low": [0.7, 0.5], "high": [0.9, 0.7], "pairs": [90, 90]}
)


@pytest.mark.slow
@pytest.mark.parametrize("simulated", [True, False])
def test_the_other_figures_have_n_and_say_simulated_where_it_is(simulated):
    evaluation = make_texts_evaluation(simulated)
    effects = partial_effects(lambda x: x.sum(axis=1), make_features(simulated), points=4)
    left, right = figures.effect_lines(effects, responses=360, simulated=simulated)
    drawn = {
        "score_ratio": figures.accuracy_by_group(evaluation, "by_score_ratio", ("realm", "reward_model")),
        "length": figures.accuracy_by_group(evaluation, "by_length_difference"),
        "size": figures.accuracy_by_group(evaluation, "by_post_size", ("realm",)),
        "differences": figures.difference_bars(evaluation),
        "perturbations": figures.perturbation_points(make_perturbations(simulated)),
        "seeds": figures.seed_points(SEEDS, [0.65, 0.75], pairs=180, simulated=simulated),
        "seeds and stand-ins": figures.seed_points(RETRAINED, [0.65, 0.75], pairs=180, simulated=simulated),
        "spread": figures.spread_points(SPREAD, simulated=simulated),
        "left": left,
        "right": right,
    }
    for name, ax in drawn.items():
        shown = texts(ax)
        assert ax.get_xlabel(), name
        assert any("n = " in text for text in shown), name
        assert any("simulated" in text for text in shown) == simulated, name


def test_groups_show_their_accuracy_and_interval():
    evaluation = make_texts_evaluation(False)
    ax = figures.accuracy_by_group(evaluation, "by_score_ratio", ("realm",))
    groups = evaluation.metrics["by_score_ratio"]
    points = [line for line in ax.lines if line.get_marker() == "o" and len(line.get_xdata()) == len(groups)]
    assert list(points[0].get_ydata()) == [part["realm"]["accuracy"] for part in groups.values()]
    intervals = [list(line.get_ydata()) for line in ax.lines]
    assert all(list(part["realm"]["ci"]) in intervals for part in groups.values())
    labels = [label.get_text() for label in ax.get_xticklabels()]
    assert labels == [f"≥ {key}\nn = {part['pairs']}" for key, part in groups.items()]


def test_differences_are_drawn_with_their_interval_and_corrected_p():
    evaluation = make_texts_evaluation(False)
    ax = figures.difference_bars(evaluation)
    for name, found in evaluation.metrics["differences"].items():
        colour = figures.COLOURS[name.removeprefix("realm - ")]
        mine = [line for line in ax.lines if line.get_color() == colour]
        assert any(list(line.get_xdata()) == found["ci"] for line in mine), name
        assert any(list(line.get_xdata()) == [found["value"]] for line in mine), name
        p = "p < 0.001" if found["p_holm"] < 0.001 else f"p = {found['p_holm']:.3f}"
        assert any(text.startswith(f"{100 * found['value']:+.1f}") and text.endswith(p) for text in texts(ax)), name


def test_labels_of_the_two_ceilings_do_not_overlap():
    evaluation = make_texts_evaluation(True)
    for metric, value in (("ceiling", 0.81), ("feature_ceiling", 0.71)):
        evaluation.metrics[metric]["accuracy"] = value
    ax = figures.accuracy_bars(evaluation)
    ax.figure.canvas.draw()
    boxes = [text.get_window_extent() for text in ax.texts if "ceiling" in text.get_text() or "best" in text.get_text()]
    assert len(boxes) == 2
    assert not boxes[0].overlaps(boxes[1])


def test_perturbations_show_the_mean_change_with_its_interval():
    ax = figures.perturbation_points(make_perturbations(True))
    assert sum(list(line.get_xdata()) == [0.3, 0.5] for line in ax.lines) == 8
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels == ["Empty phrases\nat the end (n = 40)", "Under another\npost (n = 40)"]


def test_the_readmes_pipeline_is_the_one_that_is_drawn(tmp_path):
    from realm_lib.report.figures.pipeline import main

    main(str(tmp_path / "pipeline.svg"))
    committed = Path(__file__).parents[2] / "outputs" / "reference" / "demo" / "figures" / "pipeline.svg"
    assert (tmp_path / "pipeline.svg").read_bytes() == committed.read_bytes()
