"""How many tokens a text has for a model that runs elsewhere, and where it is cut."""

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Any

from realm_lib.config.base import resolve_path
from realm_lib.models.embedders.vectors import EmbedderError
from realm_lib.models.hosted import estimate_tokens

BYTES_PER_TOKEN = 3
"""Where no tokenizer is known, a text is taken to be within the limit up to so many bytes a token. English has four and
more; a Chinese character is three bytes and mostly one token; digits and rare letters can have fewer bytes a token."""

_FILE = "tokenizer.json"


class TokenLimit:
    """The most tokens of a text that a model reads: by its tokenizer, where that is known, else by bytes."""

    def __init__(self, max_tokens: int | None, tokenizer: str | None) -> None:
        """``tokenizer`` as ``embedding.tokenizer``; ``max_tokens`` None where no limit is known: then nothing is cut.

        Raises :class:`EmbedderError` for a tokenizer that cannot be found.
        """
        self.max_tokens = max_tokens
        self._name = tokenizer
        self._file = None if tokenizer is None else _tokenizer_file(tokenizer)

    @property
    def identity(self) -> dict[str, Any]:
        """What decides where a text is cut."""
        if self._file is None:
            return {"max_bytes": self.max_tokens and self.max_tokens * BYTES_PER_TOKEN}
        return {"max_tokens": self.max_tokens, "tokenizer": hashlib.sha256(self._file.read_bytes()).hexdigest()}

    @property
    def doubt(self) -> str:
        """What is not known of it, for the user to read; empty where texts are counted exactly."""
        if self.max_tokens is None:
            return (
                "how long a text may be is not known (embedding.max_tokens): the service may cut it without saying so"
            )
        if self._file is None:
            return (
                f"the limit of {self.max_tokens:,} tokens is estimated as {self.max_tokens * BYTES_PER_TOKEN:,} bytes "
                "(embedding.tokenizer counts exactly)"
            )
        return ""

    def __str__(self) -> str:
        """As an error says it."""
        estimate = "" if self._file else f" (estimated as {(self.max_tokens or 0) * BYTES_PER_TOKEN:,} bytes)"
        return f"the model's limit of {self.max_tokens:,} tokens{estimate}"

    def count(self, text: str) -> int:
        """Tokens of ``text``, exact where the tokenizer is known, else estimated by its bytes."""
        return estimate_tokens(text) if self._file is None else len(self._tokenizer.encode(text).ids)

    def cut(self, text: str) -> str:
        """``text`` without what is over the limit: the same object where nothing is."""
        if self.max_tokens is None:
            return text
        if self._file is None:
            return cut_to_bytes(text, self.max_tokens * BYTES_PER_TOKEN)
        if len(self._tokenizer.encode(text).ids) <= self.max_tokens:
            return text
        offsets = self._tokenizer.encode(text, add_special_tokens=False).offsets
        for kept in range(self.max_tokens - self._tokenizer.num_special_tokens_to_add(False), 0, -1):
            shorter = text[: offsets[kept - 1][1]]
            # The end of a text can be other tokens than its middle, so what is left is counted again.
            if len(self._tokenizer.encode(shorter).ids) <= self.max_tokens:
                return shorter
        raise EmbedderError(f"embedding.max_tokens {self.max_tokens} leaves nothing of a text: {text[:60]!r}")

    @cached_property
    def _tokenizer(self) -> Any:
        """Read when it is first needed."""
        from tokenizers import Tokenizer

        try:
            tokenizer = Tokenizer.from_file(str(self._file))
        except Exception as error:  # tokenizers raises nothing narrower
            raise EmbedderError(f"embedding.tokenizer {self._name}: {self._file} cannot be read: {error}") from None
        tokenizer.no_truncation()  # a file may hold the settings of its last use
        tokenizer.no_padding()
        return tokenizer


def cut_to_bytes(text: str, most: int) -> str:
    """``text`` up to its first ``most`` bytes, whole characters: the same object where it has no more."""
    content = text.encode()
    return text if len(content) <= most else content[:most].decode(errors="ignore")


def _tokenizer_file(name: str) -> Path:
    """The tokenizer.json that ``name`` means. Raises :class:`EmbedderError` where there is none."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    path = resolve_path(name)
    if path.is_file():
        return path
    if path.is_dir():
        if not (path / _FILE).is_file():
            raise EmbedderError(f"embedding.tokenizer {name}: {path} has no {_FILE}")
        return path / _FILE
    try:
        return Path(hf_hub_download(name, _FILE))
    except (OSError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        raise EmbedderError(
            f"embedding.tokenizer {name}: no such file or folder here, and the hub gives no {_FILE} of it: {error}"
        ) from None
