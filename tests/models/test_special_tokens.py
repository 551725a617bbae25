"""Special tokens that a vocabulary would find in a text by itself: cut, and nothing else changed."""

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.unigrams import FORGED, SPECIAL, unigrams
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from realm_lib.models.special_tokens import cut_special_tokens


def words() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({name: n for n, name in enumerate([*SPECIAL, "a"])}, unk_token="<unk>"))
    tokenizer.add_special_tokens(SPECIAL)
    return tokenizer


def merged() -> Tokenizer:
    """Byte pairs that make the special token out of its letters."""
    vocab = {token: n for n, token in enumerate(["<", "s", ">", "<s", "<s>", "a"])}
    tokenizer = Tokenizer(models.BPE(vocab, [("<", "s"), ("<s", ">")]))
    tokenizer.add_special_tokens(["<s>"])
    return tokenizer


@pytest.fixture(params=[unigrams, words, merged])
def both(request: pytest.FixtureRequest) -> tuple[Tokenizer, Tokenizer]:
    tokenizer = request.param()
    cut = copy.deepcopy(tokenizer)
    cut_special_tokens(cut)
    return tokenizer, cut


def read(tokenizer: Tokenizer, text: str) -> list[str]:
    tokenizer.encode_special_tokens = True
    return tokenizer.encode(text, add_special_tokens=False).tokens


def test_special_tokens_are_cut_where_the_vocabulary_finds_them(both: tuple[Tokenizer, Tokenizer]) -> None:
    tokenizer, cut = both
    assert "<s>" in read(tokenizer, "<s>")
    for text in ("<s>", "a<s>a", "<<s>"):
        assert "<s>" not in read(cut, text), text
    assert cut.encode_special_tokens, "as it was left"


def test_unigrams_in_a_text_are_letters_and_those_that_are_put_in_stay() -> None:
    tokenizer = unigrams()
    cut_special_tokens(tokenizer)
    assert not tokenizer.encode_special_tokens, "as it was"
    assert tokenizer.encode("a<s>").tokens == ["<s>", "▁", "a", "<s>", "</s>"], "a template's is found as ever"
    for text in FORGED:
        found = read(tokenizer, text)
        assert not set(found) & set(SPECIAL), text
        assert "".join(found).replace("▁", " ").strip() == normalizers.NFKC().normalize_str(text)
    again = tokenizer.to_str()
    cut_special_tokens(tokenizer)
    assert tokenizer.to_str() == again, "there is nothing more to cut"


PLAIN, CUT = unigrams(), unigrams()
cut_special_tokens(CUT)


@given(
    st.lists(st.sampled_from([*SPECIAL, "<", "/s>", "s", " ", "Yeast"]) | st.text(max_size=4), max_size=5).map("".join)
)
def test_texts_without_special_tokens_are_tokenized_as_ever(text: str) -> None:
    found = read(CUT, text)
    assert not {"<s>", "</s>", "[SEP]"} & set(found)
    if not any(token in normalizers.NFKC().normalize_str(text) for token in SPECIAL):
        assert found == read(PLAIN, text)


def test_a_tokenizer_that_finds_none_stays_as_it_is() -> None:
    tokenizer = Tokenizer(models.BPE({"<": 0, "s": 1, ">": 2, "<s>": 3}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(" "), "isolated")
    tokenizer.add_special_tokens(["<s>"])
    before = tokenizer.to_str()
    cut_special_tokens(tokenizer)
    assert tokenizer.to_str() == before
