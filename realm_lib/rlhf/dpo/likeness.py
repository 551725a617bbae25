"""How alike two texts are, by every character that they have."""

from difflib import SequenceMatcher

from realm_lib.data.lengths import words_and_signs


def near_duplicates(first: str, second: str, share: float) -> bool:
    """Whether two texts have ``share``, above 0 and up to 1, of their words and signs in common, in the same order.

    The share is 2 M / T of Ratcliff and Metzener ("Pattern Matching: The Gestalt Approach", Dr. Dobb's Journal, 1988):
    T words and signs in both texts, of which M match. It is 1 only for texts that are equal but for white space.
    """
    a, b = sorted(map(words_and_signs, (first, second)))  # which text comes first may change M
    matcher = SequenceMatcher(None, a, b, autojunk=False)
    return matcher.quick_ratio() >= share and matcher.ratio() >= share  # the quick one is an upper bound
