"""The quota that a refusal names: what a service allows, for how long, and whether waiting helps."""

import re
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

_LONGEST_NAME = 150
_OPENAI_LIMIT = re.compile(r"on ((?:requests|tokens) per (day|min) \([A-Z]+\)): Limit (\d+(?:,\d{3})*)")
"""How OpenAI words it, as its users report it; that it still does is not confirmed."""


@dataclass(frozen=True)
class Quota:
    """A quota that is used up."""

    name: str
    value: str | None
    """How many the service allows, None where it does not say."""
    gone_for: Literal["minute", "day", "good"]
    """``good``: until somebody pays."""

    @property
    def passes(self) -> bool:
        """Whether another try may help."""
        return self.gone_for == "minute"

    def __str__(self) -> str:
        if self.gone_for == "good":
            return f"the account has no credits left ({self.name}): add some, then run again"
        limit = f"{self.value} of {self.name}" if self.value else self.name
        if self.gone_for == "day":
            return f"the day's quota ({limit}) is used up: run again tomorrow"
        return f"the quota ({limit}) is used up for now"


def find_quota(details: Any) -> Quota | None:
    """The quota that the JSON ``details`` of a refusal name, one that no waiting brings back before any other.

    It knows Google's ``google.rpc.QuotaFailure`` (a day's quota has ``PerDay`` in its ``quotaId``, and comes with a
    ``retryDelay`` of seconds all the same) and OpenAI's ``insufficient_quota`` and limits. None where there is none.
    """
    found = list(_quotas(details))
    return next((quota for quota in found if not quota.passes), found[0] if found else None)


def _quotas(details: Any) -> Generator[Quota]:
    if isinstance(details, Mapping):
        name = details.get("quotaId") or details.get("quotaMetric")
        if isinstance(name, str):
            value = details.get("quotaValue")
            per_day = re.search(r"per_?day", name, re.IGNORECASE)
            yield Quota(name[:_LONGEST_NAME], str(value) if value else None, "day" if per_day else "minute")
        if "insufficient_quota" in (details.get("code"), details.get("type")):
            yield Quota("insufficient_quota", None, "good")
        elif isinstance(said := details.get("message"), str) and (limit := _OPENAI_LIMIT.search(said)):
            yield Quota(limit[1], limit[3], "day" if limit[2] == "day" else "minute")
        details = list(details.values())
    if isinstance(details, (list, tuple)):
        for part in details:
            yield from _quotas(part)
