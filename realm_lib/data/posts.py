"""Which posts are the same: those whose text is."""

import hashlib

from realm_lib.data.chats import Prompt, prompt_key


def post_key(prompt: Prompt) -> str:
    """16 hexadecimal digits (of SHA-256) that are the same for equal prompts, by :func:`prompt_key`, and for no others.

    Raises :class:`PairsError` as :func:`realm_lib.data.chats.as_messages` does.
    """
    return hashlib.sha256(prompt_key(prompt).encode("utf-8", "surrogatepass")).hexdigest()[:16]
