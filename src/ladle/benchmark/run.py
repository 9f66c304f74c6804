"""`ladle benchmark`: trains what is missing, samples, scores, times; what was done before is not done again."""

import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from ladle.benchmark.results import write_results
from ladle.benchmark.suite import SuiteConfig, load_suite, resolve_encoder
from ladle.benchmark.systems import Draws, LadleSystem, System, recipe_of, trained
from ladle.errors import UserError
from ladle.evaluation.evaluate import environment
from ladle.evaluation.mauve import Featuriser, load_mauve
from ladle.evaluation.metrics import METRICS
from ladle.evaluation.plots import load_matplotlib
from ladle.evaluation.ruler import Ruler, as_report
from ladle.evaluation.samples import gather, read_samples
from ladle.files import PathLike, atomic_json, check_writable, write_rows
from ladle.memory import keep_freed_memory
from ladle.rows import Row, read_rows
from ladle.training.data import load_splits
from ladle.training.progress import duration, say
from ladle.training.state import digest

SEEDS_APART = 1_000_000  # between two seeds' first samples
BATCH = 64
RECONSTRUCTED = 250  # texts


def run_benchmark(
    suite: PathLike,
    output: PathLike = "results",
    budget: float | None = None,
    data: str | None = None,
    log: Callable[[str], None] = say,
) -> Path:
    """Run a suite; the same call goes on where an interrupted one stopped.

    Args:
        suite: a TOML file (`ladle.benchmark.suite`).
        output: folder for OUTPUT/NAME: a folder for each system, results.json, table.md, plots/.
        budget: minutes of training for each system, in place of the suite's.
        data: a file or folder in place of the suite's data.
        log: takes lines for the user.

    Returns:
        The table, OUTPUT/NAME/table.md.

    Raises:
        UserError: a bad suite, bad data, a missing extra, a folder of another suite.
    """
    keep_freed_memory()
    if budget is not None and not 0 < budget < float("inf"):
        raise UserError(f"--budget is {budget}: it must be greater than 0")
    config = load_suite(Path(suite), data)
    folder = Path(output) / config.name
    check_writable(folder, folder=True)
    return _Run(config, folder, budget or config.minutes, log).run()


class _Run:
    def __init__(self, suite: SuiteConfig, folder: Path, minutes: float, log: Callable[[str], None]):
        self.suite, self.folder, self.minutes, self.log = suite, folder, minutes, log
        load_matplotlib()  # a missing extra is told before the work, not after
        self.encoder = resolve_encoder(suite.ruler.mauve_encoder)
        if self.encoder is not None:
            load_mauve()
        self.splits = load_splits(suite.data)
        for note in self.splits.notes:
            log(note)
        self.test = self.splits.test
        if not self.test:
            raise UserError(
                "the suite's data have no test rows: give a folder of train and test files, or data.test_path"
            )
        self.conditions = self._conditions()
        for name, system in suite.systems.items():  # as is a recipe that cannot be trained
            if system.kind == "ladle" and system.model is None:
                recipe_of(name, suite, minutes)
        if suite.ruler.other_path is not None:
            self._other_rows  # noqa: B018 (what is wrong with them is told before the work, not after)

    def run(self) -> Path:
        systems: dict[str, list[System]] = {}  # every training of each
        order = sorted(self.suite.systems, key=lambda name: self.suite.systems[name].kind != "ladle")
        for name in order:  # a rival takes its size from a Ladle system
            systems[name] = self._trained(name, systems)
        rows: dict[str, dict[str, list[Mapping[str, Any]]]] = {name: {} for name in self.suite.systems}
        for name in self.suite.systems:
            for i, (setting, values) in enumerate(self.suite.systems[name].settings.items()):
                few = min(self.suite.frontier_seeds, self.suite.seeds)
                seeds = self.suite.seeds if i < self.suite.full_settings else few
                rows[name][setting] = [
                    self._row(name, systems[name][seed % len(systems[name])], setting, values, seed)
                    for seed in range(seeds)
                ]
        first = {name: trainings[0] for name, trainings in systems.items()}
        controls = self._controls(first)
        speed = self._speed(first, {
            name: settings_to_time(rows[name], {s: first[name].passes(v) for s, v in system.settings.items()})
            for name, system in self.suite.systems.items()
        })  # fmt: skip
        result = {
            "format": 1,
            "suite": self.suite.model_dump(mode="json"),
            "minutes": self.minutes,
            "data": {"train": len(self.splits.train), "valid": len(self.splits.valid), "test": len(self.test)},
            "controls": controls,
            "systems": {
                name: {
                    "kind": self.suite.systems[name].kind,
                    "parameters": first[name].num_parameters,
                    "minutes": sum(training.minutes for training in systems[name]) / len(systems[name]),
                    "reconstruction": self._reconstruction(name, systems[name]),
                    "digests": [training.digest for training in systems[name]],
                    "settings": rows[name],
                    "speed": speed[name],
                }
                for name in self.suite.systems
            },
            "warnings": self.ruler_warnings,
            "environment": environment() | {"threads": str(torch.get_num_threads())},
        }
        table = write_results(result, self.folder)
        self.log(f"the table is in {table}, the plots are in {table.parent / 'plots'}")
        return table

    # ------------------------------------------------------------------------------------------------------- training

    def _trained(self, name: str, known: Mapping[str, Sequence[System]]) -> list[System]:
        like = self.suite.systems[name].like
        ladle = next((s[0] for n, s in known.items() if isinstance(s[0], LadleSystem) and like in (None, n)), None)
        systems = []
        for number in range(self.suite.training_seeds if self.suite.systems[name].model is None else 1):
            folder = self.folder / name / (f"training-{number}" if number else "")
            self.log(f"{name}: training" + (f" {number + 1} of {self.suite.training_seeds}" if number else ""))
            system = trained(
                name, self.suite, self.splits, folder, self.minutes, ladle.folder if ladle else None, self.log, number
            )
            systems.append(system)
            self.log(f"{name}: {system.num_parameters / 1e6:.2f}M parameters, {system.minutes:.1f} minutes of training")
        return systems

    # ------------------------------------------------------------------------------------------------------- sampling

    def _conditions(self) -> list[list[tuple[str | None, str | None]]]:
        """(label, source) of each sample, for each seed."""
        kind, count, seeds = self.suite.condition, self.suite.num_samples, range(self.suite.seeds)
        if kind == "none":
            return [[(None, None)] * count for _ in seeds]
        if kind == "label":
            labels = [row["label"] for row in self.test if "label" in row]
            if not labels:
                raise UserError("the suite samples by label, and no test row has one")
            return [[(label, None) for label in random.Random(seed).choices(labels, k=count)] for seed in seeds]
        sources = list(dict.fromkeys(row["source"] for row in self.test if "source" in row))[:count]
        if not sources:
            raise UserError("the suite samples by source, and no test row has one")
        return [[(None, source) for source in sources] for _ in seeds]

    def _row(self, name: str, system: System, setting: str, values: Mapping[str, Any], seed: int) -> Mapping[str, Any]:
        """The scores of one system's texts of one seed."""
        folder = self.folder / name / "settings" / setting
        path, scores = folder / f"samples-{seed}.jsonl", folder / f"scores-{seed}.json"
        drawn = digest([system.digest, dict(values), self.conditions[seed], seed])
        measured = digest([drawn, self._ruler_key])
        known = _read(scores)
        if known.get("measured") == measured:
            return known["row"]
        if known.get("drawn") != drawn or not path.exists():
            start = time.monotonic()
            draws = _draws(self.conditions[seed], seed * SEEDS_APART)
            texts = system.draw(draws, values, BATCH)
            write_rows(path, [
                {"text": text, "seed": own} | {k: v for k, v in (("label", label), ("source", source)) if v}
                for text, own, label, source in zip(texts, draws.seeds, draws.label, draws.source, strict=True)
            ])  # fmt: skip
            atomic_json(scores, {"drawn": drawn})
            self.log(f"{name}, {setting}, seed {seed}: {len(texts):,} texts in {duration(time.monotonic() - start)}")
        row = as_report({"row": self._ruler.measure(read_samples(path))})["row"]
        atomic_json(scores, {"drawn": drawn, "measured": measured, "row": row})
        return row

    def _reconstruction(self, name: str, trainings: Sequence[System]) -> float | None:
        """Mean over the trainings of a Ladle system."""
        ours = [training for training in trainings if isinstance(training, LadleSystem)]
        if not ours:
            return None
        texts = list(dict.fromkeys(row["text"] for row in self.test))[:RECONSTRUCTED]
        key = digest([[training.digest for training in ours], texts])
        path = self.folder / name / "reconstruction.json"
        if _read(path).get("key") != key:
            self.log(f"{name}: reconstructing {len(texts)} texts")
            values = [training.reconstruction(texts) for training in ours]
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic_json(path, {"key": key, "values": values})
        values = _read(path)["values"]
        return float(sum(values) / len(values))

    # -------------------------------------------------------------------------------------------------------- scoring

    @cached_property
    def _ruler_key(self) -> str:
        versions = {name: metric.version for name, metric in METRICS.items()}
        rows = [[dict(row) for row in part] for part in (self.splits.train, self.test)]
        return digest([rows, self.suite.ruler.model_dump(mode="json"), versions])

    @cached_property
    def _ruler(self) -> Ruler:
        config = self.suite.ruler
        return Ruler(
            reference=gather(self.test),
            train=[row["text"] for row in self.splits.train],
            featuriser=Featuriser.load(self.encoder) if self.encoder is not None else None,
            scorer=self._scorer(),
            judges=self._judges(),
            rouge=config.rouge and self.suite.condition == "source",
            slots=config.slots and self.suite.condition == "source",
        )

    @property
    def ruler_warnings(self) -> list[str]:
        """Of this run's measurements and of earlier ones."""
        known = _read(self.folder / "warnings.json").get("warnings", [])
        if "_ruler" in self.__dict__:
            known = list(dict.fromkeys([*known, *self._ruler.warnings]))
            atomic_json(self.folder / "warnings.json", {"warnings": known})
        return known

    @cached_property
    def _other_rows(self) -> list[Row]:
        """What scorer and judges learn from."""
        path = self.suite.ruler.other_path
        if path is None:
            return self.splits.train
        used = {row["text"] for row in (*self.splits.train, *self.splits.valid, *self.test)}
        rows = [row for row in read_rows(path) if row["text"] not in used]
        if not rows:
            raise UserError(f"ruler.other_path: every row of {path} is one that the systems learn from")
        return rows

    def _scorer(self) -> Any:
        from ladle.baselines.autoregressive import AutoregressiveConfig
        from ladle.baselines.fitting import fit_scorer
        from ladle.evaluation.perplexity import Scorer

        config = self.suite.ruler
        if config.scorer is not None:
            return Scorer.load(config.scorer)
        if not config.scorer_minutes:
            return None
        folder, sizes = self.folder / "scorer", None
        if config.scorer_config:
            sizes = AutoregressiveConfig.parse(config.scorer_config, "ruler.scorer_config")
        # (The fitting itself knows what is done already, and refuses a folder of other settings.)
        write_rows(folder / "rows.jsonl", [{"text": row["text"]} for row in self._other_rows])
        self.log("scorer: training")
        fit_scorer(folder / "rows.jsonl", folder, minutes=config.scorer_minutes, config=sizes, log=self.log)
        # Results are read elsewhere: they say which folder of theirs, not where this machine has it.
        return replace(Scorer.load(str(folder)), name=folder.name)

    def _judges(self) -> list[Any]:
        from ladle.evaluation.judge import Judge, fit_rows

        judges = []
        rows = [row for row in self._other_rows if "label" in row]
        for kind in self.suite.ruler.judges if self.suite.condition == "label" else ():
            encoder = self.encoder if kind == "encoder" else None
            # By what it is made from: other rows or another encoder give another judge.
            made_from = digest([[dict(row) for row in part] for part in (rows, self.test)] + [encoder])
            folder = self.folder / "judges" / f"{kind}-{made_from[:8]}"
            if not folder.exists():
                judge = fit_rows(rows, kind, encoder)
                real = [row for row in self.test if row.get("label") in judge.labels]
                judge.real = judge.accuracy([row["text"] for row in real], [row["label"] for row in real])
                judge.save(folder)
                self.log(f"judge, {kind}: {judge.real['value']:.1%} of {judge.real['n']:,} real test rows")
            judges.append(Judge.load(folder))
        return judges

    def _controls(self, systems: Mapping[str, System]) -> Mapping[str, Any]:
        """The control rows, beside the first system's first samples."""
        first = next(iter(self.suite.systems))
        ladle = next((system for system in systems.values() if isinstance(system, LadleSystem)), None)
        key = digest([self._ruler_key, self.conditions[0], ladle.digest if ladle else None])
        path = self.folder / "controls.json"
        known = _read(path)
        if known.get("key") != key:
            self.log("controls: scoring")
            setting = next(iter(self.suite.systems[first].settings))
            samples = read_samples(self.folder / first / "settings" / setting / "samples-0.jsonl")
            rows = self._ruler.controls(samples, ladle.model.reconstruct if ladle else None)
            known = {"key": key, "rows": as_report(rows)}
            atomic_json(path, known)
        return known["rows"]

    # ---------------------------------------------------------------------------------------------------------- speed

    def _speed(self, systems: Mapping[str, System], timed: Mapping[str, list[str]]) -> dict[str, dict[str, Any]]:
        """Tokens of returned text a second, without loading, all systems in turn in every round: by settings and batch
        size the rounds' figures and their median. One tokenizer counts for all, that of the first Ladle system."""
        config = self.suite.speed
        runs = [(name, s, self.suite.systems[name].settings[s]) for name, settings in timed.items() for s in settings]
        key = digest([{name: system.digest for name, system in systems.items()}, runs, config.model_dump(),
                      torch.get_num_threads()])  # fmt: skip
        path = self.folder / "speed.json"
        known = _read(path)
        if known.get("key") == key:
            return known["systems"]
        self.log("speed: measuring")
        tokenizer = next(
            (s.model.autoencoder.backbone.tokenizer for s in systems.values() if isinstance(s, LadleSystem)),
            None,
        )
        found: dict[str, dict[str, Any]] = {name: {setting: {} for setting in timed[name]} for name in systems}
        for batch_size, count in config.batches.items():
            conditions = [self.conditions[0][i % len(self.conditions[0])] for i in range(count)]
            rounds: dict[tuple[str, str], list[float]] = {(name, setting): [] for name, setting, _ in runs}
            for number in range(-1, config.rounds):  # the first warms up
                for name, setting, values in runs:
                    draws = _draws(conditions, (number + 1) * count)
                    start = time.perf_counter()
                    texts = systems[name].draw(draws, values, batch_size)
                    seconds = time.perf_counter() - start
                    if number >= 0:
                        rounds[name, setting].append(_count_tokens(tokenizer, texts) / seconds)
            for (name, setting), figures in rounds.items():
                found[name][setting][str(batch_size)] = {
                    "median": sorted(figures)[len(figures) // 2],
                    "rounds": figures,
                    "texts": count,
                }
        atomic_json(path, {"key": key, "systems": found})
        return found


def settings_to_time(rows: Mapping[str, Sequence[Mapping[str, Any]]], passes: Mapping[str, int]) -> list[str]:
    """The first settings, and the cheapest within 5 % of the best MAUVE (over the seeds that all settings share).

    Args:
        rows: by settings the scores of each seed.
        passes: by settings, of the network for a text.
    """
    scored = {name: part for name, part in rows.items() if part and "mauve" in part[0]}
    shared = min(map(len, scored.values()), default=0)
    quality = {name: sum(row["mauve"]["value"] for row in part[:shared]) for name, part in scored.items()}
    good = [name for name, value in quality.items() if value >= 0.95 * max(quality.values())]
    return list(dict.fromkeys([next(iter(rows)), *sorted(good, key=passes.__getitem__)[:1]]))


def _draws(conditions: Sequence[tuple[str | None, str | None]], first_seed: int) -> Draws:
    labels, sources = zip(*conditions, strict=True)
    return Draws(range(first_seed, first_seed + len(conditions)), labels, sources)


def _count_tokens(tokenizer: Any, texts: Sequence[str]) -> int:
    if tokenizer is None:
        return sum(len(text.split()) for text in texts)
    return sum(map(len, tokenizer(list(texts), add_special_tokens=False)["input_ids"]))


def _read(path: Path) -> dict[str, Any]:
    """What an earlier run left; nothing where it left nothing, or half of it."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
