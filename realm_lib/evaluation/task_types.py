"""Which task types serve the similarity best, where the features hold it under several (Gemini's embeddings)."""

import numpy as np
import pandas as pd

from realm_lib.evaluation.display import measured, with_interval
from realm_lib.evaluation.resampling import bootstrap_over_posts
from realm_lib.runs.seeds import derive_seed

_COLUMN = "similarity_{} under "


def similarity_by_task_type(
    features: pd.DataFrame, *, resamples: int = 10_000, seed: int = 42, confidence: float = 0.95
) -> pd.DataFrame:
    """How often the cosine is larger for the preferred response, under each pair of task types in ``features``.

    Columns: prompts, responses (the task types), accuracy and its difference to the run's own similarity in points,
    each with its interval over posts, as text for display. The row whose difference is 0.0 is the run's own. Empty
    where there is one way only.
    """
    start = _COLUMN.format("A")
    names = [column.removeprefix(start) for column in map(str, features) if column.startswith(start)]
    columns = ["prompts", "responses", "accuracy", "difference"]
    if not names:
        return pd.DataFrame(columns=columns)
    pairs = [("similarity_A", "similarity_B")]
    pairs += [(start + name, _COLUMN.format("B") + name) for name in names]
    sign = np.where(features["labels"] == 1, 1.0, -1.0)
    right = np.stack([(1 + np.sign(sign * (features[a] - features[b]))) / 2 for a, b in pairs], axis=1)
    options = {"seed": derive_seed(seed, "task types"), "resamples": resamples}
    drawn = bootstrap_over_posts(right, features["post_id"], shares=True, confidence=confidence, **options)
    rows = []
    for column, name in enumerate(names, start=1):
        gained = 100 * (drawn.means[column] - drawn.means[0])
        accuracy = with_interval(drawn.means[column], drawn.interval(column))
        is_own = all(
            np.array_equal(features[own], features[other]) for own, other in zip(pairs[0], pairs[column], strict=True)
        )
        ci = [0.0, 0.0] if is_own else [100 * end for end in drawn.share_difference(column, 0)]
        rows.append((*name.split(", "), accuracy, measured(gained, ci, "+.1f")))
    return pd.DataFrame(rows, columns=columns)
