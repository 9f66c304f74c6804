"""Data sets on the hub, read with the library `datasets` into the same tables as files."""

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from ladle.data.files import Table
from ladle.data.in_memory import dataset_table
from ladle.errors import LadleError, UserError, first_line, from_extra
from ladle.hub import reaching_hub


def hub_tables(
    name: str, subset: str | None, splits: Mapping[str, tuple[str, ...]], *, streaming: bool = False
) -> dict[str, Table]:
    """The tables of a hub data set by split.

    Args:
        splits: the names that each split may have there.
        streaming: load rows from the hub when they are needed, and keep none on disk.

    Raises:
        UserError: a missing extra, no such data set, no train split. LadleError: the hub cannot be reached.
    """
    with from_extra(f"the hub data set '{name}' needs", "datasets", "or use --data FILE"):
        datasets = importlib.import_module("datasets")
    with _told(name), reaching_hub(name):
        try:
            loaded = datasets.load_dataset(name, subset, streaming=streaming)
        except RuntimeError as error:
            if "script" not in str(error):
                raise
            # Old sets (GEM's among them) are Python scripts, which `datasets` runs no more (issue 7693 there). The
            # hub keeps their rows as Parquet on a branch, one folder a configuration (issue 8012 there).
            kept = {"revision": "refs/convert/parquet", "data_dir": subset}
            loaded = datasets.load_dataset(name, **kept, streaming=streaming)
    found = {split: next((part for part in known if part in loaded), None) for split, known in splits.items()}
    if found["train"] is None:
        raise UserError(f"the hub data set '{name}' has no train split; it has {', '.join(loaded)}")
    # (A stream may break on the way.)
    return {
        split: dataset_table(loaded[part], f"{name} ({part})", _told(name)) for split, part in found.items() if part
    }


@contextmanager
def _told(name: str) -> Iterator[None]:
    """Turn errors of the hub in the block into one line."""
    try:
        yield
    except ConnectionError as error:
        raise LadleError(f"the hub cannot be reached for '{name}' ({first_line(error)}); or use --data FILE") from None
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"hub data set '{name}': {first_line(error)}; or use --data FILE") from None
