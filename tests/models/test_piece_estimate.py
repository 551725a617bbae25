"""The estimate of tokens is on the safe side, and cuts where it says."""

import pytest

from realm_lib.models.embedders.piece_estimate import count_pieces, cut_to_pieces


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("", 0),
        ("word", 1),
        ("a longer word", 4),
        ("1234567", 7),
        ("x = [1, 2]\n    y", 10),
        ("語語語", 3),
        ("Привет", 3),
        ("👍🏽", 2),
    ],
)
def test_pieces(text: str, pieces: int) -> None:
    assert count_pieces(text) == pieces


def test_a_text_is_cut_after_its_last_piece() -> None:
    text = "one two, three"
    assert [cut_to_pieces(text, most) for most in (1, 2, 3, 4)] == ["one", "one two", "one two,", "one two, thre"]
    assert cut_to_pieces(text, 5) is text
    assert cut_to_pieces(f"{text} ", 5) == f"{text} "
    for most in range(1, 5):
        assert count_pieces(cut_to_pieces(text, most)) == most


@pytest.mark.slow
def test_no_fewer_than_a_small_vocabulary_makes_of_prose(minilm: object) -> None:
    """MiniLM's 30,522 pieces are a ninth of what Google's open models have, so that it splits English more finely."""
    tokenizer = minilm.model.tokenizer  # type: ignore[attr-defined]
    for text in ("The quick brown fox jumps over the lazy dog, twice a day. ", "It's 20:45 in Aix-en-Provence; "):
        assert count_pieces(text * 20) >= len(tokenizer.encode(text * 20, add_special_tokens=False, truncation=False))
