"""The metrics of a suite: its reference texts, and the scorer and judges that are trained for it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from ladle.baselines.autoregressive import AutoregressiveConfig
from ladle.baselines.fitting import fit_scorer
from ladle.benchmark.rivals import Log
from ladle.benchmark.suite import SuiteConfig, resolve_encoder
from ladle.benchmark.systems import Condition, LadleSystem, System
from ladle.data.files import known_json
from ladle.data.rows import Row, read_rows
from ladle.data.splits import Splits
from ladle.errors import UserError
from ladle.evaluation.extras import load_extra
from ladle.evaluation.judge import Judge, fit_rows
from ladle.evaluation.mauve import Featuriser
from ladle.evaluation.measurement import Measurement, as_report
from ladle.evaluation.metrics import METRICS
from ladle.evaluation.samples import Reference, gather, read_samples
from ladle.evaluation.scorer import Scorer
from ladle.storage.folders import recover_folder
from ladle.storage.kinds import JUDGE
from ladle.storage.writing import atomic_json
from ladle.training.state import digest


class Scoring:
    """Metrics of a suite. Scorer and judges are trained when they are first needed.

    Args:
        folder: of the suite's results; they are kept there.

    Raises:
        UserError: a missing extra or encoder, or other rows that cannot be used. Raised before the work begins.
    """

    def __init__(self, suite: SuiteConfig, splits: Splits, folder: Path, log: Log) -> None:
        self.suite, self.splits, self.test, self.folder, self.log = suite, splits, splits.test, folder, log
        self.encoder = resolve_encoder(suite.metrics.mauve_encoder)
        self.bertscore_encoder = resolve_encoder(suite.metrics.bertscore_encoder, "bertscore_encoder")
        if self.encoder is not None:
            load_extra("mauve")
        if self.bertscore_encoder is not None:
            load_extra("bert_score")
        if suite.metrics.other_path is not None:
            self.other_rows  # noqa: B018

    @cached_property
    def key(self) -> str:
        """What a score depends on, besides the texts."""
        versions = {name: metric.version for name, metric in METRICS.items()}
        rows = [[dict(row) for row in part] for part in (self.splits.train, self.test)]
        return digest([rows, self.suite.metrics.model_dump(mode="json"), versions])

    @cached_property
    def reference(self) -> Reference:
        """The test rows."""
        return gather(self.test)

    @cached_property
    def measurement(self) -> Measurement:
        """Against the test rows."""
        config = self.suite.metrics
        return Measurement(
            reference=self.reference,
            train=[row["text"] for row in self.splits.train],
            featuriser=Featuriser.load(self.encoder) if self.encoder is not None else None,
            scorer=self._scorer(),
            judges=self._judges(),
            bertscore_encoder=self.bertscore_encoder if self.suite.condition == "source" else None,
            rouge=config.rouge and self.suite.condition == "source",
            slots=config.slots and self.suite.condition == "source",
            test_bleu=config.test_bleu and self.suite.condition != "source",
        )

    @property
    def warnings(self) -> list[str]:
        """Of this run's measurements and of earlier ones."""
        known = known_json(self.folder / "warnings.json").get("warnings", [])
        if "measurement" in self.__dict__:
            known = list(dict.fromkeys([*known, *self.measurement.warnings]))
            atomic_json(self.folder / "warnings.json", {"warnings": known})
        return known

    @cached_property
    def other_rows(self) -> list[Row]:
        """The rows that train the scorer and the judges."""
        path = self.suite.metrics.other_path
        if path is None:
            return self.splits.train
        used = {row["text"] for row in (*self.splits.train, *self.splits.valid, *self.test)}
        rows = [row for row in read_rows(path) if row["text"] not in used]
        if not rows:
            raise UserError(f"metrics.other_path: the systems train on every row of {path}; give other rows")
        return rows

    def controls(self, systems: Mapping[str, System], conditions: Sequence[Condition]) -> Mapping[str, Any]:
        """The control rows for the first system's first samples, which were drawn with `conditions`."""
        first = next(iter(self.suite.systems))
        ladle = next((system for system in systems.values() if isinstance(system, LadleSystem)), None)
        key = digest([self.key, conditions, ladle.digest if ladle else None])
        path = self.folder / "controls.json"
        known = known_json(path)
        if known.get("key") != key:
            self.log("controls: scoring")
            setting = next(iter(self.suite.systems[first].settings))
            samples = read_samples(self.folder / first / "settings" / setting / "samples-0.jsonl")
            through_latents = partial(ladle.model.reconstruct, wording=False) if ladle else None
            rows = self.measurement.controls(samples, through_latents)
            known = {"key": key, "rows": as_report(rows)}
            atomic_json(path, known)
        return known["rows"]

    def _scorer(self) -> Scorer | None:
        config = self.suite.metrics
        if config.scorer is not None:
            return Scorer.load(config.scorer)
        if not config.scorer_minutes:
            return None
        folder, sizes = self.folder / "scorer", None
        if config.scorer_config:
            sizes = AutoregressiveConfig.parse(config.scorer_config, "metrics.scorer_config")
        # (The fitting itself knows what is done already, and refuses a folder of other settings.)
        self.log("scorer: training")
        texts = [row["text"] for row in self.other_rows]
        fit_scorer(texts, folder, minutes=config.scorer_minutes, config=sizes, log=self.log)
        # Results are read elsewhere: they say which folder of theirs, not where this machine has it.
        return replace(Scorer.load(str(folder)), name=folder.name)

    def _judges(self) -> list[Judge]:
        judges = []
        rows = [row for row in self.other_rows if "label" in row]
        for kind in self.suite.metrics.judges if self.suite.condition == "label" else ():
            encoder = self.encoder if kind == "encoder" else None
            # By what it is made from: other rows or another encoder give another judge.
            made_from = digest([[dict(row) for row in part] for part in (rows, self.test)] + [encoder])
            folder = self.folder / "judges" / f"{kind}-{made_from[:8]}"
            recover_folder(folder)
            if not JUDGE.wrote(folder):
                judge = fit_rows(rows, kind, encoder)
                judge.measure(self.test)
                judge.save(folder)
                if judge.real:
                    self.log(f"judge, {kind}: {judge.real['value']:.1%} of {judge.real['n']:,} real test rows")
            judges.append(Judge.load(folder))
        return judges
