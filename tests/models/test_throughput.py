"""What a card needs for a model's tokens, against values calculated by hand."""

import pytest

from realm_lib.models.throughput import BYTES_A_WEIGHT, CARDS, Card, cards_to_hold, find_card, tokens_per_second

CARD = Card("C", memory=100.0, bf16=100.0, fp32=10.0, bandwidth=1.0, price=1.0)


def test_a_full_batch_is_bound_by_arithmetic() -> None:
    """1e9 weights are 2e9 operations a token; half of 1e14 a second are 25,000 tokens."""
    assert tokens_per_second(1e9, CARD, "bfloat16", 4096, 0.5) == pytest.approx(25_000)
    assert tokens_per_second(1e9, CARD, "float32", 4096, 0.5) == pytest.approx(2_500)


def test_a_small_batch_waits_for_the_weights() -> None:
    """2e9 bytes at 1e12 a second take 2 ms, in which 8 tokens go through: 4,000 a second."""
    assert tokens_per_second(1e9, CARD, "bfloat16", 8, 0.5) == pytest.approx(4_000)
    assert tokens_per_second(1e9, CARD, "4bit", 8, 1.0) == pytest.approx(8 / (0.52e9 / 1e12))


def test_what_is_measured_stands_in_for_what_is_not_given() -> None:
    assert all(
        0 < tokens_per_second(1e9, card, precision, 4096) <= tokens_per_second(1e9, card, precision, 4096, 1.0)
        for card in CARDS
        for precision in BYTES_A_WEIGHT
    )


@pytest.mark.parametrize(
    ("device", "card"),
    [
        ("NVIDIA H200", "H200"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA A100-SXM4-80GB", "A100 80GB"),
        ("NVIDIA A100-SXM4-40GB", "A100 40GB"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("NVIDIA L40S", "L40S"),
        ("Tesla T4", "T4"),
        ("NVIDIA GeForce GTX 1080", None),
    ],
)
def test_a_card_is_known_by_its_driver_s_name(device: str, card: str | None) -> None:
    found = find_card(device)
    assert (found and found.name) == card


def test_cards_to_hold_a_70b_model() -> None:
    """129.6 GiB: nine tenths of an H200 are 126.4 GiB, of an H100 71.6; 35 GiB in 4 bit fit an L40S."""
    cards = {card.name: card for card in CARDS}
    assert cards_to_hold(129.6 * 2**30, cards["H100"]) == 2
    assert cards_to_hold(129.6 * 2**30, cards["B200"]) == 1
    assert cards_to_hold(35.0 * 2**30, cards["L40S"]) == 1
    assert cards_to_hold(35.0 * 2**30, cards["RTX 4090"]) == 2
