"""A trained reward on other pairs than its own: any file of preferences, with the statistics of notebook 03."""

import base64
import io
import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from realm_lib.config.base import resolve_path
from realm_lib.config.profile import load_params
from realm_lib.data.chats import PairsError
from realm_lib.data.pairs import read_pairs
from realm_lib.data.seen import keys_of, unseen_pairs
from realm_lib.data.tables import without_suffix
from realm_lib.evaluation.bias import length_bias, length_bias_table
from realm_lib.evaluation.judging import evaluate_rewards
from realm_lib.evaluation.parts import parts
from realm_lib.evaluation.result import Evaluation
from realm_lib.evaluation.signals import outside_range
from realm_lib.evaluation.standard import fit_rewards, fit_scales
from realm_lib.features.extraction import extract_features
from realm_lib.features.kept import read_features, require_trained_on
from realm_lib.features.store import FeatureStore
from realm_lib.report.pages.pages import Page, write_page
from realm_lib.report.words import signals as words
from realm_lib.report.words.evaluation import verdict
from realm_lib.report.words.reading import pairs_judged
from realm_lib.reward.realm_reward import RealmReward
from realm_lib.runs.files import LONGEST_NAME
from realm_lib.runs.run import Run, show_progress
from realm_lib.runs.trained_on import posts_behind

if TYPE_CHECKING:
    from markupsafe import Markup

_log = logging.getLogger(__name__)


def evaluate_file(
    run: Run, path: str | Path, *, subset_column: str | None = None, name: str | None = None, resamples: int = 10_000
) -> tuple[str, Path]:
    """Judge the reward of ``run``, and all that it is compared with, on the pairs of a file; the verdict and the page.

    The file is of any form of :data:`realm_lib.data.forms.FORMS`; ``subset_column``, or
    else ``domain`` or ``subset``, divides it. Scores and embeddings go through the run's feature store, so an
    interrupted call goes on from there. Baselines are trained, and probabilities scaled, on the run's own training and
    validation pairs: the file is test pairs only. Pairs whose post any model of the run was trained on or chosen by are
    left out and counted; a warning says what is left out and why.

    Writes metrics/evaluation_NAME.json, metrics/pairs_NAME.parquet and reports/evaluation_NAME.html into the run; NAME
    is the file's.

    Raises :class:`MissingStepError` for a run that is not trained, or was before models kept what they were trained on;
    :class:`PairsError` for a bad file and for one without a post that is new to the run.
    """
    path = Path(path)
    name = _safe_name(name or path.name)
    if len(f"evaluation_{name}.html") > LONGEST_NAME:
        raise PairsError(f"{path}: too long a name for the outputs: give a shorter --name")
    params = load_params(Run.existing(run.folder).path("params.yaml"))
    known = read_features(run, ("train", "validation"))
    reward = RealmReward.from_pretrained(run.folder)
    require_trained_on(run, reward.feature_models)
    reading = params.data.preprocessing
    trained_on = reward.trained_on() | _policies_trained_on(run)
    # The baselines are trained on the run's pairs, whatever the combiner was trained on.
    trained_on["combiner"] = keys_of(known["train"]) | keys_of(known["validation"]) | (trained_on["combiner"] or set())
    split = read_pairs(
        path,
        subset_column=subset_column,
        words=reward.max_prompt_words or reading.max_length,
        max_unusable_share=params.data.max_unusable_share,
    )
    report = split.report
    try:
        pairs, seen = unseen_pairs(split.table, trained_on)
    except PairsError as error:
        raise PairsError(f"{path}: {error}") from None
    store, batch_size = FeatureStore(resolve_path(reading.cache_dir)), reading.batch_size
    features = extract_features(
        pairs,
        reward.scorer,
        reward.embedder,
        store,
        signals=reward.signals,
        batch_size=batch_size,
        progress=show_progress(),
    )
    fitted = fit_rewards(
        known["train"],
        known["validation"],
        reward.combiner,
        params.model,
        params.training,
        with_length=not any(signal.kind == "length" for signal in params.signals.values()),
    )
    on_validation = {reward_name: reward_of(known["validation"]) for reward_name, reward_of in fitted.items()}
    scales = fit_scales(known["validation"], on_validation)
    rewards = {reward_name: reward_of(features) for reward_name, reward_of in fitted.items()}
    evaluation = evaluate_rewards(features, rewards, scales=scales, resamples=resamples, seed=params.run.seed)
    lengths = length_bias(evaluation, resamples=resamples, seed=params.run.seed)
    source: dict[str, Any] = {name: getattr(report, name) for name in ("read", "dropped", "posts_cut")}
    source |= {name: getattr(report, name) for name in ("ids", "annotators", "other_ratios")}
    source |= seen.to_dict()
    if unknown := [name for name, posts in trained_on.items() if posts is None and name in reward.models]:
        source["not_known"] = " and ".join(reward.models[name].partition("@")[0] for name in unknown)
    outside = outside_range(reward.combiner, features)
    # Before the metrics are written: what cannot be drawn leaves none without a page.
    drawn, tables = _figures(evaluation), _tables(evaluation, lengths)
    added = {"verdict": verdict(evaluation), "length_bias": lengths, "outside": outside, "source": source}
    metrics = run.write_metrics(f"evaluation_{name}", evaluation.to_dict() | added)
    run.write_table(evaluation.per_pair, "metrics", f"pairs_{name}.parquet")
    judged = pairs_judged(path.name, source, metrics)
    if metrics["pairs"] < report.read:
        _log.warning("%s", judged)

    page = run.path("reports", f"evaluation_{name}.html")
    content = {
        "title": f"{path.name}: is the combined reward better?",
        "run_name": run.folder.name,
        "verdict": metrics["verdict"],
        "simulated": evaluation.simulated,
        "trained_on_simulated": "gold_A" in known["train"],
        "pairs_judged": f"{judged} {words.outside(outside)}",
        "figures": drawn,
        "tables": tables,
        "footer": "Every number here can be recomputed from the run's metrics folder.",
    }
    pages = [Page("index.html", "Report"), Page(page.name, page.stem)]
    write_page(page, "benchmark.html.j2", pages, source=run.folder.name, **content)
    return metrics["verdict"], page


def _policies_trained_on(run: Run) -> dict[str, frozenset[str] | None]:
    folders = sorted(folder.name for folder in run.path("models").glob("policy_*") if folder.is_dir())
    return {name: posts_behind(f"run:models/{name}", run.folder) for name in folders}


def _safe_name(name: str) -> str:
    """A file's name without its ending, as part of another file's name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", without_suffix(name)).strip("._") or "pairs"


def _tables(evaluation: Evaluation, lengths: dict[str, Any]) -> list[tuple[str, "Markup"]]:
    from markupsafe import Markup

    tables = [
        ("Rewards side by side", evaluation.table()),
        ("Is the difference real?", evaluation.differences_table()),
        ("Is it only length?", length_bias_table(evaluation, lengths)),
        ("Can the probabilities be trusted?", evaluation.calibration_table()),
    ]
    if len(evaluation.metrics["by_domain"]) > 1:
        shown = ["realm", *parts(evaluation.scales), "linear", "length"]
        tables.insert(2, ("By subset", evaluation.slice_table("by_domain", shown)))
    return [(title, Markup(table.to_html(index=False, border=0))) for title, table in tables]


def _figures(evaluation: Evaluation) -> list[str]:
    from realm_lib.report import figures

    figures.set_theme()
    axes = [figures.accuracy_bars(evaluation), figures.difference_bars(evaluation)]
    if len(evaluation.metrics["by_domain"]) > 1:
        axes.append(figures.accuracy_by_domain(evaluation))
    axes.append(figures.accuracy_by_group(evaluation, "by_length_difference"))
    return [_svg(ax) for ax in axes]


def _svg(ax: Any) -> str:
    """A figure as an address that needs no file beside the page."""
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "benchmark"}):
        ax.figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    plt.close(ax.figure)
    return f"data:image/svg+xml;base64,{base64.b64encode(buffer.getvalue()).decode()}"
