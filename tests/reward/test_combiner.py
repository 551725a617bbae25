"""The combiner: right against slow float64 oracles, better than linear where it should be, whole after a kill."""

import json
import logging
import math
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch.optim.optimizer import register_optimizer_step_pre_hook

from realm_lib.config.training import ModelParams, TrainingParams
from realm_lib.data.posts import post_key
from realm_lib.reward.combiner import (
    FEATURES,
    Combiner,
    CombinerError,
    LinearCombiner,
    TrainingHistory,
    chosen_and_rejected,
    feature_matrix,
)
from realm_lib.reward.combiner.network import (
    bradley_terry_loss,
    draw_dropped,
    dropout_threshold,
    member_rewards,
    new_layers,
)
from realm_lib.reward.combiner.plain import train_plain
from realm_lib.reward.combiner.training import TrainingPairs, effective_batch_size, effective_learning_rate
from realm_lib.runs.seeds import derive_seed
from realm_lib.runs.trained_on import read_trained_on

Matrix = NDArray[np.floating[Any]]

QUICK = TrainingParams(num_epochs=2, learning_rate=1e-3)
BRISK = TrainingParams(num_epochs=4, learning_rate=1e-3)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The slow loops' steps are too small to share: on busy cores their threads would mostly wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def gated(quality: Matrix, similarity: Matrix) -> Matrix:
    """A utility that is an interaction: quality counts only where the response is on topic."""
    return 4 / (1 + np.exp(-(similarity - 0.45) / 0.06)) * (quality + 0.5)


def linear(quality: Matrix, similarity: Matrix) -> Matrix:
    return 1.2 * quality + 3.0 * similarity


def by_chance(quality: Matrix, _: Matrix) -> Matrix:
    """No truth at all: every preference is a coin's."""
    return 0 * quality


def make_pairs(count: int, seed: int, utility: Callable[[Matrix, Matrix], Matrix] = gated) -> pd.DataFrame:
    """Pairs labelled by Bradley-Terry from ``utility``; the reward is a noisy quality, on a scale of its own."""
    generator = np.random.default_rng(seed)
    quality = generator.normal(size=(count, 2))
    similarity = np.clip(generator.normal(0.45, 0.2, size=(count, 2)), -1, 1)
    reward = 3 * quality - 7 + generator.normal(scale=0.5, size=(count, 2))
    utilities = utility(quality, similarity)
    labels = generator.random(count) < 1 / (1 + np.exp(utilities[:, 1] - utilities[:, 0]))
    return pd.DataFrame(
        {
            "post_id": [f"post{row // 3}" for row in range(count)],
            "score_A": reward[:, 0],
            "score_B": reward[:, 1],
            "similarity_A": similarity[:, 0],
            "similarity_B": similarity[:, 1],
            "labels": labels.astype(int),
        }
    )


def swapped(pairs: pd.DataFrame) -> pd.DataFrame:
    """The same preferences, A and B exchanged."""
    names = {f"{name}_{side}": f"{name}_{other}" for name in FEATURES for side, other in ("AB", "BA")}
    return pairs.rename(columns=names).assign(labels=1 - pairs["labels"])


def judge(model: Combiner | LinearCombiner, pairs: pd.DataFrame) -> tuple[float, float]:
    """Log-loss and accuracy."""
    chosen, rejected = chosen_and_rejected(pairs)
    margin = model.reward(chosen).astype(np.float64) - model.reward(rejected)
    return float(np.logaddexp(0, -margin).mean()), float((margin > 0).mean() + 0.5 * (margin == 0).mean())


def plain_of(members: int = 1, **model: Any) -> Combiner:
    """Without the prior: the seed document's network."""
    return Combiner(ModelParams(ensemble=members, prior=None, **model))


def fitted(members: int = 1, seed: int = 42, **model: Any) -> Combiner:
    combiner = Combiner(ModelParams(ensemble=members, **model))
    combiner.fit(make_pairs(400, 1), make_pairs(100, 2), QUICK.model_copy(update={"seed": seed}))
    return combiner


def weights_of(combiner: Combiner) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in combiner.state_dict().items()}


def assert_same_bits(one: Combiner, other: Combiner) -> None:
    theirs = weights_of(other)
    for name, tensor in weights_of(one).items():
        assert torch.equal(tensor, theirs[name]), name


# What it learns


@pytest.mark.slow
def test_beats_logistic_regression_where_the_truth_is_an_interaction() -> None:
    train, validation, test = make_pairs(5000, 1), make_pairs(1000, 2), make_pairs(20000, 3)
    combiner = Combiner()
    combiner.fit(train, validation, BRISK)
    loss, accuracy = judge(combiner, test)
    linear_loss, linear_accuracy = judge(LinearCombiner().fit(train), test)
    assert loss < linear_loss - 0.05
    assert accuracy > linear_accuracy + 0.02


@pytest.mark.slow
def test_equals_logistic_regression_where_the_truth_is_linear() -> None:
    train, validation, test = (make_pairs(n, s, linear) for n, s in ((6000, 1), (1000, 2), (20000, 3)))
    combiner = Combiner()
    combiner.fit(train, validation, BRISK)
    loss, accuracy = judge(combiner, test)
    linear_loss, linear_accuracy = judge(LinearCombiner().fit(train), test)
    assert loss == pytest.approx(linear_loss, abs=0.01)
    assert accuracy == pytest.approx(linear_accuracy, abs=0.005)


def test_order_of_a_and_b_does_not_matter() -> None:
    train, validation, test = make_pairs(600, 1), make_pairs(200, 2), make_pairs(500, 3)
    shuffled_sides = pd.concat([swapped(train[:300]), train[300:]])
    one, other = Combiner(), Combiner()
    one.fit(train, validation, QUICK)
    other.fit(shuffled_sides, swapped(validation), QUICK)
    assert_same_bits(one, other)
    assert judge(one, test) == judge(one, swapped(test))


def test_scale_and_offset_of_the_features_do_not_matter() -> None:
    moved = {name: (lambda pairs, name=name: 40 * pairs[name] - 500) for name in ("score_A", "score_B")}
    train, validation, test = make_pairs(1000, 1), make_pairs(300, 2), make_pairs(1000, 3)
    one, other = Combiner(), Combiner()
    one.fit(train, validation, QUICK)
    other.fit(train.assign(**moved), validation.assign(**moved), QUICK)
    assert judge(one, test) == pytest.approx(judge(other, test.assign(**moved)), abs=2e-3)


# The arithmetic, against loops in float64


def slow_reward(features: Matrix, layers: list[tuple[Matrix, Matrix]]) -> float:
    """One response, one member, in Python's floats."""
    hidden = [float(value) for value in features]
    for number, (weight, bias) in enumerate(layers):
        hidden = [
            sum(value * float(weight[row, column]) for row, value in enumerate(hidden)) + float(bias[0, column])
            for column in range(weight.shape[1])
        ]
        if number < len(layers) - 1:
            hidden = [max(0.0, value) for value in hidden]
    return hidden[0]


def test_forward_mean_and_spread_agree_with_a_loop() -> None:
    combiner = fitted(members=3)
    features = np.random.default_rng(0).normal([-7, 0.4], [3, 0.2], size=(20, 2)).astype(np.float32)
    state = {name: tensor.double().numpy() for name, tensor in weights_of(combiner).items()}
    standardised = (features - state["feature_mean"]) / state["feature_std"]
    standardised = np.clip(standardised, state["feature_low"], state["feature_high"])
    slow = np.array(
        [
            [
                slow_reward(row, [(state[f"weights.{n}"][member], state[f"biases.{n}"][member]) for n in range(3)])
                + float(row @ state["linear_weights"][member][:, 0])
                for row in standardised
            ]
            for member in range(3)
        ]
    )
    mean, spread = combiner.reward_and_spread(features)
    assert mean.dtype == spread.dtype == np.float32
    np.testing.assert_allclose(combiner(torch.from_numpy(features)).detach(), slow, atol=2e-5)
    np.testing.assert_allclose(mean, slow.mean(axis=0), atol=2e-5)
    np.testing.assert_allclose(spread, slow.std(axis=0), atol=2e-5)
    np.testing.assert_array_equal(combiner.reward(features), mean)


@given(st.lists(st.floats(-80, 80, width=32), min_size=1, max_size=20))
def test_loss_agrees_with_its_definition(margins: list[float]) -> None:
    found = bradley_terry_loss(torch.tensor(margins, dtype=torch.float64))
    # log1p keeps the definition exact where the probability rounds to 1.
    wanted = [math.log1p(math.exp(-m)) if m > 0 else -m + math.log1p(math.exp(m)) for m in margins]
    np.testing.assert_allclose(found, wanted, rtol=1e-12)


def test_loss_is_finite_for_hopeless_margins() -> None:
    assert bradley_terry_loss(torch.tensor([-1e30, 1e30])).tolist() == pytest.approx([1e30, 0.0])


def test_gradients_with_dropout_agree_with_finite_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    layers = [(weight.requires_grad_(), bias.requires_grad_()) for weight, bias in new_layers([2, 5, 4, 1], [1, 2])]
    features = torch.randn(2, 6, 2, generator=generator, dtype=torch.float64)
    dropped = [torch.rand(2, 6, width, generator=generator) < 0.3 for width in (5, 4)]
    flat = [tensor for layer in layers for tensor in layer]

    def rewards(*tensors: torch.Tensor) -> torch.Tensor:
        return member_rewards(features, list(zip(tensors[0::2], tensors[1::2], strict=True)), dropped, keep=0.7)

    assert torch.autograd.gradcheck(rewards, flat)


def slow_training(
    train: torch.Tensor, model: ModelParams, params: TrainingParams, member: int, dropout_epochs: int
) -> Any:
    """A member's training as the usual float64 loop, without batching over members, kernels in place or fusion.

    Only the random draws are shared with the library. Dropout is on in the first ``dropout_epochs`` epochs.
    """
    layers = [
        (weight[0].requires_grad_(), bias[0].requires_grad_())
        for weight, bias in new_layers([2, 64, 32, 1], [derive_seed(params.seed, "combiner", member, "weights")])
    ]
    size = effective_batch_size(len(train), params)
    optimiser = torch.optim.AdamW(
        [tensor for layer in layers for tensor in layer],
        effective_learning_rate(size, params),
        weight_decay=params.weight_decay,
        fused=False,
    )
    steps = math.ceil(len(train) / size)
    threshold = dropout_threshold(model.dropout)
    for epoch in range(params.num_epochs):
        generator = torch.Generator().manual_seed(derive_seed(params.seed, "combiner", member, "epoch", epoch))
        order = torch.randperm(len(train), generator=generator)
        for batch in order.tensor_split(steps):
            dropped = draw_dropped([generator], 2 * len(batch), model.hidden_dims, threshold)
            hidden = torch.cat([train[batch, 0], train[batch, 1]])
            for number, (weight, bias) in enumerate(layers):
                hidden = hidden @ weight + bias
                if number < len(layers) - 1:
                    hidden = hidden.relu()
                    if epoch < dropout_epochs:
                        hidden = hidden * ~dropped[number][0] / (1 - threshold / 2**16)
            margin = hidden[: len(batch), 0] - hidden[len(batch) :, 0]
            loss = -torch.nn.functional.logsigmoid(margin).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return layers


def test_training_agrees_with_a_plain_loop_and_dropout_is_on_in_every_epoch() -> None:
    generator = torch.Generator().manual_seed(0)
    train, validation = (torch.randn(size, 2, 2, generator=generator, dtype=torch.float64) for size in (150, 60))
    pairs = TrainingPairs(train, validation, torch.arange(150))
    # The truth that validation asks for is the sum of the features: every epoch is better than the one before.
    for tensor in (pairs.train, pairs.validation):
        order = tensor.sum(dim=2, keepdim=True).argsort(dim=1, descending=True)
        tensor.copy_(tensor.gather(1, order.expand(-1, -1, 2)))
    model = ModelParams(dropout=0.3, ensemble=3, prior=None)
    params = TrainingParams(num_epochs=3, learning_rate=1e-3, weight_decay=0.1, seed=5)
    members, history = train_plain(pairs, model, params)
    assert history.member_epochs == [3, 3, 3]

    def furthest(dropout_epochs: int) -> float:
        return max(
            float((found[member] - slow).detach().abs().max())
            for member in range(3)
            for layer, slow_layer in zip(
                members.layers, slow_training(pairs.train, model, params, member, dropout_epochs), strict=True
            )
            for found, slow in zip(layer, slow_layer, strict=True)
            # The output's bias has a gradient of 0 but for rounding, which Adam makes a step of.
            if found.shape[1:] != (1, 1)
        )

    assert furthest(dropout_epochs=3) < 1e-10
    # A fault that this test must see: an evaluation that leaves dropout off for the epochs after it.
    assert furthest(dropout_epochs=1) > 1e-2


@pytest.mark.parametrize("dropout", [0.1, 0.5, 0.93])
def test_dropout_rate_is_as_asked_and_units_are_independent(dropout: float) -> None:
    generators = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    first, second = (part.double() for part in draw_dropped(generators, 20001, [7, 5], dropout_threshold(dropout)))
    assert first.shape == (2, 20001, 7)
    assert second.shape == (2, 20001, 5)
    both = torch.cat([first, second], dim=2)
    error = (dropout * (1 - dropout) / 20001) ** 0.5
    assert (both.mean(dim=1) - dropout).abs().max() < 5 * error
    columns = torch.cat([both[0], both[1]], dim=1).T
    between = torch.corrcoef(columns) - torch.eye(24)
    assert between.abs().max() < 5 / 20001**0.5
    along_rows = torch.corrcoef(torch.stack([both[0, 1:].flatten(), both[0, :-1].flatten()]))[0, 1]
    assert along_rows.abs() < 5 / (20000 * 12) ** 0.5


@given(st.integers(1, 10**7), st.integers(1, 10**6))
def test_batches_are_never_larger_than_asked_or_than_the_pairs(pairs: int, batch_size: int) -> None:
    size = effective_batch_size(pairs, TrainingParams(batch_size=batch_size))
    assert 1 <= size <= min(pairs, batch_size)
    assert size == batch_size or size <= 16 or math.ceil(pairs / size) >= 256


def test_rate_follows_the_square_root_of_the_batch_up_to_a_cap() -> None:
    params = TrainingParams(learning_rate=1e-4)
    assert effective_learning_rate(16, params) == pytest.approx(1e-4)
    assert effective_learning_rate(1600, params) == pytest.approx(1e-3)
    assert effective_learning_rate(10**7, params) == 0.01
    assert effective_learning_rate(10**4, TrainingParams(learning_rate=0.5)) == 0.5


# Members, seeds, history


def test_same_seed_gives_the_same_bits_and_another_seed_others() -> None:
    one, again, other = fitted(seed=1), fitted(seed=1), fitted(seed=2)
    assert_same_bits(one, again)
    assert not torch.equal(one.weights[0], other.weights[0])


def test_members_start_from_weights_of_their_own_within_the_usual_bounds() -> None:
    for (weight, bias), inputs in zip(new_layers([2, 64, 32, 1], [7, 8, 9]), (2, 64, 32), strict=True):
        assert len({float(tensor.sum()) for tensor in weight}) == len({float(tensor.sum()) for tensor in bias}) == 3
        assert max(weight.abs().max(), bias.abs().max()) <= inputs**-0.5
        assert weight.abs().max() > 0.9 * inputs**-0.5
        if inputs > 2:
            assert weight.abs().mean() == pytest.approx(0.5 * inputs**-0.5, rel=0.15)


def test_a_plain_member_is_the_same_in_an_ensemble_of_any_size_and_members_differ() -> None:
    alone, five = (plain_of(members) for members in (1, 5))
    for combiner in (alone, five):
        combiner.fit(make_pairs(400, 1), make_pairs(100, 2), QUICK)
    # But for the scale, which is the ensemble's.
    mine, theirs = (combiner.weights[2][:1] / combiner.scale for combiner in (alone, five))
    torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(alone.weights[1], five.weights[1][:1], atol=1e-6, rtol=1e-6)
    assert len({tuple(parameter.flatten().tolist()) for parameter in five.weights[0]}) == 5
    features = feature_matrix(make_pairs(200, 9))[0]
    mean, spread = five.reward_and_spread(features)
    assert (spread > 0).all()
    assert not alone.reward_and_spread(features)[1].any()
    assert np.abs(mean - alone.reward(features)).max() > 0


def test_rewards_of_the_training_responses_have_mean_zero_for_every_member() -> None:
    chosen, rejected = chosen_and_rejected(make_pairs(400, 1))
    with torch.no_grad():
        for prior in (None, "weighted_sum"):
            rewards = fitted(members=3, prior=prior)(torch.from_numpy(np.concatenate([chosen, rejected])))
            np.testing.assert_allclose(rewards.double().mean(dim=1), 0, atol=1e-5)


@pytest.mark.parametrize("members", [1, 4])
def test_early_stopping_keeps_the_best_epoch_of_each_member(members: int) -> None:
    # Labels by chance and a high rate: validation gets worse while training gets better.
    train, validation = (make_pairs(count, seed, by_chance) for count, seed in ((60, 1), (400, 2)))
    params = TrainingParams(num_epochs=60, learning_rate=0.003, patience=2)
    combiner = plain_of(members, dropout=0.0)
    history = combiner.fit(train, validation, params)
    assert len(history.validation_loss) == max(history.member_epochs) + 2 < 60
    assert len(history.train_loss) == len(history.validation_accuracy) == len(history.validation_loss)
    assert history.best_epoch == 1 + int(np.argmin(history.validation_loss))
    loss, accuracy = judge(combiner, validation)
    assert history.metrics()["validation_loss"] == pytest.approx(loss, abs=1e-5)
    assert history.metrics()["validation_accuracy"] == pytest.approx(accuracy, abs=1e-9)
    assert history.metrics()["train_loss"] == pytest.approx(judge(combiner, train)[0], abs=1e-5)
    # Each member as kept is the member as it was when its best epoch ended.
    for member, epoch in enumerate(history.member_epochs):
        stopped_then = Combiner(combiner.params)
        stopped_then.fit(train, validation, params.model_copy(update={"num_epochs": epoch}))
        torch.testing.assert_close(stopped_then.weights[1][member], combiner.weights[1][member], atol=1e-6, rtol=1e-6)


def test_history_has_a_value_an_epoch_and_the_metrics_that_a_run_writes() -> None:
    history = plain_of().fit(make_pairs(400, 1), make_pairs(100, 2), TrainingParams(num_epochs=3))
    lists = (history.train_loss, history.validation_loss, history.validation_accuracy)
    assert [len(values) for values in lists] == [3] * 3
    names = ["best_epoch", "train_loss", "validation_loss", "validation_accuracy", "seconds"]
    assert list(history.metrics()) == [*names, "prior_pairs", "bend", "scale", "evidence", "linear"]
    # The scale can only make the loss of the validation pairs less.
    assert history.metrics()["validation_loss"] <= min(history.validation_loss) + 1e-12
    assert history.metrics()["validation_accuracy"] == history.validation_accuracy[history.best_epoch - 1]
    assert history.metrics()["evidence"] is None
    assert history.metrics()["linear"] == {"score": 0.0, "similarity": 0.0}
    assert history.batch_size == 16
    assert history.seconds > 0
    assert isinstance(history, TrainingHistory)


def test_fit_starts_over_and_shows_a_bar_only_when_asked(capfd: pytest.CaptureFixture[str]) -> None:
    combiner = fitted(seed=1)
    combiner.fit(make_pairs(400, 1), make_pairs(100, 2), QUICK.model_copy(update={"seed": 2}))
    assert_same_bits(combiner, fitted(seed=2))
    assert "epoch" not in capfd.readouterr().err
    combiner.fit(make_pairs(400, 1), make_pairs(100, 2), QUICK, progress=True)
    assert "2/2" in capfd.readouterr().err


def test_fit_leaves_torch_as_it_was_and_does_not_depend_on_it() -> None:
    wanted, threads = fitted(), torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        for switched_off in (torch.no_grad, torch.inference_mode):
            with switched_off():
                assert_same_bits(fitted(), wanted)
                assert not torch.is_grad_enabled()
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def test_one_pair_is_enough_to_run() -> None:
    combiner = Combiner()
    history = combiner.fit(make_pairs(1, 1), make_pairs(1, 2), QUICK)
    assert history.batch_size == 1
    assert np.isfinite(combiner.reward([[0.0, 0.0]])).all()


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 20000))
def test_a_reward_does_not_depend_on_its_neighbours(count: int) -> None:
    combiner = _shared_combiner()
    features = np.random.default_rng(count).normal([-7, 0.4], [3, 0.2], size=(count, 2)).astype(np.float32)
    rewards = combiner.reward(features)
    assert rewards.shape == (count,)
    assert rewards.dtype == np.float32
    if count:
        np.testing.assert_allclose(combiner.reward(features[count // 2 :][:1])[0], rewards[count // 2], atol=1e-5)
        np.testing.assert_allclose(combiner.reward(features[::-1]), rewards[::-1], atol=1e-5)


_SHARED: list[Combiner] = []


def _shared_combiner() -> Combiner:
    """One fit for all of hypothesis's examples."""
    if not _SHARED:
        _SHARED.append(fitted(members=2))
    return _SHARED[0]


# Bad input


def test_missing_columns_are_named() -> None:
    pairs = make_pairs(5, 1)
    with pytest.raises(CombinerError, match=r"\['similarity_A', 'score_B'\]"):
        feature_matrix(pairs.drop(columns=["score_B", "similarity_A"]))
    with pytest.raises(CombinerError, match="labels"):
        Combiner().fit(pairs.drop(columns="labels"), pairs, QUICK)
    with pytest.raises(CombinerError, match="labels"):
        LinearCombiner().fit(pairs.drop(columns="labels"))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e39, None])
@pytest.mark.parametrize("column", ["score_A", "similarity_B"])
def test_rows_that_are_not_finite_are_named(column: str, bad: float | None) -> None:
    pairs = make_pairs(9, 1).set_index(pd.Index([f"row{n}" for n in range(9)]))
    pairs.loc["row4", column] = bad
    for refused in (lambda: feature_matrix(pairs), lambda: LinearCombiner().fit(pairs)):
        with pytest.raises(CombinerError, match=r"1 of 9 pairs .*row4"):
            refused()
    with pytest.raises(CombinerError, match="row4"):
        Combiner().fit(make_pairs(9, 1), pairs, QUICK)


def test_columns_that_are_not_numbers_are_refused() -> None:
    with pytest.raises(CombinerError, match="not numbers"):
        feature_matrix(make_pairs(3, 1).assign(score_A="high"))


@pytest.mark.parametrize("bad", [2, -1, 0.5, None, "1"])
def test_labels_other_than_0_and_1_are_refused(bad: Any) -> None:
    pairs = make_pairs(9, 1).astype({"labels": object})
    pairs.loc[3, "labels"] = bad
    with pytest.raises(CombinerError, match=r"1 of 9 labels .* row 3"):
        chosen_and_rejected(pairs)


def test_labels_of_any_number_type_say_the_same() -> None:
    pairs = make_pairs(50, 1)
    for kind in ("bool", "float64", "int8", "Int64"):
        for found, wanted in zip(
            chosen_and_rejected(pairs.astype({"labels": kind})), chosen_and_rejected(pairs), strict=True
        ):
            np.testing.assert_array_equal(found, wanted)


def test_no_pairs_is_an_error_that_says_which() -> None:
    pairs = make_pairs(9, 1)
    with pytest.raises(CombinerError, match="no training pairs"):
        Combiner().fit(pairs[:0], pairs, QUICK)
    with pytest.raises(CombinerError, match="no validation pairs"):
        Combiner().fit(pairs, pairs[:0], QUICK)
    with pytest.raises(CombinerError, match="no training pairs"):
        LinearCombiner().fit(pairs[:0])


def test_the_posts_of_training_and_validation_are_kept_with_the_weights(tmp_path: Path) -> None:
    train, validation = make_pairs(40, 1), make_pairs(20, 2)
    combiner = Combiner()
    combiner.fit(train.assign(history=["one", "two"] * 20), validation.assign(history="three"), QUICK)
    combiner.save_pretrained(tmp_path / "first")
    Combiner.from_pretrained(tmp_path / "first").save_pretrained(tmp_path / "second")
    assert read_trained_on(tmp_path / "second") == {post_key(post) for post in ("one", "two", "three")}
    combiner.fit(train, validation, QUICK)
    combiner.save_pretrained(tmp_path / "second")
    assert read_trained_on(tmp_path / "second") is None, "nothing is known of tables without posts"


@pytest.mark.parametrize("constant", [0.0, 0.3, -1234.5])
def test_a_constant_feature_is_named_and_ignored(constant: float, tmp_path: Path) -> None:
    train = make_pairs(300, 1).assign(similarity_A=constant, similarity_B=constant)
    combiner, baseline = Combiner(), LinearCombiner()
    with pytest.warns(UserWarning, match="'similarity' is the same"):
        combiner.fit(train, make_pairs(100, 2), QUICK)
    with pytest.warns(UserWarning, match="'similarity' is the same"):
        baseline.fit(train)
    combiner.save_pretrained(tmp_path)
    for model in (combiner, baseline, Combiner.from_pretrained(tmp_path)):
        rewards = model.reward([[1.0, constant], [1.0, 5.0], [3.0, -5.0]])
        assert np.isfinite(rewards).all()
        assert rewards[0] == rewards[1] != rewards[2]


def test_features_that_are_all_constant_are_an_error() -> None:
    train = make_pairs(30, 1).assign(**{f"{name}_{side}": 0.5 for name in FEATURES for side in "AB"})
    with pytest.raises(CombinerError, match="all features"):
        Combiner().fit(train, train, QUICK)


def test_ordinary_training_warns_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fitted(members=2).params.ensemble == 2


def test_training_that_diverges_says_so() -> None:
    with pytest.raises(CombinerError, match=r"diverged in epoch 1 .*training\.learning_rate"):
        Combiner().fit(make_pairs(300, 1), make_pairs(50, 2), TrainingParams(learning_rate=1e30))


@pytest.mark.parametrize("model", [Combiner(), LinearCombiner()])
def test_an_untrained_model_does_not_answer(model: Combiner | LinearCombiner, tmp_path: Path) -> None:
    with pytest.raises(CombinerError, match="not trained"):
        model.reward([[0.0, 0.0]])
    if isinstance(model, Combiner):
        with pytest.raises(CombinerError, match="not trained"):
            model.save_pretrained(tmp_path)


def test_rewards_of_bad_features_are_refused() -> None:
    combiner, baseline = _shared_combiner(), LinearCombiner().fit(make_pairs(50, 1))
    for model in (combiner, baseline):
        with pytest.raises(CombinerError, match=r"shape \[n, 2\]"):
            model.reward(np.zeros((4, 3)))
        with pytest.raises(CombinerError, match=r"shape \[n, 2\]"):
            model.reward(np.zeros(2))
        with pytest.raises(CombinerError, match=r"1 of 3 responses .* row 1"):
            model.reward([[0.0, 0.0], [math.nan, 0.0], [0.0, 0.0]])


# Saving and loading


def test_saved_and_loaded_is_exactly_the_same(tmp_path: Path) -> None:
    combiner = Combiner(ModelParams(hidden_dims=[8, 6, 4], ensemble=3, dropout=0.2))
    combiner.fit(make_pairs(300, 1), make_pairs(100, 2), QUICK)
    combiner.save_pretrained(tmp_path / "new" / "model")
    assert sorted(path.name for path in (tmp_path / "new" / "model").iterdir()) == ["config.json", "model.safetensors"]
    loaded = Combiner.from_pretrained(tmp_path / "new" / "model")
    assert_same_bits(combiner, loaded)
    assert loaded.params == combiner.params
    features = feature_matrix(make_pairs(100, 3))[0]
    np.testing.assert_array_equal(loaded.reward(features), combiner.reward(features))
    config = json.loads((tmp_path / "new" / "model" / "config.json").read_text())
    assert config["features"] == list(FEATURES)
    assert config["model"] == combiner.params.model_dump(mode="json")
    fitted(seed=3).save_pretrained(tmp_path / "new" / "model")
    assert_same_bits(Combiner.from_pretrained(str(tmp_path / "new" / "model")), fitted(seed=3))


def test_training_mode_does_not_change_a_reward() -> None:
    combiner = fitted()
    features = feature_matrix(make_pairs(100, 3))[0]
    before = combiner.eval().reward(features)
    np.testing.assert_array_equal(combiner.train().reward(features), before)


def resealed(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Write other weights under a configuration that carries their digest, as someone else's tool might."""
    import hashlib

    save_file(tensors, folder / "model.safetensors")
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    rewrite(folder, weights_sha256=digest)


def rewrite(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    fitted().save_pretrained(tmp_path)
    good = load_file(tmp_path / "model.safetensors")
    cases = {
        "biases.1 is missing": {name: t for name, t in good.items() if name != "biases.1"},
        "extra is unexpected": {**good, "extra": torch.zeros(1)},
        r"weights.0 is torch.float32 \[1, 3, 64\], not": {**good, "weights.0": torch.zeros(1, 3, 64)},
        "weights.0 is torch.float16": {**good, "weights.0": good["weights.0"].half()},
        "feature_mean holds NaN": {**good, "feature_mean": torch.full((2,), math.nan)},
    }
    for message, tensors in cases.items():
        resealed(tmp_path, tensors)
        with pytest.raises(CombinerError, match=message):
            Combiner.from_pretrained(tmp_path)
    resealed(tmp_path, good)
    assert_same_bits(Combiner.from_pretrained(tmp_path), fitted())


def test_a_configuration_of_something_else_is_refused(tmp_path: Path) -> None:
    fitted().save_pretrained(tmp_path)
    model = ModelParams().model_dump(mode="json")
    cases: dict[str, dict[str, Any]] = {
        "model.output_dim": {"model": {**model, "output_dim": 3}},
        "model.width": {"model": {**model, "width": 3}},
        "does not fit": {"model": {**model, "hidden_dims": [64]}},
        "does not fit its": {"features": ["score", "similarity", "length"]},
        "must be a list of names": {"features": "score"},
        "bend must be a number": {"bend": -1.0},
        "not the configuration of a REALM combiner": {"model_type": "llama"},
        "not the weights": {"weights_sha256": "0" * 64},
    }
    good = (tmp_path / "config.json").read_text()
    for message, changes in cases.items():
        (tmp_path / "config.json").write_text(good)
        rewrite(tmp_path, **changes)
        with pytest.raises(CombinerError, match=message):
            Combiner.from_pretrained(tmp_path)
    for text, message in (
        ("{", "cannot be read"),
        ("[]", "not the config"),
        ('{"model_type": "realm_combiner"}', "lacks"),
    ):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(CombinerError, match=message):
            Combiner.from_pretrained(tmp_path)


def test_files_that_are_missing_or_damaged_are_named(tmp_path: Path) -> None:
    with pytest.raises(CombinerError, match="no such folder"):
        Combiner.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(CombinerError, match="no such folder"):
        Combiner.from_pretrained("outputs/demo/models/nothing")
    with pytest.raises(CombinerError, match="neither a folder nor a model that the hub gives"):
        Combiner.from_pretrained("someone/a-combiner-that-is-not-cached")
    fitted().save_pretrained(tmp_path)
    content = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(CombinerError, match="cannot be read"):
        Combiner.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(CombinerError, match=r"model\.safetensors missing"):
        Combiner.from_pretrained(tmp_path)


def test_a_combiner_saved_by_an_earlier_version_names_the_notebooks_to_run_again(tmp_path: Path) -> None:
    fitted().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps(config | {"features": ["reward", "similarity"]}))
    with pytest.raises(CombinerError, match="01_feature_extraction and 02_combiner_training again"):
        Combiner.from_pretrained(tmp_path)


# Interrupted training


LONG = TrainingParams(num_epochs=12, patience=12)

CHILD = """
import sys
import pandas as pd
from pathlib import Path
from realm_lib.reward.combiner import Combiner
from realm_lib.config.training import ModelParams, TrainingParams
folder = Path(sys.argv[1])
combiner = Combiner(ModelParams(ensemble=2))
print("ready", flush=True)
combiner.fit(pd.read_pickle(folder / "train"), pd.read_pickle(folder / "validation"),
             TrainingParams(num_epochs=12, patience=12), checkpoint=folder / "training.safetensors")
print("finished", flush=True)
"""


def epochs_in(checkpoint: Path) -> int:
    from safetensors import safe_open

    with safe_open(checkpoint, framework="pt") as file:
        return int(json.loads(file.metadata()["progress"])["epoch"])


@pytest.mark.slow
def test_killed_and_resumed_training_gives_the_same_bits(tmp_path: Path) -> None:
    train, validation = make_pairs(1000, 1), make_pairs(200, 2)
    train.to_pickle(tmp_path / "train")
    validation.to_pickle(tmp_path / "validation")
    checkpoint = tmp_path / "training.safetensors"
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 120
        while not (checkpoint.exists() and epochs_in(checkpoint) >= 3):
            assert child.poll() is None, "the training ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.005)
        child.send_signal(signal.SIGKILL)
    finally:
        child.kill()
        output, _ = child.communicate()
    assert output == "ready\n"
    done = epochs_in(checkpoint)
    assert 3 <= done < 12

    resumed, uninterrupted = Combiner(ModelParams(ensemble=2)), Combiner(ModelParams(ensemble=2))
    history = resumed.fit(train, validation, LONG, checkpoint=checkpoint)
    whole = uninterrupted.fit(train, validation, LONG)
    assert_same_bits(resumed, uninterrupted)
    assert history.validation_loss == whole.validation_loss
    assert history.kept == whole.kept
    assert not checkpoint.exists()


class Interrupt(Exception):
    """Stands in for Ctrl-C."""


def interrupted_after(
    epochs: int,
    watched: Path,
    pairs: pd.DataFrame,
    validation: pd.DataFrame,
    params: TrainingParams,
    model: ModelParams | None = None,
    checkpoint: Path | None = None,
) -> None:
    """Leave a checkpoint of ``epochs`` epochs, as an interruption in the next one does."""

    def interrupt(*_: Any) -> None:
        if watched.exists() and epochs_in(watched) == epochs:
            raise Interrupt

    combiner = Combiner(model)
    hook = register_optimizer_step_pre_hook(interrupt)
    try:
        with pytest.raises(Interrupt):
            combiner.fit(pairs, validation, params, checkpoint=checkpoint or watched)
    finally:
        hook.remove()


def test_members_that_stopped_wait_with_their_best_weights(tmp_path: Path) -> None:
    train, validation = (make_pairs(count, seed, by_chance) for count, seed in ((60, 1), (400, 2)))
    params = TrainingParams(num_epochs=60, learning_rate=0.003, patience=2)
    plain = ModelParams(ensemble=4, dropout=0.0, prior=None)
    epochs = Combiner(plain).fit(train, validation, params).member_epochs
    checkpoint = tmp_path / "training.safetensors"
    interrupted_after(max(epochs) - 1, checkpoint, train, validation, params, plain)
    # At rest for an epoch at least, in which the others trained.
    waiting = [member for member, best in enumerate(epochs) if best + 2 < max(epochs) - 1]
    assert waiting
    state = load_file(checkpoint)
    for kept, name in enumerate(("0.weight", "0.bias", "1.weight", "1.bias", "2.weight")):
        assert torch.equal(state[f"layers.{name}"][waiting], state[f"kept.{kept}"][waiting])


@pytest.mark.parametrize("change", ["parameters", "pairs"])
def test_a_checkpoint_of_another_training_is_not_used(
    change: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train, validation, params = make_pairs(200, 1), make_pairs(50, 2), QUICK.model_copy(update={"num_epochs": 4})
    checkpoint = tmp_path / "training.safetensors"
    interrupted_after(2, checkpoint, train, validation, params)
    if change == "parameters":
        params = params.model_copy(update={"weight_decay": 0.5})
    else:
        train = swapped(train).assign(labels=train["labels"])
    resumed, fresh = Combiner(), Combiner()
    with caplog.at_level(logging.WARNING):
        resumed.fit(train, validation, params, checkpoint=checkpoint)
    fresh.fit(train, validation, params)
    assert "training starts over" in caplog.text
    assert_same_bits(resumed, fresh)


@pytest.mark.parametrize("prior", [None, "weighted_sum"])
@pytest.mark.parametrize("phase", ["", "_members"])
def test_the_same_training_goes_on_from_its_checkpoint(
    prior: Any, phase: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if prior is None and phase:
        return  # it has no second phase
    # A prior of one pair is never found too strong: one cross-fit.
    params = BRISK.model_copy(update={"patience": 4, "prior_pairs": 1})
    train, validation = make_pairs(400, 1), make_pairs(50, 2)
    model = ModelParams(ensemble=2, prior=prior)
    interrupted_after(2, tmp_path / f"training{phase}", train, validation, params, model, tmp_path / "training")
    fresh, resumed = Combiner(model), Combiner(model)
    steps = [0, 0]

    def counted(place: int, combiner: Combiner, **kept: Any) -> TrainingHistory:
        def count(*_: Any) -> None:
            steps[place] += 1

        hook = register_optimizer_step_pre_hook(count)
        try:
            return combiner.fit(train, validation, params, **kept)
        finally:
            hook.remove()

    whole = counted(0, fresh)
    history = counted(1, resumed, checkpoint=tmp_path / "training")
    done = {"": 2, "_members": 2 + 4}[phase]  # the members' cross-fit is done in all its 4 epochs
    assert steps[1] < steps[0] * (1 - 0.8 * done / (8 if prior else 4)) + 1
    assert not caplog.text
    assert_same_bits(resumed, fresh)
    assert (history.train_loss, history.out_of_fold_loss) == (whole.train_loss, whole.out_of_fold_loss)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_or_unwritable_checkpoint_is_an_error_that_names_it(tmp_path: Path) -> None:
    train, validation = make_pairs(50, 1), make_pairs(50, 2)
    checkpoint = tmp_path / "training.safetensors"
    checkpoint.write_bytes(b"not a checkpoint at all")
    with pytest.raises(CombinerError, match=r"training\.safetensors: .* cannot be read: .* Delete it"):
        Combiner().fit(train, validation, QUICK, checkpoint=checkpoint)
    with pytest.raises(CombinerError, match="cannot be written"):
        Combiner().fit(train, validation, QUICK, checkpoint=checkpoint / "inside" / "a-file")
