"""What to expect of a training from `base-en`: what a reader found in a case that was measured."""

ROWS, MINUTES = 5_000, 15  # of two cores (benchmarks/LOG.md, "Yelp from the new base-en")
GOOD, GOOD_AND_LESS_VARIED, OF = 10, 24, 50
LESS_VARIED = "--temperature 0.8 --top-p 0.9 --candidates 4"


def expected(rows: int, minutes: float | None) -> str:
    """A line for the user of so many training texts. minutes: None for a budget in steps."""
    found = f"{GOOD} of {OF} texts read well, and {GOOD_AND_LESS_VARIED} when drawn with {LESS_VARIED}"
    line = f"what to expect: with {ROWS:,} short reviews and {MINUTES} minutes {found}"
    less = [what for what, low in (("texts", rows < ROWS), ("minutes", (minutes or MINUTES) < MINUTES)) if low]
    return f"{line}; you have fewer {' and '.join(less)}" if less else line
