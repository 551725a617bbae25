"""Special tokens that a vocabulary finds in a text by itself, whatever the tokenizer is told to leave alone.

``split_special_tokens=True`` ends the tokenizer's own search for special tokens. But SentencePiece's unigrams (XLM-R,
DeBERTa-v3, T5) hold ``</s>`` or ``[SEP]`` as a piece like any other, and the likeliest of all: these letters in a text
are the real token again.
"""

import re
from typing import Any


def cut_special_tokens(tokenizer: Any) -> None:
    """Make ``tokenizer`` cut the special tokens that its vocabulary would find in a text. It may be of either library.

    Each is cut behind its first letter before the vocabulary is asked. Those that a template or the tokenizer itself
    puts in are found before that, and texts that hold none are tokenized as ever. A token of one letter stays.
    """
    from tokenizers import Regex, Tokenizer, pre_tokenizers

    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if not isinstance(backend, Tokenizer):
        return  # written in Python: none is known that finds them
    special = {index: token.content for index, token in backend.get_added_tokens_decoder().items() if token.special}
    texts = [text for name in special.values() for text in (name, f"a{name}a")]
    searching, backend.encode_special_tokens = backend.encode_special_tokens, True
    rows = backend.encode_batch(texts, add_special_tokens=False)
    backend.encode_special_tokens = searching
    found = {special[index] for row in rows for index in row.ids if index in special}
    if names := sorted(name for name in found if len(name) > 1):
        first_letters = "|".join(f"{re.escape(name[0])}(?={re.escape(name[1:])})" for name in names)
        cut = pre_tokenizers.Split(Regex(first_letters), "isolated")
        before = backend.pre_tokenizer
        backend.pre_tokenizer = cut if before is None else pre_tokenizers.Sequence([before, cut])
