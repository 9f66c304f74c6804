"""Make each source of E2E say what its text says: the facts that the writer left out are taken out of it.

    python recipes/e2e_clean.py TRAIN.jsonl.gz OUTPUT.jsonl.gz

People left out about one fact in twelve. A model that learns from such rows learns to leave facts out, and to write as
much as those who did. After Dušek et al., "Semantic Noise Matters for Neural Natural Language Generation" (2019), with
Ladle's own table of phrases (`ladle.evaluation.slots`). Texts stay as they are, also of the few rows that say what
their source does not; those lose their source, so that only free samples learn from them.
"""

import gzip
import json
import sys

from ladle.evaluation.slots import parse_mr, score


def cleaned(source: str, text: str) -> str | None:
    """The facts of `source` that `text` says, in their order; None where it says another thing, or nothing of it."""
    facts = parse_mr(source)
    result = score(text, facts)
    if result.wrong or not result.said:
        return None
    return ", ".join(f"{slot}[{facts[slot]}]" for slot in result.said)


def main() -> None:
    """Write the rows, and say how many were changed."""
    counts = {"rows": 0, "sources shortened": 0, "sources taken out": 0}
    with gzip.open(sys.argv[1], "rt", encoding="utf-8") as file, gzip.open(sys.argv[2], "wt", encoding="utf-8") as new:
        for line in file:
            row = json.loads(line)
            source = cleaned(row["source"], row["target"])
            counts["rows"] += 1
            counts["sources shortened"] += source is not None and source != row["source"]
            counts["sources taken out"] += source is None
            kept = {key: value for key, value in row.items() if key != "source"}
            new.write(json.dumps(kept if source is None else {"source": source, **kept}, ensure_ascii=False) + "\n")
    print(counts, file=sys.stderr)


if __name__ == "__main__":
    main()
