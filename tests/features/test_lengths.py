"""Lengths of texts: counted once, the same some at a time, and refused each time where a text is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from realm_lib.features import lengths
from realm_lib.features.lengths import text_lengths
from realm_lib.features.scores import score_texts
from realm_lib.features.store import FeatureStore
from realm_lib.models.reward_models import LongResponseError
from realm_lib.models.reward_models.chat import ChatEncoder

PROMPTS = ["Why?", "Why? " * 30, "Why?", "How? " * 9, "Who?", "Why?"]
RESPONSES = ["Yeast.", "Gas.", "word " * 100, "Thank you, kindly.", "", "Yeast makes gas."]
FITS = [0, 1, 3, 4, 5]


class CountedEncoder(ChatEncoder):
    """The real encoder, and how many texts it was asked for."""

    asked = 0

    def _encode_each(self, prompts: Any, responses: Any) -> Any:
        self.asked += len(prompts)
        return super()._encode_each(prompts, responses)


@pytest.mark.parametrize("at_once", [1, 2, 5, 100])
def test_texts_are_counted_once_however_many_at_a_time(
    at_once: int, tiny_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lengths, "_AT_ONCE", at_once)
    encoder, store = CountedEncoder(tiny_tokenizer, 60), FeatureStore(tmp_path)
    expected = ChatEncoder(tiny_tokenizer, 60).lengths([PROMPTS[n] for n in FITS], [RESPONSES[n] for n in FITS])
    assert (expected[1, 0], expected[1, 1] > 0) == (60, True)
    for asked in (6, 1):  # the second time only what was refused
        encoder.asked = 0
        found, refused = text_lengths(encoder, PROMPTS, RESPONSES, store)
        np.testing.assert_array_equal(found[FITS], expected)
        assert encoder.asked == asked
        assert {place: type(error) for place, error in refused.items()} == {2: LongResponseError}
        assert str(refused[2]) == str(ChatEncoder(tiny_tokenizer, 60).refused(PROMPTS[2:3], RESPONSES[2:3])[0])
        assert not found[2].any()


def test_what_is_cut_otherwise_is_counted_again(tiny_tokenizer: Any, tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    tokens = {}
    for most, long_responses in ((60, "refuse"), (60, "cut"), (120, "refuse")):
        encoder = CountedEncoder(tiny_tokenizer, most, long_responses)  # type: ignore[arg-type]
        tokens[most, long_responses] = text_lengths(encoder, PROMPTS[:3], RESPONSES[:3], store)[0]
        assert encoder.asked == 3
    assert tokens[60, "cut"][2].tolist()[0] == 60
    assert tokens[120, "refuse"][1, 0] > 60


def test_a_tokenizer_is_the_same_whatever_it_did_last(tiny_tokenizer: Any) -> None:
    before = ChatEncoder(tiny_tokenizer, 60).identity
    tiny_tokenizer(["Why?", "How so?"], truncation=True, max_length=3, padding=True)
    assert ChatEncoder(tiny_tokenizer, 60).identity == before
    tiny_tokenizer.backend_tokenizer.no_truncation()
    tiny_tokenizer.backend_tokenizer.no_padding()


def test_a_refused_text_is_named_by_its_place_among_all(inform_folder: Path, tmp_path: Path) -> None:
    from support.small_scorers import scorer_of

    scorer, store = scorer_of(inform_folder, max_length=60), FeatureStore(tmp_path)
    with pytest.raises(LongResponseError, match="text 2 ") as error:
        score_texts(scorer, PROMPTS, RESPONSES, store, label=None)
    assert list(error.value.tokens) == [2]
    told = score_texts(scorer, PROMPTS[:2], RESPONSES[:2], store, label=None)
    assert told.reading is not None
    assert (told.reading.texts, told.reading.cut_prompts) == (2, 1)
