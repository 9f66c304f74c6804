"""E2E as a table: a row for each text, and a column for each slot of its input, for `ladle train --attribute SLOT`.

    python recipes/e2e_attributes.py ../shared/data/e2e runs/e2e-attributes
    ladle train --data runs/e2e-attributes --attribute food --attribute area --attribute priceRange

Slots that an input lacks are left out of its row. So is the input itself: the model learns from the slots alone.
"""

import sys
from pathlib import Path

from ladle.data.rows import read_rows
from ladle.errors import LadleError
from ladle.evaluation.slots import parse_mr
from ladle.storage.writing import write_rows

SPLITS = ("train", "valid", "test")


def table(path: str | Path) -> list[dict[str, str]]:
    """The rows of an E2E file (`source` and `target`), with a column for each slot. UserError: another source."""
    rows = read_rows(path, need=("text", "source"))
    return [{"text": row["text"], **parse_mr(row["source"])} for row in rows]


def main(arguments: list[str]) -> None:
    """Write the table of each split."""
    source, target = map(Path, arguments)
    for split in SPLITS:
        count = write_rows(target / f"{split}.jsonl.gz", table(source / f"{split}.jsonl.gz"))
        print(f"{split}: {count:,} rows", file=sys.stderr)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python recipes/e2e_attributes.py FOLDER_OF_E2E OUTPUT_FOLDER")
    try:
        main(sys.argv[1:])
    except LadleError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
