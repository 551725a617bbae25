"""Posts that models have seen, whole, cut, in other spaces and case: which are left out, and who has seen them."""

import json
from pathlib import Path

import pandas as pd
import pytest

from realm_lib.data.chats import PairsError
from realm_lib.data.pairs import read_pairs
from realm_lib.data.posts import post_key
from realm_lib.data.seen import keys_of, seen_prompts, unseen_pairs

POSTS = ["Why does bread rise?", "How do cats purr?", "What is a quark?"]


def table(posts: list[str], **columns: object) -> pd.DataFrame:
    return pd.DataFrame({"history": posts, "human_ref_A": "a", "human_ref_B": "b", **columns})


def test_each_model_is_counted_and_a_post_once() -> None:
    trained_on = {
        "reward_model": frozenset(map(post_key, POSTS[:2])),
        "combiner": keys_of(table(POSTS[1:2])),
        "policy_ppo": frozenset({"0" * 16}),
        "embedder": None,
    }
    left, seen = unseen_pairs(table([*POSTS, " how DO cats\npurr? "], number=range(4)), trained_on)
    assert left["number"].tolist() == [2]
    assert left.index.tolist() == [0]
    assert seen.to_dict() == {
        "seen_in_training": 3,
        "seen_by": {"reward_model": 3, "combiner": 2, "policy_ppo": 0},
    }
    assert str(seen) == "reward_model 3, combiner 2"
    prompts = [[{"role": "user", "content": POSTS[0]}], POSTS[2]]
    assert seen_prompts(prompts, trained_on).seen.tolist() == [True, False]
    assert not seen_prompts(prompts, {"embedder": None}).seen.any()
    with pytest.raises(PairsError, match=r"every post \(reward_model 2, combiner 1\): nothing is left to judge by"):
        unseen_pairs(table(POSTS[:2]), trained_on)


def test_an_id_is_no_text() -> None:
    """A file's own ids, or the simulator's, are not looked for among the keys of texts."""
    rows = table(POSTS, post_id=["7", 7, post_key("another")])
    assert keys_of(rows) == {*map(post_key, POSTS), post_key("another")}
    json.dumps(sorted(keys_of(rows)))
    assert keys_of(table([])) == frozenset()


@pytest.mark.parametrize(("trained", "judged"), [(12, 12), (12, 40), (40, 12), (1024, 12), (12, 1024)])
def test_a_long_post_is_known_however_it_was_cut(tmp_path: Path, trained: int, judged: int) -> None:
    dialogue = [
        {"role": "user", "content": "why? " * 30},
        {"role": "assistant", "content": "so. " * 9},
        {"role": "user", "content": "and then? " * 8},
    ]
    posts = [" ".join(f"word{n}" for n in range(60)), dialogue]
    file = tmp_path / "pairs.jsonl"
    file.write_text(
        "".join(json.dumps({"prompt": post, "chosen": "Yes.", "rejected": "No."}) + "\n" for post in posts),
        encoding="utf-8",
    )
    trained_on = {"combiner": keys_of(read_pairs(file, words=trained).table)}
    with pytest.raises(PairsError, match=r"every post \(combiner 2\)"):
        unseen_pairs(read_pairs(file, words=judged).table, trained_on)
