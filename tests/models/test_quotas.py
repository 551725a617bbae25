"""Which quota a refusal names, in the bodies that Google and OpenAI are known to send."""

from typing import Any

import pytest

from realm_lib.models.quotas import Quota, find_quota

PER_DAY = "EmbedContentRequestsPerDayPerUserPerProjectPerModel-FreeTier"
PER_MINUTE = "EmbedContentRequestsPerMinutePerProjectPerModel"


def google(*quotas: tuple[str, str | None]) -> dict[str, Any]:
    violations = [{"quotaMetric": "x.googleapis.com/m", "quotaId": name, "quotaValue": value} for name, value in quotas]
    return {
        "error": {
            "code": 429,
            "message": "You exceeded your current quota.",
            "details": [
                {"@type": "type.googleapis.com/google.rpc.Help", "links": [{"description": "more"}]},
                {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": violations},
                {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "33s"},
            ],
        }
    }


def openai(message: str, code: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "requests", "param": None, "code": code}}


@pytest.mark.parametrize(
    ("details", "quota"),
    [
        (google((PER_DAY, "1000")), Quota(PER_DAY, "1000", "day")),
        (google((PER_MINUTE, "100")), Quota(PER_MINUTE, "100", "minute")),
        (google((PER_MINUTE, "100"), (PER_DAY, "1000")), Quota(PER_DAY, "1000", "day")),
        (google((PER_MINUTE, None)), Quota(PER_MINUTE, None, "minute")),
        (google()["error"]["details"], None),
        ({"violations": [{"quotaMetric": "g/embed_requests_per_day"}]}, Quota("g/embed_requests_per_day", None, "day")),
        (openai("You exceeded your current quota", "insufficient_quota"), Quota("insufficient_quota", None, "good")),
        (
            openai("Rate limit reached for m on requests per day (RPD): Limit 200, Used 200", "rate_limit_exceeded"),
            Quota("requests per day (RPD)", "200", "day"),
        ),
        (
            openai("Rate limit reached for m on tokens per min (TPM): Limit 40,000", "rate_limit_exceeded"),
            Quota("tokens per min (TPM)", "40,000", "minute"),
        ),
        (openai("slower", "rate_limit_exceeded"), None),
        (None, None),
        ("text", None),
        ([3, {"quotaId": 7}], None),
    ],
)
def test_the_quota_of_a_refusal(details: Any, quota: Quota | None) -> None:
    assert find_quota(details) == quota


def test_what_a_quota_says() -> None:
    assert str(Quota("N", "9", "day")) == "the day's quota (9 of N) is used up: run again tomorrow"
    assert str(Quota("N", None, "minute")) == "the quota (N) is used up for now"
    assert "no credits left (insufficient_quota)" in str(Quota("insufficient_quota", None, "good"))
    assert [Quota("N", None, gone).passes for gone in ("minute", "day", "good")] == [True, False, False]
