"""Every figure is drawn; what it shows is read back from its artists."""

import io
import itertools
import warnings
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
from realm_lib.report.figures import theme as theme_of
from realm_lib.reward.effects import partial_effects

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


# A reward of more than two features

NAMES = ("score", "similarity", "Log_words", "a_reward_model_with_a_long_name")
SIGNALS = ("reward_model", *NAMES[1:])


def make_signals(simulated=False):
    features = make_features(simulated)
    rng = np.random.default_rng(3)
    for name in NAMES[2:]:
        features[[f"{name}_A", f"{name}_B"]] = rng.normal(size=(180, 2))
    lift = np.where(features["labels"] == 1, 1, -1)[:, None] * [[0.8, 0]]
    names = ["realm", *SIGNALS, "linear", *(f"realm_without_{name}" for name in NAMES)]
    rewards = {name: lift / (1 + place / 3) + rng.normal(size=(180, 2)) for place, name in enumerate(names)}
    return features, evaluate_rewards(features, rewards, scales=dict.fromkeys(rewards, 1.0), resamples=100)


def worth_of(evaluation):
    cost = {"computed": 1200, "cache_hits": 0, "tokens": 34567, "seconds": 81.0, "cost": 0.5}
    return {
        name: {"gained": evaluation.metrics["differences"][f"realm - realm_without_{name}"], "cost": cost}
        for name in NAMES
    }


def test_every_reward_of_any_signal_has_a_label_and_a_colour_of_its_own():
    _, evaluation = make_signals()
    rewards = evaluation.scales
    colours = [theme_of.colour_of(name, rewards) for name in rewards]
    assert len(set(colours)) == len(rewards)
    assert theme_of.INK not in colours
    assert [theme_of.label_of(name, rewards) for name in ("Log_words", "realm_without_Log_words", "my_own")] == [
        "Log_words alone", "REALM without Log_words", "my_own",
    ]  # fmt: skip
    assert theme_of.colour_of("my_own", rewards) == theme_of.INK
    for draw in (figures.accuracy_bars, figures.difference_bars):
        ax = draw(evaluation)
        ax.figure.canvas.draw()
        labels = ax.get_yticklabels()
        assert {"Log_words alone", "REALM without Log_words"} <= {label.get_text() for label in labels}
        boxes = [label.get_window_extent() for label in labels]
        assert all(not one.overlaps(other) for one, other in itertools.pairwise(boxes))


def test_what_a_feature_adds_stands_beside_what_it_cost():
    _, evaluation = make_signals()
    worth = worth_of(evaluation)
    ax = figures.signal_points(evaluation, worth)
    shown = [label.get_text() for label in ax.get_yticklabels()]
    assert shown == sorted(NAMES, key=lambda name: worth[name]["gained"]["value"])
    for row, name in enumerate(shown):
        gained = worth[name]["gained"]
        lines = [line for line in ax.lines if list(line.get_ydata()) == [row, row]]
        assert [list(line.get_xdata()) for line in lines] == [gained["ci"]]
        assert f"{100 * gained['value']:+.1f}   1,200 computed, 34,567 tokens, 81 s, $0.50" in texts(ax)
    assert any("n = 180 pairs" in text for text in texts(ax))


def test_each_feature_has_an_effect_and_names_what_is_held():
    features, _ = make_signals()
    effects = partial_effects(lambda x: x @ np.array([1, 2, 3, 4]), features, NAMES, points=4)
    axes = figures.effect_lines(effects, responses=360)
    assert [ax.get_title("left") for ax in axes] == [
        "Along the score", "Along the similarity", "Along Log_words", "Along a_reward_model_with_a_long_name",
    ]  # fmt: skip
    assert len(axes[0].figure.axes) == 4
    for ax in axes:
        assert [line.get_label() for line in ax.lines] == ["10 % quantile", "median", "90 % quantile"]
    legends = [ax.get_legend() for ax in axes]
    assert legends[0].get_title().get_text() == "each other one held at its"
    assert legends[1:] == [None] * 3, "it is the same for all"


def test_the_surface_is_over_the_two_features_that_matter_most():
    features, _ = make_signals()
    asked = []

    def reward_of(points):
        asked.append(points)
        return 5 * points[:, 2] + points[:, 1] + 0.1 * points[:, 0]

    ax = figures.response_surface(reward_of, features, names=NAMES)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("Cosine similarity of prompt and response (-1 to 1)", "Log_words")
    medians = [np.median(features[[f"{name}_A", f"{name}_B"]]) for name in NAMES]
    for place in (0, 3):
        np.testing.assert_allclose(asked[-1][:, place], medians[place], rtol=1e-6)
    assert ax.get_title("left") == "The reward, other features at their medians"


def test_responses_of_more_than_two_features_have_a_surface_each_in_the_same_colours():
    features, _ = make_signals()
    held = []

    def reward_of(points):
        held.append(float(points[0, 3]))
        return points @ np.array([1.0, 5.0, 1.0, 0.5], dtype=np.float32)

    axes = plt.subplots(1, 2)[1]
    responses = [("A", [0.0, 0.4, 0.0, 2.0]), ("B", [40.0, 0.1, 0.0, -2.0])]
    figures.responses_on_surface(reward_of, features, responses, axes, names=NAMES)
    assert held[-2:] == [2.0, -2.0]
    for ax, (name, values) in zip(axes, responses, strict=True):
        assert ax.texts[-1].get_text() == name
        assert tuple(ax.lines[-1].get_xydata()[0]) == (values[0], values[1])
        assert ax.get_xlim()[1] >= 40
        assert ax.get_title("left") == f"The reward, other features as in {name}"
    first, second = (ax.collections[0] for ax in axes)
    assert first.get_clim() == second.get_clim()


def test_reliability_shows_the_bare_differences_before_and_after_the_factor():
    evaluation = make_evaluation(False)
    folded = {"factor": 0.5, "before": {"ece": 0.08}, "after": {"ece": 0.021}}
    ax = figures.reliability(evaluation, ("realm", "reward_model"), folded=folded)
    shown = {line.get_label(): line for line in ax.lines}
    before, after = (
        shown[f"REALM (combined), {label}"] for label in ("before, error 8.0 points", "after, error 2.1 points")
    )
    for line, scale in ((before, 2.0), (after, 1.0)):
        np.testing.assert_allclose(line.get_xdata(), evaluation.reliability("realm", scale=scale)["predicted"])
    assert before.get_xdata().max() > after.get_xdata().max()
    assert ax.child_axes[0].get_xlabel() == "Probability of its preferred response"


def test_a_name_is_drawn_as_it_is_and_short():
    """A dollar sign begins mathematics for matplotlib, which fails on what is none."""
    features = make_features(False)
    names = ["$x_{$", "a$b", "\\frac", "<script>", "y" * 2000, "two\nlines", "面包 🍞"]
    features["domain"] = [names[post % len(names)] for post in features["post_id"]]
    rewards = dict.fromkeys(("realm", "reward_model"), features[["score_A", "score_B"]].to_numpy())
    evaluation = evaluate_rewards(features, rewards, scales=dict.fromkeys(rewards, 1.0), resamples=20)
    ax = figures.accuracy_by_domain(evaluation)
    shown = [label.get_text().partition("  (")[0] for label in ax.get_yticklabels()]
    assert set(shown) == {"$x_{$", "a$b", "\\frac", "<script>", "y" * 26 + "…" + "y" * 13, "two lines", "面包 🍞"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures.set_theme()
        ax.figure.savefig(io.BytesIO(), format="svg")


@pytest.mark.parametrize("simulated", [True, False])
def test_a_probes_choices_stand_over_their_layers_and_the_taken_one_is_marked(simulated):
    ways = [("mean",), ("last",), ("max",), ("mean", "last", "max")]
    rows = [(layers, way) for layers in [(10,), (15,)] for way in ways] + [((10, 15), ways[-1])]
    tried = pd.DataFrame(rows, columns=["layers", "poolings"])
    tried["accuracy"] = 0.5 + np.arange(len(tried)) / 100
    tried["log_loss"] = 0.7
    tried.loc[6, "log_loss"] = 0.6  # the largest after 15 layers, which is not the most often right
    ax = figures.probe_choices(tried, simulated=simulated)
    drawn = {line.get_label(): line for line in ax.lines}
    assert list(drawn) == ["mean", "last", "max", "all of them", "taken: the least loss"]
    assert list(drawn["last"].get_ydata()) == pytest.approx([0.51, 0.55])
    assert list(drawn["all of them"].get_ydata()) == pytest.approx([0.53, 0.57, 0.58])
    names = {round(tick): label.get_text() for tick, label in zip(ax.get_xticks(), ax.get_xticklabels(), strict=True)}
    assert list(names.values())[:2] == ["10", "15"]
    taken, largest = drawn["taken: the least loss"], drawn["max"]
    assert (taken.get_xdata()[0], taken.get_ydata()[0]) == (largest.get_xdata()[1], largest.get_ydata()[1])
    assert names[round(taken.get_xdata()[0])] == "15"
    assert any("simulated" in text for text in texts(ax)) == simulated
