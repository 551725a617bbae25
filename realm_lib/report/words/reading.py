"""What became of the rows that pairs were read from, in words."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from realm_lib.data.pairs import FILTERS
from realm_lib.report.words.numbers import counted, percent

if TYPE_CHECKING:
    from realm_lib.data.pairs import PairsReport


def pairs_judged(name: str, source: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    """What was read from file ``name``, what of it is judged, and why the rest is left out."""
    reasons = [_left_out(reason, entry) for reason, entry in source["dropped"].items()]
    if source["seen_in_training"]:
        reasons.append(seen_in_training(source))
    left_out = f" Left out: {'; '.join(reasons)}." if reasons else ""
    not_known = (
        f" Nothing is known of the posts that {source['not_known']} was trained on: pairs of them may be among these."
        if "not_known" in source
        else ""
    )
    return (
        f"Read from {name}: {counted(source['read'], 'pairs')}. Judged: {counted(metrics['pairs'], 'pairs')} of "
        f"{counted(metrics['posts'], 'prompts')}.{left_out} Cut to the run's limit: "
        f"{counted(source['posts_cut'], 'prompts')}.{_beside(source)}{not_known}"
    )


def seen_in_training(source: Mapping[str, Any]) -> str:
    """How many pairs are not judged because models were trained on their posts, and which models those are."""
    by_model = source.get("seen_by", {})  # metrics of older runs have none
    models = ", ".join(f"{model.replace('_', ' ')} {pairs:,}" for model, pairs in by_model.items() if pairs)
    return f"post seen in training: {source['seen_in_training']:,}{f' ({models})' if models else ''}"


def pairs_read(reports: "Mapping[str, PairsReport]") -> str:
    """What is to be said of the rows of each split: those left out for a fault, and what else is odd. Markdown."""
    lines = []
    for split, report in reports.items():
        faults = {reason: entry for reason, entry in report.dropped.items() if reason not in FILTERS}
        left_out = f" Left out: {'; '.join(_left_out(*fault) for fault in faults.items())}." if faults else ""
        if told := left_out + _beside(report.to_dict()):
            lines.append(f"- **{split}**.{told}")
    return "\n".join(lines) or "No row is at fault, each post has one id, and no pair was judged more than once."


def _left_out(reason: str, entry: Mapping[str, Any]) -> str:
    return f"{reason}: {entry['pairs']:,} ({_rows(entry)})"


def _rows(entry: Mapping[str, Any]) -> str:
    return ", ".join(entry["first"]) + (" and more" if entry["pairs"] > len(entry["first"]) else "")


def _beside(report: Mapping[str, Any]) -> str:
    """What a report says of ids, annotators and ratios of votes, as sentences that each begin with a space."""
    text = ""
    if ids := report["ids"]:
        posts, names = ids["several_ids"], ids["several_texts"]
        several = [(posts, posts["posts"], "posts", "several ids"), (names, names["ids"], "ids", "several texts")]
        clauses = [
            f"{counted(count, things)} {'has' if count == 1 else 'have'} {what} ({_rows(entry)})"
            for entry, count, things, what in several
            if count
        ]
        text += f" {' and '.join(clauses)}: a post is known by its text." if clauses else ""
    if judged := report["annotators"]:
        alpha = f"{judged['alpha']:.2f}".replace("-0.00", "0.00")
        text += (
            f" {counted(judged['pairs'], 'pairs')} {'was' if judged['pairs'] == 1 else 'were'} judged more than once: "
            f"{percent(judged['with_majority'])} of these {judged['judgements']:,} judgements are the majority's "
            f"(Krippendorff's alpha {alpha}: 1 is full agreement, 0 is chance)."
        )
    if ratios := report["other_ratios"]:
        one = ratios["pairs"] == 1
        text += (
            f" {counted(ratios['pairs'], 'pairs')} {'names a ratio that is' if one else 'name ratios that are'} not "
            f"{'that' if one else 'those'} of the votes, which are taken instead ({_rows(ratios)})."
        )
    return text
