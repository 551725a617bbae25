"""The forms in which data sets of preferences are published, and how each is read into the columns of SHP."""

from collections.abc import Sequence

import pandas as pd

from realm_lib.data.chats import PairsError
from realm_lib.data.forms.form import Form, by_row, by_table
from realm_lib.data.forms.lists import generations, helpsteer_ratings, nectar, stack_exchange, ultrafeedback
from realm_lib.data.forms.naming import how_to_call
from realm_lib.data.forms.paired import (
    arena,
    arena_lists,
    better_and_worse,
    chosen_and_rejected,
    coded,
    helpsteer2_prompt,
    instruction_of,
    messages_of,
    prompt_of,
    summaries,
    two_responses,
    webgpt,
)
from realm_lib.data.forms.shp import REQUIRED, read_shp
from realm_lib.data.forms.trees import message_rows, nested

_BY_ID: dict[int | float, int | None] = {0: 1, 1: 0}
_STRENGTH: dict[int | float, int | None] = {-3: 1, -2: 1, -1: 1, 0: None, 1: 0, 2: 0, 3: 0}

FORMS = (
    Form("SHP", REQUIRED, "a pair; labels 0.5 is a tie", read_shp),
    Form(
        "HelpSteer2 preferences",
        ("prompt", "response_1", "response_2", "preference_strength"),
        "a pair; strength below 0 prefers the first, 0 is a tie",
        by_row(two_responses(helpsteer2_prompt, "response_1", "response_2", coded("preference_strength", _STRENGTH))),
    ),
    Form(
        "HelpSteer3 preferences",
        ("context", "response1", "response2", "overall_preference"),
        "a pair; a preference below 0 is for the first, 0 is a tie",
        by_row(two_responses(messages_of("context"), "response1", "response2", coded("overall_preference", _STRENGTH))),
    ),
    Form(
        "PKU-SafeRLHF",
        ("prompt", "response_0", "response_1", "better_response_id"),
        "a pair, the more helpful response preferred (safer_response_id is not used)",
        by_row(two_responses(prompt_of("prompt"), "response_0", "response_1", coded("better_response_id", _BY_ID))),
    ),
    Form(
        "AlpacaFarm",
        ("instruction", "output_1", "output_2", "preference"),
        "a pair; preference 1 or 2, 0 and 1.5 are ties; the input under the instruction",
        by_row(
            two_responses(instruction_of, "output_1", "output_2", coded("preference", {1: 1, 2: 0, 0: None, 1.5: None}))
        ),
    ),
    Form(
        "Chatbot Arena, MT-bench",
        ("conversation_a", "conversation_b", "winner"),
        "a pair where each side has one response to the same prompt, of the first `turn` turns; ties are ties",
        by_row(arena),
    ),
    Form(
        "Chatbot Arena at Kaggle",
        ("prompt", "response_a", "response_b", "winner_model_a", "winner_model_b"),
        "as above, from lists of turns",
        by_row(arena_lists),
    ),
    Form(
        "WebGPT comparisons",
        ("question", "answer_0", "answer_1", "score_0", "score_1"),
        "a pair, the higher score preferred; equal scores are a tie",
        by_row(webgpt),
    ),
    Form(
        "Summaries from feedback",
        ("info", "summaries", "choice"),
        "a pair; the prompt is the post under its subreddit and title, and TL;DR:",
        by_row(summaries),
    ),
    Form(
        "UltraFeedback",
        ("instruction", "completions"),
        "each two completions, by the mean of their ratings, else overall_score; equal ones are a tie",
        by_row(ultrafeedback),
    ),
    Form("distilabel", ("generations", "ratings"), "each two generations by their ratings", by_row(generations)),
    Form(
        "Stack Exchange preferences",
        ("question", "answers"),
        "each two answers by pm_score; HTML stays HTML",
        by_row(stack_exchange),
    ),
    Form("Nectar", ("prompt", "answers"), "each two answers by their rank", by_row(nectar)),
    Form(
        "Stack Exchange, paired",
        ("question", "response_j", "response_k"),
        "a pair, response_j preferred",
        by_row(better_and_worse("question", "response_j", "response_k")),
    ),
    Form(
        "UltraFeedback, binarized by Argilla",
        ("instruction", "chosen_response", "rejected_response"),
        "a pair with its ratings",
        by_row(better_and_worse("instruction", "chosen_response", "rejected_response")),
    ),
    Form(
        "Open Assistant, messages",
        ("message_id", "parent_id", "text", "role"),
        "each two ranked replies of the assistant to one message, under all before it",
        by_table(message_rows),
    ),
    Form("Open Assistant, trees", ("message_tree_id", "prompt"), "the same, from nested `replies`", by_table(nested)),
    Form(
        "chosen and rejected",
        ("chosen", "rejected"),
        "a pair of texts, messages, HH-RLHF transcripts or ShareGPT turns, with `prompt` (or instruction and input, "
        "question, query, conversations, input, history), `system` and ratings (chosen_score, score_chosen, ...) "
        "where there are any",
        by_row(chosen_and_rejected),
    ),
    Form(
        "HelpSteer ratings",
        ("prompt", "response", "helpfulness"),
        "each two responses to one prompt by helpfulness; equal ones are a tie",
        by_table(helpsteer_ratings),
    ),
)
"""Each form, those of more columns before those that have some of them."""


def form_of(columns: Sequence[str], source: str) -> Form:
    """The form of a file with these columns.

    Raises :class:`PairsError` naming ``source``, its columns, and what is missing or to be called otherwise.
    """
    for form in FORMS:
        if set(form.columns) <= set(columns):
            return form
    raise PairsError(f"{source}: {how_to_call(columns, {form.name: form.columns for form in FORMS})}")


def read_form(frame: pd.DataFrame, source: str) -> pd.DataFrame:
    """The rows of a file as pairs: SHP's columns, ratings where there are any, _file, _row, and _reason.

    ``_reason`` is None, or why there is no pair. Raises as :func:`form_of` does.
    """
    columns = [str(column) for column in frame.columns if not str(column).startswith("_")]
    return form_of(columns, source).read(frame)
