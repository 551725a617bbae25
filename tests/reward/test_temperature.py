"""The factor of the validation pairs, drawn towards 1 where they are few; the fit is tested in the evaluation."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import optimize

from realm_lib.reward.temperature import fit_scale, likely_scale


def draw_margins(pairs: int, scale: float, seed: int = 0) -> NDArray[np.float64]:
    """Margins of the chosen response that are right as log-odds once they are multiplied by ``scale``."""
    rng = np.random.default_rng(seed)
    margins = rng.normal(0, 1.5, pairs)
    return np.where(rng.random(pairs) < 1 / (1 + np.exp(-scale * margins)), margins, -margins)


@pytest.mark.parametrize("scale", [0.4, 1.0, 2.5])
def test_many_pairs_have_their_own_factor_and_few_are_drawn_towards_one(scale: float) -> None:
    many = draw_margins(50_000, scale)
    assert likely_scale(many) == pytest.approx(fit_scale(many), rel=0.01)
    for seed in range(5):
        few = draw_margins(40, scale, seed)
        fitted, likely = np.log([fit_scale(few), likely_scale(few)])
        assert 0 <= likely / fitted < 0.75


def test_it_is_the_most_likely_factor_under_its_prior() -> None:
    margins = draw_margins(400, 0.6, seed=3)

    def surprise(logarithm: float) -> float:
        return float(np.logaddexp(0, -np.exp(logarithm) * margins).sum() + logarithm**2 / (2 * 0.3**2))

    best = optimize.minimize_scalar(surprise, bounds=(-3, 3), method="bounded").x
    assert np.log(likely_scale(margins)) == pytest.approx(best, abs=0.02)
    assert np.log(fit_scale(margins)) < best - 0.02


def test_margins_that_are_no_better_than_chance_have_none() -> None:
    assert likely_scale(-np.abs(draw_margins(50, 1.0))) == 0


def test_pairs_that_are_all_right_have_a_finite_one() -> None:
    assert 1 < likely_scale(np.abs(draw_margins(50, 1.0))) < fit_scale(np.abs(draw_margins(50, 1.0)))
