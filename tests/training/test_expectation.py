"""What `ladle train` says about the quality to expect."""

from ladle.training.expectation import MINUTES, ROWS, expected


def test_what_was_measured_is_said_and_who_has_less_is_told() -> None:
    line = expected(ROWS, MINUTES)
    assert line.startswith("what to expect: with 5,000 short reviews and 15 minutes") and "fewer" not in line
    assert expected(ROWS + 1, None) == line
    assert expected(10, MINUTES) == f"{line}; you have fewer texts"
    assert expected(ROWS, 1.0) == f"{line}; you have fewer minutes"
    assert expected(10, 1.0) == f"{line}; you have fewer texts and minutes"
