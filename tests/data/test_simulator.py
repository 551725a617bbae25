"""The simulator: its knowledge is well formed, its pairs are SHP's, and its truth orders and wins votes as it says."""

import hashlib
import json
import math
import os
import random
import re
import subprocess
import sys
from collections import Counter
from functools import cache
from importlib import resources
from itertools import chain, islice, pairwise
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import expit
from scipy.stats import chi2

from realm_lib.data.chats import prompt_key
from realm_lib.data.simulator import (
    DOMAINS,
    Judgement,
    UnknownPostError,
    gold_utility,
    judge,
    question_of,
    simulate_pairs,
    simulate_posts,
)
from realm_lib.data.simulator.gold import SHARPNESS
from realm_lib.data.simulator.knowledge import Question, load_domain, load_grammar, questions_by_ask

SHP_COLUMNS = [
    "post_id",
    "domain",
    "upvote_ratio",
    "history",
    "c_root_id_A",
    "c_root_id_B",
    "created_at_utc_A",
    "created_at_utc_B",
    "score_A",
    "score_B",
    "human_ref_A",
    "human_ref_B",
    "labels",
    "seconds_difference",
    "score_ratio",
]
SHP_DOMAINS = {
    *("askacademia", "askanthropology", "askbaking", "askcarguys", "askculinary", "askdocs", "askengineers"),
    *("askhistorians", "askhr", "askphilosophy", "askphysics", "askscience", "asksciencefiction"),
    *("asksocialscience", "askvet", "changemyview", "explainlikeimfive", "legaladvice"),
}
PARTS = {"asks": 3, "facts": 5, "details": 3, "myths": 3}


@cache
def all_questions() -> tuple[Question, ...]:
    return tuple(question for name in DOMAINS for question in load_domain(name).questions)


@cache
def many_pairs() -> tuple[dict[str, Any], ...]:
    return tuple(simulate_pairs(20_000, seed=42, split="train"))


def column(name: str) -> NDArray[Any]:
    return np.array([pair[name] for pair in many_pairs()])


def elsewhere(question: Question) -> Question:
    """A question of another domain, five domains on."""
    questions = all_questions()
    return questions[(questions.index(question) + 60) % len(questions)]


# The knowledge


def test_the_domains_are_those_of_shp_and_each_has_a_file() -> None:
    files = resources.files("realm_lib.data.simulator").joinpath("knowledge").iterdir()
    assert set(DOMAINS) == SHP_DOMAINS == {file.name.removesuffix(".yaml") for file in files}


@pytest.mark.parametrize("name", sorted(SHP_DOMAINS))
def test_a_knowledge_file_is_well_formed(name: str) -> None:
    text = resources.files("realm_lib.data.simulator").joinpath(f"knowledge/{name}.yaml").read_text(encoding="utf-8")
    assert text.isascii()
    content = yaml.safe_load(text)
    assert list(content) == ["domain", "situations", "topics"]
    assert content["domain"] == name
    assert len(content["situations"]) == 14
    assert len(content["topics"]) == 6
    assert len({topic["name"] for topic in content["topics"]}) == 6
    questions = []
    for topic in content["topics"]:
        assert list(topic) == ["name", "questions"]
        assert len(topic["questions"]) == 2
        questions += topic["questions"]
    for question in questions:
        assert {part: len(question[part]) for part in question} == PARTS
    sentences = [
        *content["situations"],
        *chain.from_iterable(question[part] for question in questions for part in PARTS),
    ]
    assert all(isinstance(sentence, str) for sentence in sentences)
    assert [text for text, count in Counter(sentences).items() if count > 1] == []
    assert [text for text in sentences if text != text.strip() or text[-1] not in ".?!"] == []
    assert [text for text in sentences if re.search(r"[.?!]\s", text)] == []
    assert [text for text in sentences if not text[0].isupper() and not text[0].isdigit()] == []


def test_asks_are_unique_over_all_domains() -> None:
    asks = [ask for question in all_questions() for ask in question.asks]
    assert len(asks) == len(set(asks)) == 18 * 12 * 3 == len(questions_by_ask())


def test_no_sentence_says_two_things_in_one_domain_or_another() -> None:
    counts = Counter(s for q in all_questions() for part in ("facts", "details", "myths") for s in getattr(q, part))
    assert [sentence for sentence, count in counts.items() if count > 1] == []


def test_every_ask_is_found_in_a_post_as_one_sentence() -> None:
    opener, closer = load_grammar().post_openers[0], load_grammar().post_closers[0]
    lost = []
    for ask, question in questions_by_ask().items():
        found = question_of(f"{opener} {ask} {closer}")
        if found is not question:
            lost.append(ask)
    assert lost == []


@pytest.mark.parametrize(("part", "counted"), [("facts", "facts"), ("details", "details"), ("myths", "myths")])
def test_every_sentence_is_found_by_the_gold_utility_as_what_it_is(part: str, counted: str) -> None:
    # A sentence with a sentence end inside would fall in two, and neither half would count fully.
    before, after = load_grammar().neutral[:2]
    lost = [
        sentence
        for question in all_questions()
        for sentence in getattr(question, part)
        if getattr(judge(question, f"{before} {sentence} {after}"), counted) < 0.999
    ]
    assert lost == []


def test_no_fact_counts_as_a_myth_nor_a_myth_as_a_fact() -> None:
    confused = []
    for question in all_questions():
        for sentence in (*question.facts, *question.details):
            confused += [sentence] if judge(question, sentence).myths > 0 else []
        for sentence in question.myths:
            confused += [sentence] if judge(question, sentence).facts > 0 else []
    assert confused == []


def test_manners_are_told_apart_and_the_rest_of_the_grammar_has_none() -> None:
    grammar, question = load_grammar(), all_questions()[0]
    assert all(judge(question, sentence).tone == 1 for sentence in grammar.polite)
    assert all(judge(question, sentence).tone == -1 for sentence in grammar.rude)
    vague = [sentence.format(topic=question.topic) for sentence in grammar.vague]
    for sentence in (*grammar.neutral, *grammar.fillers, *vague):
        assert abs(judge(question, sentence).tone) < 0.5, sentence
    assert all("{topic}" in sentence for sentence in grammar.vague)


# The stream


def test_the_same_seed_gives_the_same_pairs_and_another_gives_others() -> None:
    first = list(simulate_pairs(200, seed=1, split="train"))
    assert first == list(simulate_pairs(200, seed=1, split="train"))
    assert first[:120] == list(simulate_pairs(120, seed=1, split="train"))
    for seed, split in ((2, "train"), (1, "test")):
        different = list(simulate_pairs(200, seed=seed, split=split))
        assert not {pair["history"] for pair in first} & {pair["history"] for pair in different}


def test_the_pairs_are_the_same_in_every_process() -> None:
    code = """
import hashlib, json
from realm_lib.data.simulator import simulate_pairs
text = json.dumps(list(simulate_pairs(500, seed=5, split="validation")))
print(hashlib.sha256(text.encode()).hexdigest())
"""
    here = json.dumps(list(simulate_pairs(500, seed=5, split="validation")))
    digests = {hashlib.sha256(here.encode()).hexdigest()}
    for hash_seed in ("0", "12345"):
        ran = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        digests.add(ran.stdout.strip())
    assert len(digests) == 1


@pytest.mark.parametrize("count", [0, 1, 7, 500])
def test_as_many_pairs_as_asked(count: int) -> None:
    assert len(list(simulate_pairs(count, seed=0, split="test"))) == count


@pytest.mark.slow
def test_only_the_domains_asked_for() -> None:
    pairs = list(simulate_pairs(300, seed=0, split="test", domains=["askbaking", "askvet"]))
    assert {pair["domain"] for pair in pairs} == {"askbaking_test", "askvet_test"}
    assert {pair["domain"] for pair in many_pairs()} == {f"{name}_train" for name in SHP_DOMAINS}
    with pytest.raises(ValueError, match="unknown domain 'askcooking'; the simulator knows: askacademia, "):
        list(simulate_pairs(1, seed=0, split="test", domains=["askcooking"]))


@pytest.mark.slow
def test_the_columns_are_those_of_shp_and_agree_with_each_other() -> None:
    assert all(list(pair) == [*SHP_COLUMNS, "gold_A", "gold_B"] for pair in many_pairs())
    score_a, score_b, labels = column("score_A"), column("score_B"), column("labels")
    assert ((score_a > score_b) == (labels == 1)).all()
    assert (score_a != score_b).all()
    assert min(score_a.min(), score_b.min()) >= 2
    np.testing.assert_allclose(column("score_ratio"), np.maximum(score_a, score_b) / np.minimum(score_a, score_b))
    time_a, time_b = column("created_at_utc_A"), column("created_at_utc_B")
    seconds = np.where(labels == 1, time_a - time_b, time_b - time_a)
    assert (seconds > 0).all()  # the preferred comment is the later one, as in SHP
    np.testing.assert_array_equal(column("seconds_difference"), seconds)
    ratio = column("upvote_ratio")
    assert ratio.min() >= 0.5
    assert ratio.max() <= 1.0
    assert (column("human_ref_A") != column("human_ref_B")).all()
    assert abs(labels.mean() - 0.5) < 0.02
    assert all(len(text.split()) >= 4 for text in column("human_ref_A"))


def test_an_id_is_one_text_with_one_utility_and_votes() -> None:
    comments: dict[str, set[Any]] = {}
    posts: dict[str, set[Any]] = {}
    for pair in many_pairs():
        posts.setdefault(pair["post_id"], set()).add((pair["history"], pair["domain"], pair["upvote_ratio"]))
        for side in "AB":
            facts = (pair["post_id"], *(pair[f"{name}_{side}"] for name in ("human_ref", "gold", "score")))
            comments.setdefault(pair[f"c_root_id_{side}"], set()).add((*facts, pair[f"created_at_utc_{side}"]))
    assert {len(found) for found in comments.values()} == {1} == {len(found) for found in posts.values()}
    pair_ids = [frozenset((pair["c_root_id_A"], pair["c_root_id_B"])) for pair in many_pairs()]
    assert len(set(pair_ids)) == len(pair_ids)
    assert len(comments) > 12_000
    assert 3 < len(many_pairs()) / len(posts) < 7


def test_no_two_comments_of_a_post_have_as_many_votes() -> None:
    # A tie would be no pair, and ties are likeliest between near equals: the pairs left would not be Bradley-Terry.
    for post in islice(simulate_posts(seed=6, split="train"), 1000):
        assert len({comment.votes for comment in post.comments}) == len(post.comments)


def test_no_text_repeats_within_a_run() -> None:
    comments = {pair[f"c_root_id_{side}"]: pair[f"human_ref_{side}"] for pair in many_pairs() for side in "AB"}
    posts = {pair["post_id"]: pair["history"] for pair in many_pairs()}
    assert len(set(comments.values())) == len(comments)
    assert len(set(posts.values())) == len(posts)


@pytest.mark.slow
def test_splits_share_no_post() -> None:
    splits = [many_pairs(), *(list(simulate_pairs(5000, seed=42, split=name)) for name in ("validation", "test"))]
    for name in ("post_id", "history"):
        found = [{prompt_key(pair[name]) for pair in pairs} for pairs in splits]
        assert len(set.union(*found)) == sum(map(len, found))


@pytest.mark.slow
def test_memory_stays_small_however_many_pairs() -> None:
    code = """
import resource
from realm_lib.data.simulator import simulate_pairs
def peak(count):
    assert sum(1 for _ in simulate_pairs(count, seed=3, split="train")) == count
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB
print(-peak(2000) + peak(20_000))
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(ran.stdout) < 12 * 1024  # kept in a list the pairs take 26 MiB


# The truth


def say(*sentences: str) -> str:
    return " ".join(sentences)


def test_pairs_carry_the_gold_utility_of_their_texts() -> None:
    for pair in many_pairs()[:500]:
        for side in "AB":
            assert gold_utility(pair["history"], pair[f"human_ref_{side}"]) == pair[f"gold_{side}"]


def test_answers_are_ordered_by_what_they_say() -> None:
    grammar = load_grammar()
    for question in all_questions():
        full = judge(question, say(*question.facts[:3], question.details[0], grammar.polite[0])).utility
        plain = judge(question, say(*question.facts[:3], question.details[0])).utility
        rude = judge(question, say(*question.facts[:3], question.details[0], grammar.rude[0])).utility
        mixed = judge(question, say(*question.facts[:2], question.myths[0], question.details[0])).utility
        fact = judge(question, question.facts[0]).utility
        vague = judge(question, grammar.vague[0].format(topic=question.topic)).utility
        myth = judge(question, say(question.myths[0], question.myths[1])).utility
        rude_myth = judge(question, say(question.myths[0], question.myths[1], grammar.rude[0])).utility
        off_topic = judge(question, say(*elsewhere(question).facts[:3])).utility
        assert full > plain > rude > vague, question.asks[0]
        assert plain > mixed > myth, question.asks[0]
        assert plain > fact > vague > myth > rude_myth, question.asks[0]
        assert fact > off_topic > rude_myth, question.asks[0]


def test_each_part_moves_the_utility_its_way() -> None:
    for question in all_questions():
        base = say(*question.facts[:2], *load_grammar().neutral[:3])
        utility = judge(question, base).utility
        assert judge(question, say(base, question.facts[2])).utility > utility
        assert judge(question, say(base, question.details[0])).utility > utility
        assert judge(question, say(base, question.myths[0])).utility < utility
        assert judge(question, say(base, load_grammar().polite[2])).utility > utility
        assert judge(question, say(base, load_grammar().rude[2])).utility < utility


def test_off_topic_nothing_else_matters() -> None:
    grammar = load_grammar()
    checked = 0
    for question in all_questions():
        other = elsewhere(question)
        texts = [say(*other.facts[:3]), say(*other.facts[:3], grammar.polite[0]), say(*other.myths, grammar.rude[0])]
        judged = [judge(question, text) for text in texts]
        if any(found.relevance for found in judged):
            continue  # the two questions happen to share a word of their topics
        assert len({found.utility for found in judged}) == 1
        checked += 1
    assert checked > 190


def test_a_sentence_said_twice_does_not_help() -> None:
    comments = ((post, comment) for post in simulate_posts(seed=9, split="test") for comment in post.comments)
    for post, comment in islice(comments, 500):
        sentence = comment.text.split(". ")[0].rstrip(".") + "."
        for again in (sentence, sentence.upper(), sentence.rstrip(".") + "!", say(*[sentence] * 20)):
            assert gold_utility(post.text, say(comment.text, again)) <= comment.utility + 1e-9


def test_length_helps_up_to_a_point_and_costs_beyond() -> None:
    question = all_questions()[0]
    short = question.facts[0]
    padding = [f"Word{n} word{n} word{n} word{n} word{n}." for n in range(190)]
    lengths = [judge(question, say(short, *padding[:n])).utility for n in range(0, 190, 10)]
    best = lengths.index(max(lengths))
    assert best == 1
    assert all(shorter > longer for shorter, longer in pairwise(lengths[best:]))
    assert lengths[0] < lengths[best]


def test_a_paraphrase_earns_part_of_the_credit() -> None:
    rng = random.Random(0)
    credits = []
    for question in all_questions():
        words = question.facts[0].rstrip(".").split()
        kept = [word for word in words if rng.random() < 0.8]
        rng.shuffle(kept)
        credits.append(judge(question, " ".join(kept) + ".").facts)
        off_topic = judge(question, elsewhere(question).facts[0]).utility
        whole = judge(question, question.facts[0])
        half = judge(question, " ".join(words[: round(0.8 * len(words))]) + ".")
        if 0.3 < half.facts < 0.99:
            assert whole.utility > half.utility > off_topic - 0.7
    partial = [credit for credit in credits if 0 < credit < 0.999]
    assert len(partial) > len(credits) / 2
    # Another form of a word is the same word.
    question = next(q for q in all_questions() if "produce" in say(*q.facts))
    fact = next(fact for fact in question.facts if "produce" in fact)
    assert judge(question, fact.replace("produces", "produce").replace("produce", "produced")).facts >= 1


def test_an_unknown_post_is_an_error() -> None:
    for prompt in ("", "How do I bake a cake for my dog?", "Hello everyone, first time posting here."):
        with pytest.raises(UnknownPostError, match="not a post of the simulator"):
            gold_utility(prompt, "anything")


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(
    text=st.one_of(
        st.text(max_size=400),
        st.lists(st.sampled_from([". ", "! ", "42", "gluten", "\n", "é", "\u2028", "the"]), max_size=200).map("".join),
    ),
    place=st.integers(0, 215),
)
def test_any_text_has_a_finite_utility(text: str, place: int) -> None:
    judged = judge(all_questions()[place], text)
    assert isinstance(judged, Judgement)
    assert math.isfinite(judged.utility)
    assert -12 < judged.utility < 8
    assert 0 <= judged.relevance <= 1
    assert -1 <= judged.tone <= 1


def test_an_empty_response_is_worth_what_an_off_topic_one_is() -> None:
    question = all_questions()[0]
    assert judge(question, "").utility == judge(question, "xyzzy").utility == judge(question, "?! ...").utility < 0


def bradley_terry_misfit(temperature: float) -> float:
    """The p-value of "A is preferred with probability sigmoid(temperature * (gold_A - gold_B))", by ten bins.

    A Wald test on the residuals' sums by bin, their covariance taken over posts: pairs of a post are not independent.
    """
    difference = column("gold_A") - column("gold_B")
    residual = column("labels") - expit(temperature * difference)
    bins = np.searchsorted(np.quantile(difference, np.linspace(0.1, 0.9, 9)), difference)
    _, posts = np.unique(column("post_id"), return_inverse=True)
    sums = np.zeros((posts.max() + 1, 10))
    np.add.at(sums, (posts, bins), residual)
    total = sums.sum(axis=0)
    return float(chi2.sf(total @ np.linalg.solve(sums.T @ sums, total), df=10))


def test_preferences_are_bradley_terry_in_the_gold_utility() -> None:
    assert bradley_terry_misfit(1.0) > 0.01
    # The test would see a utility that is 15 % too flat or too steep.
    assert bradley_terry_misfit(0.85) < 1e-4
    assert bradley_terry_misfit(1.15) < 1e-4


def test_the_ceiling_is_what_the_utilities_say() -> None:
    difference = column("gold_A") - column("gold_B")
    right = np.where(difference == 0, 0.5, (difference > 0) == (column("labels") == 1))
    expected = expit(np.abs(difference))
    _, posts = np.unique(column("post_id"), return_inverse=True)
    error = math.sqrt((np.bincount(posts, right - expected) ** 2).sum()) / len(right)
    assert abs(right.mean() - expected.mean()) < 3 * error
    assert error < 0.01
    assert 0.75 < expected.mean() < 0.9  # room above length and below certainty


def test_no_linear_combination_of_quality_and_relevance_orders_as_the_truth_does() -> None:
    grammar, rng = load_grammar(), random.Random(11)
    rows = []
    for number, question in enumerate(all_questions()):
        for _ in range(10):
            own = rng.random() < 0.6
            answered = question if own else rng.choice([elsewhere(question), rng.choice(all_questions())])
            body = rng.sample(answered.facts, rng.randint(0, 3)) + rng.sample(answered.details, rng.randint(0, 2))
            body += rng.sample(answered.myths, rng.choice((0, 0, 1, 2)) if body else 1)
            text = say(*body, rng.choice((*grammar.polite, *grammar.neutral, *grammar.rude)))
            # Under the question that it answers a text is wholly relevant, so this is its quality alone.
            quality = judge(answered, text).utility / SHARPNESS
            judged = judge(question, text)
            rows.append((number, quality, judged.relevance, judged.utility))
    table = np.array(rows).reshape(len(all_questions()), 10, 4)
    first, second = np.triu_indices(10, 1)
    differences = (table[:, first] - table[:, second]).reshape(-1, 4)
    differences = differences[np.abs(differences[:, 3]) > 0.05]
    quality, relevance, utility = differences[:, 1], differences[:, 2], differences[:, 3]
    angles = np.linspace(0, 2 * np.pi, 721)
    linear = [np.mean(np.sign(np.cos(t) * quality + np.sin(t) * relevance) == np.sign(utility)) for t in angles]
    product = table[..., 2] * table[..., 1] - (1 - table[..., 2]) * 0.3
    gated = (product[:, first] - product[:, second]).reshape(-1)
    gated = gated[np.abs((table[:, first, 3] - table[:, second, 3]).reshape(-1)) > 0.05]
    assert np.mean(np.sign(gated) == np.sign(utility)) > 0.97
    assert 0.75 < max(linear) < 0.93


def test_the_truth_knows_the_simulator_s_sentences_and_not_what_is_right_in_other_words() -> None:
    """What realm_lib/rlhf/README.md says of a language model's own English."""
    question = question_of("Why does my sponge cake sink in the middle?")
    right = (
        "It usually means the cake was taken out before the middle had finished cooking, so the structure could not "
        "hold itself up. Check with a toothpick, give it ten more minutes, and keep the door shut until it is done."
    )
    wrong = (
        "Cakes sink because flour is magnetic and is pulled down by the metal of the tin. Bake it in a wooden bowl and "
        "it will rise perfectly every time."
    )
    elsewhere = "Paris is the capital of France. It lies on the Seine and has been an important city since Roman times."
    talk = (
        "That is a great question about cake baking! There are several reasons why a sponge cake may sink, and I am "
        "happy to help you with each of them."
    )
    of_the_key = " ".join(question.facts[:2])
    found = {text: round(judge(question, text).utility, 1) for text in (of_the_key, talk, right, wrong, elsewhere)}
    assert list(found.values()) == [2.3, 0.2, -0.7, -0.9, -0.9]
