"""What another training would change, in words."""

from collections.abc import Sequence

from realm_lib.report.words.numbers import Metrics, counted, interval


def seeds(spread: Metrics, ci: Sequence[float]) -> str:
    """What another training would change, beside what other posts would: ``ci`` is the accuracy's interval."""
    text = (
        f"Trained from {counted(len(spread['ensemble']), 'seeds')}, the combiner reaches {_ends(spread['ensemble'])} % "
        f"on these pairs (standard deviation {100 * spread['sd']:.2f} points; single networks "
        f"{100 * spread['members_sd']:.2f}). "
    )
    if "retrained" in spread:
        retrained = spread["retrained"]
        text += (
            f"With the reward model trained again too, {len(retrained['realm'])} trainings in all, the combiner "
            f"reaches {_ends(retrained['realm'])} % (standard deviation {100 * retrained['sd']['realm']:.2f}), the "
            f"reward model alone {_ends(retrained['reward_model'])} % ({100 * retrained['sd']['reward_model']:.2f}). "
        )
    else:
        text += "The reward model is taken as it is: what another training of it would change is not in this. "
    return f"{text}The interval over posts is {100 * (ci[1] - ci[0]):.1f} points wide."


def _ends(values: Sequence[float]) -> str:
    return interval((min(values), max(values)))
