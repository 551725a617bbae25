"""What the explorer shows, without its widgets: two responses compared, and the pairs that the reward gets wrong."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape

import pandas as pd

from realm_lib.data.chats import readable
from realm_lib.data.lengths import counted, word_count
from realm_lib.evaluation.calibration import confidences
from realm_lib.evaluation.per_pair import wrong_pairs
from realm_lib.evaluation.result import Evaluation
from realm_lib.report.words.pairs import lies_outside, preferred
from realm_lib.reward.explanations import Explanation, explain_each
from realm_lib.reward.realm_reward import RealmReward

ANY_DOMAIN = "all domains"
LENGTHS: dict[str, Callable[[pd.DataFrame], "pd.Series[bool]"]] = {
    "any length": lambda pairs: pairs["words_chosen"] == pairs["words_chosen"],
    "preferred one is longer": lambda pairs: pairs["words_chosen"] > pairs["words_rejected"],
    "preferred one is shorter": lambda pairs: pairs["words_chosen"] < pairs["words_rejected"],
}


class ExplorerError(ValueError):
    """A text that cannot be compared; the message says which and why."""


@dataclass(frozen=True)
class Comparison:
    """Two responses to one prompt as the reward sees them."""

    prompt: str
    responses: tuple[str, str]
    explanations: tuple[Explanation, Explanation]
    probability: float
    """That the first response is preferred, in [0, 1]."""
    preferred: int | None = None
    """Which one people preferred, 0 or 1, where it is known."""

    def sentence(self) -> str:
        """Which response the reward prefers and how sure it is, and whether people agree where that is known."""
        first, second = (explanation.reward for explanation in self.explanations)
        return preferred((first, second), self.probability, self.preferred)

    def to_html(self) -> str:
        """The sentence and a table: each feature, combined reward and spread of each response; and who is outside."""
        signals = list(self.explanations[0].signals)
        rows = "".join(
            f"<tr><th scope='row'>{name}</th>{_cell(f'{parts.score:+.2f}')}{_cell(f'{parts.similarity:.2f}')}"
            f"{''.join(_cell(f'{parts.signals[signal]:.2f}') for signal in signals)}"
            f"{_cell(f'<b>{parts.reward:+.2f}</b>')}{_cell(f'{parts.spread:.2f}')}</tr>"
            for name, parts in zip("AB", self.explanations, strict=True)
        )
        heads = "".join(
            f"<th scope='col' style='padding: 2px 14px'>{escape(name)}</th>"
            for name in ("Score", "Similarity", *signals, "Combined reward", "Spread")
        )
        beyond = [name for name, parts in zip("AB", self.explanations, strict=True) if parts.outside]
        note = f"<p>{escape(lies_outside(beyond))}</p>" if beyond else ""
        return (
            f"<p><b>{escape(self.sentence())}</b></p>"
            f"<table><thead><tr><td></td>{heads}</tr></thead><tbody>{rows}</tbody></table>{note}"
        )

    def values(self, names: Sequence[str]) -> list[tuple[str, list[float]]]:
        """A and B with their features ``names``."""
        of_each = [{"score": e.score, "similarity": e.similarity, **e.signals} for e in self.explanations]
        return [(side, [own[name] for name in names]) for side, own in zip("AB", of_each, strict=True)]

    def texts_to_html(self) -> str:
        """The prompt and both responses, for where nobody can type."""
        parts = zip(("Prompt", "A", "B"), (readable(self.prompt), *self.responses), strict=True)
        return "".join(f"<p><b>{name}.</b> {escape(text)}</p>" for name, text in parts)


def _cell(text: str) -> str:
    return f"<td style='padding: 2px 14px; text-align: right'>{text}</td>"


def compare(
    reward: RealmReward, prompt: str, responses: tuple[str, str], *, scale: float, preferred: int | None = None
) -> Comparison:
    """Score both ``responses`` and say which would be preferred, with probability sigmoid(scale * difference).

    ``scale`` is the reward's own, fitted on validation pairs (:attr:`realm_lib.evaluation.Evaluation.scales`).
    Raises :class:`ExplorerError` for an empty text and for one that the models refuse.
    """
    for name, text in zip(("the prompt", "response A", "response B"), (prompt, *responses), strict=True):
        if not text.strip():
            raise ExplorerError(f"{name} is empty: type something")
    explanations = []
    for name, outcome in zip("AB", explain_each(reward, [prompt, prompt], list(responses)), strict=True):
        if not isinstance(outcome, Explanation):
            raise ExplorerError(f"response {name} has no reward: {outcome}")
        explanations.append(outcome)
    first, second = explanations
    difference = first.reward - second.reward
    sure = float(confidences(difference, scale))
    probability = sure if difference >= 0 else 1 - sure
    return Comparison(prompt, responses, (first, second), probability, preferred)


@dataclass(frozen=True)
class WrongPairs:
    """The test pairs that the reward gets wrong, to browse; the surest first."""

    table: pd.DataFrame = field(repr=False)
    """As :func:`realm_lib.evaluation.per_pair.wrong_pairs`, with words_chosen and words_rejected."""

    @classmethod
    def of(cls, evaluation: Evaluation, features: pd.DataFrame) -> "WrongPairs":
        """The wrong pairs of an evaluation's subject; ``features`` are the pairs that it judged, with their texts."""
        table = wrong_pairs(evaluation.per_pair, features, evaluation.subject)
        for side in ("chosen", "rejected"):
            table[f"words_{side}"] = counted(word_count, table[side])
        return cls(table)

    @property
    def domains(self) -> list[str]:
        """All domains that have a wrong pair, after the choice of all."""
        return [ANY_DOMAIN, *sorted(self.table["domain"].unique())]

    def select(
        self,
        domain: str = ANY_DOMAIN,
        sure: tuple[float, float] = (0.5, 1.0),
        length: str = "any length",
        score_ratio: float = 1.0,
    ) -> pd.DataFrame:
        """The rows of a domain, within probabilities ``sure``, of a kind of ``LENGTHS``, of at least so clear votes."""
        table = self.table
        kept = table["sure"].between(*sure) & LENGTHS[length](table)
        if domain != ANY_DOMAIN:
            kept &= table["domain"] == domain
        if "score_ratio" in table:
            kept &= table["score_ratio"] >= score_ratio
        return table[kept]
