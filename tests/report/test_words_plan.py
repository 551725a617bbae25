"""The plan of a run and how far it is, in words."""

import re
from dataclasses import replace

from realm_lib.features.checks import Ahead
from realm_lib.features.counting import TextCounts, TokenCounts
from realm_lib.features.plan import FeaturesPlan, Place, Work
from realm_lib.features.stored import StoredTexts
from realm_lib.models.embedders import Quote
from realm_lib.models.throughput import Card, find_card
from realm_lib.report.words.plan import brief_plan, notebooks, plan, status, status_line
from realm_lib.rlhf.plan import RunPlan
from realm_lib.rlhf.status import FeatureProgress, RunStatus, TrainingProgress
from realm_lib.runs.steps import Step

COUNTED = TextCounts(385_563, 100_000, 700_000, 5_000_000, 35_000_000, 300_000_000, "counted")
CPU = Place(Card("this CPU", 24.0, 0.1, 0.1, 0.02, 0.0), 1, here=True)
STEPS = [
    Step("01_feature_extraction", "done", None, 7200.0),
    Step("02_combiner_training", "stale", None, 10.0),
    Step("03_evaluation", "left", None, None),
]


def made_up() -> RunPlan:
    h100 = find_card("H100")
    assert h100 is not None
    work = Work("reward_model", "a/model-1B", 1e9, "float32", ((100e6, 16384),))
    tokens = TokenCounts(200_000_000, 100_000_000, 12, 3, "estimated")
    features = FeaturesPlan(Ahead(found=[("disk", "enough")]), COUNTED, {"reward_model": tokens}, [work], {}, {})
    return RunPlan("full", "outputs/full", "SHP", features, [], [CPU, Place(h100, 8, here=False)], [])


def test_the_plan_says_texts_tokens_hours_and_that_nothing_stops_it() -> None:
    found = made_up()
    said = plan(found)
    assert "full: 385,563 pairs of SHP, 700,000 distinct responses to 100,000 prompts\n" in said
    assert "100.0 million tokens where a prompt is read once for its responses, 200.0 million" in said
    assert "about 12 texts lose a part of their prompt, and 3 responses are too long" in said
    assert "this CPU  8 x H100" in said
    assert "Nothing that was looked at would stop this run." in said
    assert re.search(r"Warning: this takes about \d+\.\d days on this CPU\.", said)
    work = replace(found.features.works[0], elsewhere=True)
    served = replace(found, features=replace(found.features, works=[work]))
    assert "elsewhere" in plan(served)
    assert "Warning" not in plan(served)


def test_days_are_a_warning_and_a_service_says_its_time_and_its_money() -> None:
    found = made_up()
    found.features.minutes["embedding"] = 180.0
    found.features.ahead.quotes["embedding"] = Quote(texts=5, tokens=10, cost=12.5, cut=0)
    said = brief_plan(found)
    assert "embedding: 3.0 h at the least, by the limits of the account" in said
    assert "Warning: this takes about" in said
    assert "$" not in said, "what was counted is said where it was looked at"
    guessed = replace(found, features=replace(found.features, texts=replace(COUNTED, basis="estimated")))
    assert "Warning: embedding may cost about $12.50: an estimate before the pairs are here." in brief_plan(guessed)
    assert len(said.splitlines()) < 8


def test_what_is_stored_is_left_out_of_the_hours() -> None:
    found = made_up()
    whole = found.hours(CPU)
    found.features.stored["score"] = 0.75
    half = found.hours(CPU)
    assert whole is not None
    assert half is not None
    assert half * 4 == whole


def test_the_status_names_notebooks_texts_and_trainings() -> None:
    stored = StoredTexts("score", "run:models/reward_model", 1000, 400)
    paid = StoredTexts("similarity", "gemini-embedding-001", 10, 4, Quote(texts=6, tokens=60, cost=0.5, cut=0))
    training = TrainingProgress("ppo", 10, 48, 8, "updates", 300.0)
    features = [FeatureProgress(stored, 5400.0), FeatureProgress(paid, None)]
    said = status(RunStatus("outputs/a", STEPS, features, [training], 7210.0)).splitlines()
    first = "outputs/a: 1 of 3 notebooks done; stale: 02_combiner_training; left: 03_evaluation; 2.0 h so far"
    assert said[0] == first == status_line("outputs/a", STEPS)
    assert said[1] == (
        "score (models/reward_model): 400 of 1,000 texts stored, 600 to do, about 1.5 h at the rate so far"
    )
    assert "4 of 10 texts stored, 6 to do; left to pay: " in said[2]
    assert said[3] == "ppo: 10 of 48 updates, 8 of them in a checkpoint, about 5 min left at the rate so far"
    assert notebooks(STEPS[:1]) == "all 1 notebooks done"
