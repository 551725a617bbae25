"""Forms of several rated responses a prompt: each two of them are a pair."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from realm_lib.data.cells import given, listed, number, objects, text
from realm_lib.data.chats import PairsError, as_text
from realm_lib.data.forms.form import Found, Pair, Row, plain_prompt, ranked
from realm_lib.data.forms.paired import helpsteer2_prompt


def ultrafeedback(row: Row) -> Iterator[Pair | str]:
    """UltraFeedback's completions, by the first of their ratings that most of them have.

    The mean of the fine-grained ratings comes before ``overall_score``, which was 10 where it should have been 1 (the
    card of argilla/ultrafeedback-binarized-preferences).
    """
    completions = objects(row, "completions")
    measures = [[measure(completion) for completion in completions] for measure in _MEASURES]
    ratings = max(measures, key=lambda measured: sum(rating is not None for rating in measured))
    responses = [completion.get("response") for completion in completions]
    yield from ranked(plain_prompt(given(row, "instruction")), list(zip(responses, ratings, strict=True)))


def _mean_rating(completion: Mapping[str, Any]) -> float | None:
    """The mean over the aspects that were rated: "N/A" and texts are no ratings."""
    annotations = completion.get("annotations")
    aspects = annotations.values() if isinstance(annotations, Mapping) else []
    found = [number(aspect.get("Rating")) for aspect in aspects if isinstance(aspect, Mapping)]
    ratings = [rating for rating in found if rating is not None]
    return sum(ratings) / len(ratings) if ratings else None


_MEASURES = (
    lambda completion: number(completion.get("fine-grained_score")),
    _mean_rating,
    lambda completion: number(completion.get("overall_score")),
)


def generations(row: Row) -> Iterator[Pair | str]:
    """distilabel's generations and their ratings."""
    responses, ratings = listed(row, "generations"), listed(row, "ratings")
    if len(responses) != len(ratings):
        raise PairsError("not as many ratings as generations")
    prompt = next((found for name in ("instruction", "prompt", "input") if (found := given(row, name))), None)
    if prompt is None:
        raise PairsError("no prompt")
    yield from ranked(plain_prompt(prompt), list(zip(responses, ratings, strict=True)))


def nectar(row: Row) -> Iterator[Pair | str]:
    """Nectar's answers under a transcript, rank 1 the best."""
    prompt = as_text(text(given(row, "prompt")))
    yield from ranked(
        prompt, [(answer.get("answer"), _lower(answer.get("rank"))) for answer in objects(row, "answers")]
    )


def stack_exchange(row: Row) -> Iterator[Pair | str]:
    """Stack Exchange's answers by pm_score, which is made of votes and of being accepted (arXiv 2112.00861)."""
    answers = [(answer.get("text"), answer.get("pm_score")) for answer in objects(row, "answers")]
    for pair in ranked(plain_prompt(given(row, "question")), answers):
        yield pair if isinstance(pair, str) else pair._replace(post_id=given(row, "qid"))


def helpsteer_ratings(rows: Sequence[Row]) -> Found:
    """HelpSteer's ratings, a response a row: the responses to one prompt by their helpfulness, as its card advises."""
    of_prompt: dict[str, list[Row]] = {}
    for row in rows:
        try:
            of_prompt.setdefault(helpsteer2_prompt(row), []).append(row)
        except PairsError as error:
            yield row, str(error)
    for prompt, same in of_prompt.items():
        try:
            for pair in ranked(prompt, [(given(row, "response"), given(row, "helpfulness")) for row in same]):
                yield same[0], pair
        except PairsError as error:
            yield same[0], str(error)


def _lower(rank: Any) -> float | None:
    found = number(rank)
    return None if found is None else -found
