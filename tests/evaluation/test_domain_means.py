"""The mean over domains: by hand where all are large, and honest where some are small."""

import math

import numpy as np
import pytest
from scipy import stats

from realm_lib.evaluation.domain_means import DomainAccuracy, domain_mean, pooled_domains


def test_small_domains_are_pooled_and_one_alone_with_the_next_smallest() -> None:
    assert pooled_domains([9, 30, 5]) == []
    assert pooled_domains([9, 3, 30, 1]) == [1, 3]
    assert pooled_domains([9, 3, 30]) == [0, 1]
    assert pooled_domains([1]) == []


def test_large_domains_add_their_variances_with_satterthwaites_freedom() -> None:
    domains = [DomainAccuracy(0.6, 0.002, 21, 21), DomainAccuracy(0.7, 0.004, 11, 11)]
    mean, (low, high) = domain_mean(domains, 0.95)
    freedom = 0.006**2 / (0.002**2 / 20 + 0.004**2 / 10)
    count = 0.65 * 0.35 / (0.006 / 4)
    z = stats.t.ppf(0.975, freedom)
    middle = (0.65 + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(0.65 * 0.35 / count + z * z / (4 * count**2))
    assert (mean, low, high) == pytest.approx((0.65, middle - half, middle + half))


def test_one_domain_of_one_post_is_one_observation() -> None:
    assert domain_mean([DomainAccuracy(1.0, 0.0, 1, 1.0)], 0.95) == (1.0, pytest.approx([0.207, 1.0], abs=1e-3))


def test_domains_that_are_all_right_are_not_sure_to_be() -> None:
    domains = [DomainAccuracy(1.0, 0.0, 8, 8.0), DomainAccuracy(1.0, 0.0, 8, 8.0)]
    assert domain_mean(domains, 0.95) == (1.0, pytest.approx([16 / (16 + 1.96**2), 1.0], abs=1e-3))


@pytest.mark.parametrize("posts", [1, 3, 8])
def test_the_mean_over_domains_of_few_posts_holds_the_truth(posts: int) -> None:
    rng = np.random.default_rng(posts)
    truth, held = np.linspace(0.6, 0.8, 10), 0
    for _ in range(400):
        of_posts = rng.beta(9 * truth[:, None], 9 * (1 - truth[:, None]), (10, posts))
        shares = rng.binomial(5, of_posts) / 5
        variances = shares.var(axis=1, ddof=1) / posts if posts > 1 else np.zeros(10)
        domains = [DomainAccuracy(p, v, posts, posts) for p, v in zip(shares.mean(axis=1), variances, strict=True)]
        _, (low, high) = domain_mean(domains, 0.95)
        held += low <= truth.mean() <= high
    assert held >= 0.93 * 400
