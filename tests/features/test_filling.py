"""The pieces in which texts are computed."""

from itertools import groupby

from hypothesis import given
from hypothesis import strategies as st

from realm_lib.features.filling import _pieces

PROMPTS = st.lists(st.sampled_from("abcdefgh"), max_size=40).map(sorted)


@given(prompts=PROMPTS, size=st.integers(1, 12))
def test_a_prompts_texts_are_in_one_piece_where_they_fit(prompts: list[str], size: int) -> None:
    pieces = _pieces(range(len(prompts)), prompts, size)
    assert [index for piece in pieces for index in piece] == list(range(len(prompts))), "each once, in order"
    assert all(0 < len(piece) <= size for piece in pieces)
    held = {prompt: len(list(run)) for prompt, run in groupby(prompts)}
    for prompt, count in held.items():
        of_prompt = [[prompts[index] for index in piece].count(prompt) for piece in pieces]
        assert sum(number > 0 for number in of_prompt) == -(-count // size)
