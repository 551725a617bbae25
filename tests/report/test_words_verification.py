"""A comparison with the reference as lines: what is counted, what is shown, and how it ends."""

from pathlib import Path

from realm_lib.report.words.verification import conclusion, headlines, summary, table
from realm_lib.runs.verification import Row, Verification

ROWS = [
    Row("evaluation.json", "rewards.realm.accuracy", 0.7, 0.65, -0.05, 0.02, used=2.5, outside=True),
    Row("evaluation.json", "rewards.realm.brier", 0.2, 0.201, 0.001, 0.002, used=0.5),
    Row("evaluation.json", "verdict", "long " * 20, "other", outside=True, why="other words"),
    Row("ppo.json", "seconds", 1.0, 2.0, why="a timing"),
    Row("ppo.json", "kl", 2.0, 2.0, 0.0, 1.0),
]
FOUND = Verification(ROWS, runs=6)


def test_the_summary_counts_by_file_and_says_what_is_left_out() -> None:
    lines = [line.split() for line in summary(FOUND).splitlines()]
    assert lines[1] == ["evaluation.json", "3", "2", "250", "%", "by", "rewards.realm.accuracy"]
    assert lines[2] == ["ppo.json", "1", "0"]
    assert summary(FOUND).splitlines()[-1] == "not compared, a timing: 1 number"


def test_a_table_has_a_line_for_each_row_in_columns() -> None:
    head, *lines = table(ROWS).splitlines()
    assert head.split() == ["number", "reference", "here", "difference", "tolerance", "verdict"]
    assert lines[0].split() == ["evaluation:", "rewards.realm.accuracy", "0.7", "0.65", "-0.05", "0.02", "OUTSIDE"]
    assert lines[2].endswith("OUTSIDE: other words")
    assert lines[3].endswith("not compared: a timing")
    assert len({line.find(word) for line, word in ((head, "verdict"), (lines[0], "OUTSIDE"), (lines[4], "same"))}) == 1


def test_headlines_are_the_accuracies_and_win_rates() -> None:
    assert headlines(FOUND) == ROWS[:1]


def test_the_last_line_says_whether_it_reproduces() -> None:
    run, reference = Path("outputs/verify"), Path("outputs/reference/demo")
    assert conclusion(FOUND, run, reference).endswith(
        "does not reproduce outputs/reference/demo: 2 values outside the tolerances"
    )
    assert "within tolerances from 6 runs" in conclusion(Verification(ROWS[3:], 6), run, reference)
    assert "no spread was measured" in conclusion(Verification(ROWS[3:], 1), run, reference)
