"""How much an embedding model reads, in numbers and in words."""

import pytest

from realm_lib.models.embedders import Reading

WHOLE = Reading(10, 20, 0, 0, 1000, 0, 10)


@pytest.mark.parametrize(
    ("reading", "notable", "words"),
    [
        (WHOLE, False, "no text is longer than the embedding model reads at once; of 1,000 word pieces none are left"),
        (WHOLE, False, "left unread and 1.0 % are unknown to its vocabulary"),
        (Reading(10, 20, 0, 0, 1000, 0, 11), True, "take a model of the texts' language (embedding.model_id)"),
        (
            Reading(10, 20, 1, 0, 1000, 0, 0),
            True,
            "1 of 10 prompts and 0 of 20 responses are longer than the embedding",
        ),
        (Reading(10, 20, 0, 2, 1000, 333, 0), True, "of 1,000 word pieces 33.3 % are left unread"),
        (Reading(10, 20, None, None), False, "how many texts are longer than the embedding model reads is not known"),
        (Reading(10, 20, 0, 3), True, "3 of 20 responses are longer than the embedding model reads at once"),
        (Reading(0, 0, 0, 0, 0, 0, 0), False, "of 0 word pieces none are left unread and 0.0 % are unknown"),
    ],
)
def test_a_reading_in_words(reading: Reading, notable: bool, words: str) -> None:
    assert words in str(reading)
    assert reading.is_notable is notable
    assert ("take a model of" in str(reading)) is bool(reading.unknown and reading.unknown > 10)


def test_readings_add_up_as_far_as_they_are_known() -> None:
    assert WHOLE + Reading(1, 2, 3, 4, 5, 6, 7) == Reading(11, 22, 3, 4, 1005, 6, 17)
    assert WHOLE + Reading(1, 2, None, 4) == Reading(11, 22, None, 4)
