"""Split E2E for training and honest unconditional scores: two held-out sets, apart from train by input.

    python benchmarks/e2e_split.py ../shared/data/e2e runs/e2e-data

The official valid and test inputs have more slots and other names than train, so unconditional samples are compared
with rows of train's own distribution. All rows of an input (in any order of slots) go to the same side, by a hash
of the input: 12 % of the inputs to held_out_a, 12 % to held_out_b, the rest stays train. Valid and test are copied.
"""

import gzip
import hashlib
import json
import shutil
import sys
from pathlib import Path


def side(source: str) -> str:
    """train, held_out_a or held_out_b."""
    key = ", ".join(sorted(part.strip() for part in source.split(",")))
    share = int(hashlib.sha256(key.encode()).hexdigest()[:8], 16) / 16**8
    return "held_out_a" if share < 0.12 else "held_out_b" if share < 0.24 else "train"


def main() -> None:
    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    target.mkdir(parents=True, exist_ok=True)
    lines: dict[str, list[str]] = {"train": [], "held_out_a": [], "held_out_b": []}
    with gzip.open(source / "train.jsonl.gz", "rt", encoding="utf-8") as file:
        for line in file:
            lines[side(json.loads(line)["source"])].append(line)
    for name, chosen in lines.items():
        with gzip.open(target / f"{name}.jsonl.gz", "wt", encoding="utf-8") as file:
            file.writelines(chosen)
    for name in ("valid", "test"):
        shutil.copy(source / f"{name}.jsonl.gz", target)
    print({name: len(chosen) for name, chosen in lines.items()}, file=sys.stderr)


if __name__ == "__main__":
    main()
