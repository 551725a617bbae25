"""The part of a variance that lies between prompts: against scipy's F, and its interval against simulation."""

import numpy as np
import pytest
from scipy.stats import f_oneway

from realm_lib.evaluation.between_prompts import between_prompts


def drawn(share: float, rollouts: int, prompts: int, responses: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    own = rng.normal(0, np.sqrt(share), (rollouts, prompts, 1))
    return 3 * (own + rng.normal(0, np.sqrt(1 - share), (rollouts, prompts, responses)))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_one_rollout_is_the_plain_analysis_of_variance(share: float) -> None:
    values = drawn(share, 1, 6, 5, seed=3)
    f = f_oneway(*values[0]).statistic
    found = between_prompts(values)
    assert found is not None
    assert found.share == pytest.approx(max(0.0, (f - 1) / (f - 1 + 5)))
    assert found.within == pytest.approx(values[0].var(axis=1, ddof=1).mean())
    assert found.between == pytest.approx(found.share / (1 - found.share) * found.within)
    assert found.ci[0] <= found.share <= found.ci[1]


@pytest.mark.parametrize("share", [0.2, 0.7])
def test_the_interval_holds_the_truth_as_often_as_it_says(share: float) -> None:
    """Of 400 draws at 95 % between 361 and 395 lie within four standard errors."""
    found = [between_prompts(drawn(share, 3, 5, 4, seed)) for seed in range(400)]
    held = sum(one is not None and one.ci[0] <= share <= one.ci[1] for one in found)
    assert 361 <= held <= 395


def test_a_rollouts_mean_is_in_neither_part_and_a_prompts_is_in_one() -> None:
    values = drawn(0.3, 2, 8, 4, seed=1)
    plain = between_prompts(values)
    drifted = between_prompts(values + np.array([0.0, 50.0])[:, None, None])
    apart = between_prompts(values + 10 * np.arange(8)[None, :, None])
    assert plain is not None
    assert drifted is not None
    assert apart is not None
    assert drifted.share == pytest.approx(plain.share)
    assert apart.within == pytest.approx(plain.within)
    assert apart.share > 0.95 > plain.share


@pytest.mark.parametrize("shape", [(3, 1, 4), (3, 4, 1), (2, 4, 4)])
def test_it_cannot_be_told_from_too_little(shape: tuple[int, int, int]) -> None:
    assert between_prompts(np.ones(shape)) is None
