"""The record of a finished run: a call that has nothing left to do need not encode the rows again."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ladle.data.files import known_json
from ladle.data.splits import Splits
from ladle.storage.writing import atomic_json
from ladle.training.plan import Plan
from ladle.training.state import digest
from ladle.version import __version__

States = Mapping[str, Mapping[str, Any] | None]  # the state.json of each stage


class FinishedRun:
    """`state/final.json` of the run folder `output`: what its model in `final` was made from, and the model's files."""

    def __init__(self, output: Path, plan: Plan, splits: Splits, rows_digest: str) -> None:
        self.output, self.path = output, output / "state" / "final.json"
        self.made_of = [plan.recipe.model_dump(mode="json"), rows_digest, splits.valid, __version__]

    def is_whole(self, states: States) -> bool:
        """Whether all stages are done, and `final` is as it was written for this recipe and these rows."""
        done = all(state is not None and state.get("done") for state in states.values())
        return done and known_json(self.path) == self._record(states)

    def write(self, states: States) -> None:
        """Say that `final` was made from these states. Raises as `atomic_json`."""
        atomic_json(self.path, self._record(states))

    def _record(self, states: States) -> dict[str, Any]:
        final = self.output / "final"
        sizes = {str(p.relative_to(final)): p.stat().st_size for p in sorted(final.rglob("*")) if p.is_file()}
        return {"made_from": digest([*self.made_of, states]), "files": sizes}
