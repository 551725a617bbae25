"""What became of the rows of a file, in words."""

from typing import Any

from realm_lib.data.pairs import PairsReport
from realm_lib.report.words.reading import pairs_judged, pairs_read

NOTHING_ELSE = {"ids": None, "annotators": None, "other_ratios": None}


def test_pairs_of_a_file_are_counted() -> None:
    ties = {"pairs": 6, "first": [f"mine.jsonl row {n}" for n in (1, 3, 4, 5, 9)]}
    source = {"read": 30, "posts_cut": 2, "dropped": {"ties": ties}, "seen_in_training": 3} | NOTHING_ELSE
    text = pairs_judged("mine.jsonl", source, {"pairs": 23, "posts": 11})
    assert text == (
        "Read from mine.jsonl: 30 pairs. Judged: 23 pairs of 11 prompts. Left out: ties: 6 (mine.jsonl row 1, "
        "mine.jsonl row 3, mine.jsonl row 4, mine.jsonl row 5, mine.jsonl row 9 and more); post seen in training: 3. "
        "Cut to the run's limit: 2 prompts."
    )
    source |= {"seen_by": {"reward_model": 2, "combiner": 0, "policy_ppo": 1}, "not_known": "an/embedder"}
    text = pairs_judged("mine.jsonl", source, {"pairs": 23, "posts": 11})
    assert "post seen in training: 3 (reward model 2, policy ppo 1)." in text
    assert text.endswith(
        " Nothing is known of the posts that an/embedder was trained on: pairs of them may be among these."
    )
    assert "Left out" not in pairs_judged(
        "x", source | {"dropped": {}, "seen_in_training": 0}, {"pairs": 1, "posts": 1}
    )


def test_the_rows_of_each_split_are_told_of() -> None:
    def report(**changes: Any) -> PairsReport:
        dropped = {"votes too close": {"pairs": 7, "first": ["a row 1"]}}
        counts = {"read": 9, "kept": 2, "posts": 2, "posts_cut": 0}
        return PairsReport(source="local", simulated=False, **{"dropped": dropped, **counts, **changes})

    nothing = "No row is at fault, each post has one id, and no pair was judged more than once."
    assert pairs_read({"train": report(), "test": report(dropped={})}) == nothing
    ids = {
        "several_ids": {"posts": 1, "pairs": 2, "first": ["a row 2", "a row 5"]},
        "several_texts": {"ids": 2, "pairs": 9, "first": ["a row 3"]},
    }
    judged = {"pairs": 1, "judgements": 5, "with_majority": 0.8, "alpha": -0.001}
    dropped = {"votes too close": {"pairs": 7, "first": ["a row 1"]}, "empty text": {"pairs": 1, "first": ["a row 8"]}}
    ratios = {"pairs": 1, "first": ["a row 4"]}
    faulty = report(dropped=dropped, ids=ids, annotators=judged, other_ratios=ratios)
    assert pairs_read({"train": report(), "test": faulty}) == (
        "- **test**. Left out: empty text: 1 (a row 8). 1 post has several ids (a row 2, a row 5) and 2 ids have "
        "several texts (a row 3 and more): a post is known by its text. 1 pair was judged more than once: 80.0 % of "
        "these 5 judgements are the majority's (Krippendorff's alpha 0.00: 1 is full agreement, 0 is chance). 1 pair "
        "names a ratio that is not that of the votes, which are taken instead (a row 4)."
    )
    clean = {kind: entry | {"posts": 0, "ids": 0} for kind, entry in ids.items()}
    assert pairs_read({"train": report(ids=clean)}) == nothing
