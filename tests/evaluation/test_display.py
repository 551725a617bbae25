"""Numbers as text."""

from realm_lib.evaluation.display import between, counted, interval, measured, percent, with_interval


def test_numbers_look_alike_everywhere():
    assert counted(1234, "pairs") == "1,234 pairs"
    assert counted(1, "simulated pairs") == "1 simulated pair"
    assert percent(0.6865) == "68.7 %"
    assert between([0.123, 0.456]) == "0.12 to 0.46"
    assert interval([0.658, 0.714]) == "65.8 to 71.4"
    assert interval([-0.04, 0.097], "+.1f") == "-4.0 to +9.7"
    assert with_interval(0.6865, [0.658, 0.714]) == "68.7 % (65.8 to 71.4)"
    assert measured(0.1, [-0.05, 0.25]) == "+0.10 (-0.05 to +0.25)"
    assert measured(0.1, [-0.05, 0.25], ".1f") == "0.1 (-0.1 to 0.2)"
