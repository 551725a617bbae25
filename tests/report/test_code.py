"""The library's lines as a notebook shows them."""

from realm_lib.report.words.code import source_of
from realm_lib.rlhf.dpo.loss import dpo_losses, implicit_rewards


def described(values: list[int]) -> int:
    """A docstring
    of two lines, with "quotes".
    """

    # A comment stays.
    text = """not a docstring"""
    return len(values) + len(text)


def plain(value: int) -> int:
    return value


def empty() -> None:
    """Nothing but this."""


def test_a_docstring_goes_and_all_else_stays() -> None:
    assert source_of(described) == (
        "```python\n"
        "def described(values: list[int]) -> int:\n"
        "    # A comment stays.\n"
        '    text = """not a docstring"""\n'
        "    return len(values) + len(text)\n"
        "```"
    )


def test_functions_stand_one_after_the_other() -> None:
    shown = source_of(plain, empty)
    assert shown == (
        "```python\ndef plain(value: int) -> int:\n    return value\n\n\n"
        'def empty() -> None:\n    """Nothing but this."""\n```'
    )


def test_what_is_shown_is_what_is_computed() -> None:
    """The shown lines, run as they stand, give what the library gives."""
    names = dict(implicit_rewards.__globals__)
    exec(source_of(implicit_rewards, dpo_losses).removeprefix("```python\n").removesuffix("```"), names)
    assert names["dpo_losses"] is not dpo_losses
    assert names["dpo_losses"]([1.0, -0.5], [0.0, 0.5]).tolist() == dpo_losses([1.0, -0.5], [0.0, 0.5]).tolist()
