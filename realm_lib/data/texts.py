"""What a reader sees of a text: when two texts are the same, and when one says nothing."""

import unicodedata

import regex

_INVISIBLE = regex.compile(r"\p{Default_Ignorable_Code_Point}+")
# White space, controls, what is invisible, a blank of Braille, and what stands for lost characters.
_NOTHING = regex.compile(r"[\s\p{Cc}\p{Cf}\p{Default_Ignorable_Code_Point}\u2800\ufffd]*")
_GONE = regex.compile(
    r"\[ ?(?:deleted|removed)(?: by [\w ]+?)?(?: on account of violating .*)? ?\]",  # as Reddit writes it
    regex.IGNORECASE,
)


def visible(text: str) -> str:
    """``text`` without the characters that nobody sees, and with each run of white space as one space.

    They are zero-width spaces and joiners, byte order marks, soft hyphens, directional marks and the like (Unicode's
    Default_Ignorable_Code_Point). Composed and decomposed letters are the same (NFC). Case stays.
    """
    if not text.isascii():  # nothing of it is
        text = _INVISIBLE.sub("", unicodedata.normalize("NFC", text))
    return " ".join(text.split())


def folded(text: str) -> str:
    """:func:`visible`, with the case folded (Unicode's canonical caseless matching, section 3.13, D145)."""
    return visible(unicodedata.normalize("NFD", text).casefold())


def is_blank(text: str) -> bool:
    """Whether a text has no visible character."""
    return _NOTHING.fullmatch(text) is not None


def is_empty(text: str) -> bool:
    """Whether a text says nothing: it is blank, or only the mark of a comment that is gone, as [deleted]."""
    if is_blank(text):
        return True
    return "[" in text and _GONE.fullmatch(visible(text)) is not None
