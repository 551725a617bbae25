"""The groups of pairs in which rewards are looked at one by one."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

_RATIOS = (1.0, 1.5, 2.0, 3.0, 5.0, 10.0)
_LENGTHS = {
    "under half as long": (0.0, 0.5),
    "0.5 to 0.8 times": (0.5, 0.8),
    "0.8 to 1.25 times": (0.8, 1.25),
    "1.25 to 2 times": (1.25, 2.0),
    "over twice as long": (2.0, np.inf),
}
_SIZES = {"1 pair": (1, 1), "2 to 4 pairs": (2, 4), "5 to 9 pairs": (5, 9), "10 pairs or more": (10, np.inf)}

Masks = dict[str, NDArray[np.bool_]]


def longer_chosen(per_pair: pd.DataFrame) -> NDArray[np.int64]:
    """1 where the chosen response has more words, -1 where it has fewer, 0 where both have as many: [pairs]."""
    words = (per_pair["word_count_A"] - per_pair["word_count_B"]).to_numpy()
    signs: NDArray[np.int64] = np.sign(words * np.where(per_pair["labels"] == 1, 1, -1)).astype(np.int64)
    return signs


def slices(per_pair: pd.DataFrame) -> dict[str, Masks]:
    """The pairs of each group, boolean [pairs], by the kind of group and its name, as far as ``per_pair`` knows them.

    - by_domain
    - length_split: the chosen response is the longer or the shorter one in words; equal ones are in neither half
    - by_length_difference: words of the chosen response as a multiple of those of the rejected one
    - by_post_size: how many of these pairs its post has
    - by_score_ratio: votes of the one response at least so many times those of the other, as SHP's authors ask; each
      group holds the next. Left out where votes are not known or all alike.
    """
    domains = per_pair["domain"].to_numpy()
    groups: dict[str, Masks] = {"by_domain": {str(name): domains == name for name in sorted(set(domains))}}
    if "word_count_A" in per_pair:
        sign = longer_chosen(per_pair)
        groups["length_split"] = {"chosen_longer": sign > 0, "chosen_shorter": sign < 0}
        a_chosen = per_pair["labels"] == 1
        # A response of signs alone, as "?!", has no word.
        chosen, rejected = (
            np.maximum(np.where(a_chosen, per_pair[first], per_pair[second]), 1)
            for first, second in (("word_count_A", "word_count_B"), ("word_count_B", "word_count_A"))
        )
        groups["by_length_difference"] = {
            name: (chosen / rejected >= low) & (chosen / rejected < high) for name, (low, high) in _LENGTHS.items()
        }
    size = per_pair.groupby("post_id")["post_id"].transform("size").to_numpy()
    sizes = {name: (size >= low) & (size <= high) for name, (low, high) in _SIZES.items()}
    groups["by_post_size"] = {name: mask for name, mask in sizes.items() if mask.any()}
    if "score_ratio" in per_pair and per_pair["score_ratio"].nunique() > 1:
        ratio = per_pair["score_ratio"].to_numpy()
        ratios = {f"{least:g}": ratio >= least for least in _RATIOS}  # a missing ratio is in no group
        groups["by_score_ratio"] = {name: mask for name, mask in ratios.items() if mask.any()}
    return groups
