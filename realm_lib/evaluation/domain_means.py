"""The mean of accuracies over domains, each counting alike, with an interval that holds where domains are small too."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from realm_lib.evaluation.intervals import share_interval

_FEW = 5  # posts below which a domain's own variance over posts is hardly known


@dataclass(frozen=True)
class DomainAccuracy:
    """One domain's accuracy, its variance over posts, and of how many posts: counted, and alike in size."""

    accuracy: float
    variance: float
    posts: int
    effective: float


def pooled_domains(posts: Sequence[int]) -> list[int]:
    """The places of the domains whose variances are pooled: those with under five ``posts`` [domains].

    One alone has nothing to be pooled with, so that the next smallest joins it. Empty where there is one domain.
    """
    by_size = sorted(range(len(posts)), key=lambda place: posts[place])
    few = sum(count < _FEW for count in posts)
    return sorted(by_size[: max(2, few)]) if few and len(posts) > 1 else []


def domain_mean(domains: Sequence[DomainAccuracy], confidence: float) -> tuple[float, list[float]]:
    """The mean of the domains' accuracies and its interval. Domains are fixed, their posts are drawn.

    The variance is the sum of the domains' own over D^2. Of :func:`pooled_domains` it is their number times the
    variance of their accuracies: collapsed strata (Cochran 1977, section 5A.12), which hold the difference between
    domains as well and so err on the wide side. Degrees of freedom are Satterthwaite's (1946), the interval is
    :func:`share_interval`'s.
    """
    pooled = pooled_domains([domain.posts for domain in domains])
    accuracies = np.array([domain.accuracy for domain in domains])
    parts = [(d.variance, d.effective - 1) for place, d in enumerate(domains) if place not in pooled]
    if pooled:
        parts.append((len(pooled) * float(np.var(accuracies[pooled], ddof=1)), len(pooled) - 1))
    total = sum(variance for variance, _ in parts)
    if total > 0:
        freedom = total**2 / sum(variance**2 / max(degrees, 1.0) for variance, degrees in parts)
        posts = freedom + 1
    else:
        posts = len(domains) ** 2 / sum(1 / domain.effective for domain in domains)
    mean = float(accuracies.mean())
    return mean, share_interval(mean, total / len(domains) ** 2, posts, confidence)
