"""A small sample of each form of :data:`realm_lib.data.forms.FORMS`, made up by hand in its published columns.

Each has the pairs that must come out as (prompt, preferred, other), and the reasons of what must not.
"""

from dataclasses import dataclass, field
from typing import Any

Row = dict[str, Any]
Triple = tuple[str, str, str]


@dataclass(frozen=True)
class Sample:
    """Rows of a form, and what is right for them."""

    rows: list[Row]
    pairs: list[Triple]
    left_out: dict[str, int] = field(default_factory=dict)


def said(*turns: str) -> list[Row]:
    """A dialogue of user and assistant."""
    return [{"role": ("user", "assistant")[place % 2], "content": content} for place, content in enumerate(turns)]


def parts(text: str) -> list[Row]:
    """A content in parts, with the empty fields that Arrow gives them."""
    return [{"type": "text", "text": text, "image": None, "mimeType": None}]


def message(number: int, parent: int | None, text: str, **more: Any) -> Row:
    """A message of Open Assistant's table."""
    row = {"message_id": f"m{number}", "parent_id": None if parent is None else f"m{parent}", "text": text}
    row |= {"role": "assistant", "lang": "en", "deleted": False, "synthetic": False, "rank": None}
    return row | more


def node(text: str, *replies: Row, **more: Any) -> Row:
    """A message of Open Assistant's trees."""
    role = more.pop("role", "assistant")
    return {"message_id": text, "text": text, "role": role, "replies": list(replies), **more}


def shp(**changes: Any) -> Row:
    """A row of SHP, A preferred."""
    row = {"post_id": "a1", "domain": "askbaking_train", "history": "Why rest dough?", "upvote_ratio": 0.9}
    row |= {"c_root_id_A": "x", "c_root_id_B": "y", "created_at_utc_A": 2, "created_at_utc_B": 1}
    row |= {"human_ref_A": "It relaxes.", "human_ref_B": "Habit.", "labels": 1, "seconds_difference": 1.0}
    return row | {"score_A": 8, "score_B": 2, "score_ratio": 4.0} | changes


REST = "Why rest dough?"
RIGHT = (REST, "It relaxes.", "Habit.")
ASKED = f"\n\nHuman: {REST}\n\nAssistant:"
TWO = {"response_1": "It relaxes.", "response_2": "Habit."}
STEER = [
    {"prompt": REST, **TWO, "preference_strength": -2, "split": "train", "preference_statement": "The first."},
    {"prompt": REST, **TWO, "preference_strength": 1},
    {"prompt": REST, **TWO, "preference_strength": 0},
    {"prompt": REST, **TWO, "preference_strength": None},
    {"prompt": f"Hi\n<extra_id_1>Assistant\nHello\n<extra_id_1>User\n{REST}", **TWO, "preference_strength": -3},
]
LATER = f"\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: {REST}"
ARENA = {"model_a": "m", "model_b": "n", "judge": "j", "language": "English"}
ONE, OTHER = said(REST, "It relaxes."), said(REST, "Habit.")
SAFE = {"prompt": REST, "response_0": "It relaxes.", "response_1": "Habit.", "is_response_0_safe": True}


def completion(response: str, overall: float, *aspects: str) -> Row:
    """A completion of UltraFeedback."""
    names = ("instruction_following", "truthfulness", "honesty", "helpfulness")
    annotations = {name: {"Rating": rating, "Rationale": "So."} for name, rating in zip(names, aspects, strict=False)}
    return {"model": "m", "response": response, "annotations": annotations, "overall_score": overall}


SAMPLES = {
    "SHP": Sample(
        [
            shp(),
            shp(labels=0, score_A=2, score_B=8),
            shp(labels="B", score_A=2, score_B=8),
            shp(labels=0.5),
            shp(labels=7),
        ],
        [RIGHT, (REST, "Habit.", "It relaxes."), (REST, "Habit.", "It relaxes.")],
        {"tie": 1, "label is neither 0 nor 1": 1},
    ),
    "HelpSteer2 preferences": Sample(
        STEER,
        [RIGHT, (REST, "Habit.", "It relaxes."), (LATER, "It relaxes.", "Habit.")],
        {"tie": 1, "no preference that can be read": 1},
    ),
    "HelpSteer3 preferences": Sample(
        [
            {"domain": "code", "language": "en", "context": said("Hi", "Hello", REST), "response1": "It relaxes."}
            | {"response2": "Habit.", "overall_preference": score}
            for score in (-1, 3, 0)
        ],
        [(LATER, "It relaxes.", "Habit."), (LATER, "Habit.", "It relaxes.")],
        {"tie": 1},
    ),
    "PKU-SafeRLHF": Sample(
        [SAFE | {"better_response_id": 0, "safer_response_id": 1}, SAFE | {"better_response_id": 1}, SAFE],
        [RIGHT, (REST, "Habit.", "It relaxes.")],
        {"no preference that can be read": 1},
    ),
    "AlpacaFarm": Sample(
        [
            {"instruction": "Answer.", "input": REST, "output_1": "It relaxes.", "output_2": "Habit.", "preference": 1},
            {"instruction": REST, "input": "", "output_1": "It relaxes.", "output_2": "Habit.", "preference": 2},
        ],
        [(f"Answer.\n{REST}", "It relaxes.", "Habit."), (REST, "Habit.", "It relaxes.")],
    ),
    "Chatbot Arena, MT-bench": Sample(
        [
            ARENA | {"conversation_a": ONE, "conversation_b": OTHER, "winner": "model_a", "turn": 1},
            ARENA | {"conversation_a": ONE, "conversation_b": OTHER, "winner": "model_b", "turn": 1},
            ARENA | {"conversation_a": ONE, "conversation_b": OTHER, "winner": "tie (bothbad)", "turn": 1},
            ARENA | {"conversation_a": ONE, "conversation_b": OTHER, "winner": "both_bad"},
            ARENA
            | {
                side: [turn | {"content": parts(turn["content"])} for turn in dialogue]
                for side, dialogue in (("conversation_a", ONE), ("conversation_b", OTHER))
            }
            | {"winner": "model_a"},
            ARENA
            | {"conversation_a": [*ONE, *said("And?", "So.")], "conversation_b": [*OTHER, *said("And?", "No.")]}
            | {"winner": "model_a", "turn": 1},
            ARENA
            | {"conversation_a": [*ONE, *said("And?", "So.")], "conversation_b": [*OTHER, *said("And?", "No.")]}
            | {"winner": "model_a", "turn": 2},
        ],
        [RIGHT, (REST, "Habit.", "It relaxes."), RIGHT, RIGHT],
        {"tie": 2, "a response is not one assistant turn": 1},
    ),
    "Chatbot Arena at Kaggle": Sample(
        [
            {"id": 1, "prompt": f'["{REST}"]', "response_a": '["It relaxes."]', "response_b": '["Habit."]'}
            | {"winner_model_a": won[0], "winner_model_b": won[1], "winner_tie": won[2]}
            for won in ((1, 0, 0), (0, 1, 0), (0, 0, 1))
        ],
        [RIGHT, (REST, "Habit.", "It relaxes.")],
        {"tie": 1},
    ),
    "WebGPT comparisons": Sample(
        [
            {"question": {"dataset": "eli5", "id": "1", "full_text": REST}, "answer_0": "It relaxes."}
            | {"answer_1": "Habit.", "score_0": score, "score_1": -score}
            for score in (0.5, -1.0, 0.0)
        ],
        [RIGHT, (REST, "Habit.", "It relaxes.")],
        {"tie": 1},
    ),
    "Summaries from feedback": Sample(
        [
            {"info": {"id": "t3", "post": "I rest dough.", "title": "Dough", "subreddit": "Baking"}}
            | {"summaries": [{"text": "Rest it.", "policy": "p"}, {"text": "Bread."}], "choice": choice}
            for choice in (0, 1)
        ],
        [
            ("SUBREDDIT: r/Baking\n\nTITLE: Dough\n\nPOST: I rest dough.\n\nTL;DR:", "Rest it.", "Bread."),
            ("SUBREDDIT: r/Baking\n\nTITLE: Dough\n\nPOST: I rest dough.\n\nTL;DR:", "Bread.", "Rest it."),
        ],
    ),
    "UltraFeedback": Sample(
        [
            {
                "source": "evol",
                "instruction": REST,
                "completions": [
                    completion("It relaxes.", 7.5, "5", "5", "4", "N/A"),
                    completion("Habit.", 10, "1", "1", "1", "1"),
                    completion("Who knows?", 2, "1", "1", "1", "1"),
                ],
            },
            {"source": "evol", "instruction": REST, "completions": [completion("Alone.", 5)]},
        ],
        [RIGHT, (REST, "It relaxes.", "Who knows?")],
        {"tie": 1, "no other response to compare with": 1},
    ),
    "distilabel": Sample(
        [{"input": REST, "generations": ["Habit.", "It relaxes."], "ratings": [2, 5], "rationales": ["", ""]}],
        [RIGHT],
    ),
    "Stack Exchange preferences": Sample(
        [
            {
                "qid": 7,
                "question": REST,
                "answers": [
                    {"answer_id": 1, "pm_score": 1, "selected": False, "text": "Habit."},
                    {"answer_id": 2, "pm_score": 4, "selected": True, "text": "It relaxes."},
                ],
            }
        ],
        [RIGHT],
    ),
    "Nectar": Sample(
        [
            {
                "prompt": f"{ASKED} ",
                "answers": [{"answer": "It relaxes.", "model": "m", "rank": 1.0}, {"answer": "Habit.", "rank": 2.0}],
            }
        ],
        [RIGHT],
    ),
    "Stack Exchange, paired": Sample(
        [{"qid": 7, "question": REST, "date": "d", "response_j": "It relaxes.", "response_k": "Habit."}], [RIGHT]
    ),
    "UltraFeedback, binarized by Argilla": Sample(
        [
            {"instruction": REST, "chosen_response": "It relaxes.", "rejected_response": "Habit."}
            | {"chosen_avg_rating": 4.5, "rejected_avg_rating": 2.0}
        ],
        [RIGHT],
    ),
    "Open Assistant, messages": Sample(
        [
            message(0, None, REST, role="prompter"),
            message(1, 0, "Habit.", rank=1.0),
            message(2, 0, "It relaxes.", rank=0.0),
            message(3, 0, "Removed.", rank=2.0, deleted=True),
            message(4, 0, "By a model.", rank=3.0, synthetic=True),
            message(5, 2, "Thanks!", role="prompter"),
            message(6, 5, "Welcome."),
            message(7, 99, "Lost."),
        ],
        [RIGHT],
        {
            "deleted message": 1,
            "synthetic message": 1,
            "no other response to compare with": 1,
            "the message that it replies to is not there": 1,
        },
    ),
    "Open Assistant, trees": Sample(
        [
            {
                "message_tree_id": "t",
                "tree_state": "ready_for_export",
                "prompt": node(
                    "Hi",
                    node("Hello", node(REST, node("Habit.", rank=1), node("It relaxes.", rank=0), role="prompter")),
                    role="prompter",
                ),
            }
        ],
        [(LATER, "It relaxes.", "Habit.")],
        {"no other response to compare with": 1},
    ),
    "chosen and rejected": Sample(
        [
            {"prompt": REST, "chosen": "It relaxes.", "rejected": "Habit."},
            {"prompt": REST, "chosen": ONE, "rejected": OTHER, "score_chosen": 8.0, "score_rejected": 5.0},
            {
                "chosen": f"\n\nHuman: {REST}\n\nAssistant: It relaxes.",
                "rejected": f"\n\nHuman: {REST}\n\nAssistant: Habit.",
            },
            {"question": REST, "system": "Be brief.", "chosen": "It relaxes.", "rejected": "Habit."},
            {"conversations": [{"from": "human", "value": REST}], "chosen": {"from": "gpt", "value": "It relaxes."}}
            | {"rejected": {"from": "gpt", "value": "Habit."}},
            {"instruction": "Answer.", "input": REST, "chosen": "It relaxes.", "rejected": "Habit."},
            {"chosen": "It relaxes.", "rejected": "Habit."},
            {"prompt": REST, "chosen": said("Why salt?", "Taste."), "rejected": said("Why salt?", "Habit.")},
        ],
        [
            RIGHT,
            RIGHT,
            RIGHT,
            (f"\n\nSystem: Be brief.\n\nHuman: {REST}", "It relaxes.", "Habit."),
            RIGHT,
            (f"Answer.\n{REST}", "It relaxes.", "Habit."),
        ],
        {
            "no prompt": 1,
            "chosen or rejected repeats another prompt": 1,
        },
    ),
    "HelpSteer ratings": Sample(
        [
            {"prompt": REST, "response": "Habit.", "helpfulness": 1, "correctness": 4, "verbosity": 2},
            {"prompt": REST, "response": "It relaxes.", "helpfulness": 4, "correctness": 4, "verbosity": 2},
            {"prompt": "Why salt?", "response": "Taste.", "helpfulness": 4},
            {"prompt": "Why salt?", "response": "Also.", "helpfulness": 4},
        ],
        [RIGHT],
        {"tie": 1},
    ),
}
