"""`ladle benchmark`: trains, samples, scores and times systems. Finished work is not repeated."""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ladle.benchmark.choice import choosing, split_choice
from ladle.benchmark.results import write_results
from ladle.benchmark.rivals import Training, check_guided
from ladle.benchmark.scoring import Scoring
from ladle.benchmark.speed import measured_speed, settings_to_time
from ladle.benchmark.suite import SEEDS_APART, SuiteConfig, load_suite
from ladle.benchmark.systems import Condition, LadleSystem, System, draws_for, recipe_of, trained
from ladle.data.files import PathLike, known_json
from ladle.data.rows import counted
from ladle.data.splits import load_splits
from ladle.errors import UserError
from ladle.evaluation.evaluate import environment
from ladle.evaluation.extras import load_extra
from ladle.evaluation.measurement import as_report
from ladle.evaluation.samples import read_samples
from ladle.memory import return_freed_memory
from ladle.storage.folders import check_folder
from ladle.storage.kinds import RESULTS
from ladle.storage.run_folder import locked
from ladle.storage.writing import atomic_json, clear_temporaries, write_rows
from ladle.training.plan import in_steps
from ladle.training.progress import duration, say
from ladle.training.state import digest

BATCH = 64
RECONSTRUCTED = 250  # texts


def run_benchmark(
    suite: PathLike,
    output: PathLike = "results",
    budget: float | None = None,
    data: str | None = None,
    log: Callable[[str], None] = say,
) -> Path:
    """Run a suite. A repeated call continues after an interruption.

    Args:
        suite: a TOML file (`ladle.benchmark.suite`).
        output: folder for OUTPUT/NAME: a folder for each system, results.json, table.md, plots/.
        budget: minutes of training for each system, instead of the suite's.
        data: a file or folder, instead of the suite's data.
        log: receives messages for the user.

    Returns:
        The table, OUTPUT/NAME/table.md.

    Raises:
        UserError: a bad suite, bad data, a missing extra, a folder of another suite, or in use by another process.
    """
    config, folder = _loaded(suite, output, budget, data)
    with locked(folder):
        return _Benchmark(config, folder, budget or config.minutes, log).run()


def check_benchmark(
    suite: PathLike, output: PathLike = "results", budget: float | None = None, data: str | None = None
) -> None:
    """Read everything that `run_benchmark` reads before it trains. Raises UserError as `run_benchmark`."""
    config, folder = _loaded(suite, output, budget, data)
    _Benchmark(config, folder, budget or config.minutes, lambda line: None)


def _loaded(suite: PathLike, output: PathLike, budget: float | None, data: str | None) -> tuple[SuiteConfig, Path]:
    """The suite, and the folder of its results."""
    check_budget(budget)
    config = load_suite(Path(suite), data)
    folder = Path(output) / config.name
    check_folder(folder, RESULTS, [data])
    return config, folder


def check_budget(budget: float | None) -> None:
    """Raises UserError: a budget that is not above 0 or has no end."""
    if budget is not None and not 0 < budget < float("inf"):
        raise UserError(f"--budget is {budget}; it must be greater than 0")


class _Benchmark:
    def __init__(self, suite: SuiteConfig, folder: Path, minutes: float, log: Callable[[str], None]):
        self.suite, self.folder, self.minutes, self.log = suite, folder, minutes, log
        load_extra("matplotlib")  # a missing extra is reported before the work, not after
        self.splits = load_splits(suite.data)
        for note in self.splits.notes:
            log(note)
        self.test = self.splits.test
        if not self.test:
            raise UserError("the suite's data have no test rows; give a folder with a test file, or data.test_path")
        self.conditions = self._conditions()
        check_guided(suite, self.splits, minutes)
        to_train = {name: system.kind for name, system in suite.systems.items() if system.model is None}
        # A recipe that cannot be trained is reported before the work too.
        recipes = [recipe_of(name, suite, minutes) for name, kind in to_train.items() if kind == "ladle"]
        self.in_steps = bool(recipes) and len(recipes) == len(to_train) and all(map(in_steps, recipes))
        self.scoring = Scoring(suite, self.splits, folder, log)

    def run(self) -> Path:
        for path in [self.folder, *self.folder.rglob("*/")]:  # what a killed run was writing
            clear_temporaries(path)
        systems: dict[str, list[System]] = {}  # every training of each
        # A rival takes its size from a Ladle system, and a guided system its weights from a rival.
        kinds = {name: system.kind for name, system in self.suite.systems.items()}
        for name in sorted(kinds, key=lambda name: (kinds[name] != "ladle", kinds[name] == "guided")):
            systems[name] = self._trained(name, systems)
        rows = {name: self._rows(name, systems[name]) for name in self.suite.systems}
        first = {name: trainings[0] for name, trainings in systems.items()}
        controls = self.scoring.controls(first, self.conditions[0])
        timed = {}
        for name, system in self.suite.systems.items():
            single = {s: v for s, v in system.settings.items() if s not in choosing(system.settings)}
            passes = {setting: first[name].passes(values) for setting, values in single.items()}
            timed[name] = settings_to_time({setting: rows[name][setting] for setting in single}, passes)
        speed = measured_speed(self.suite, first, timed, self.conditions[0], self.folder / "speed.json", self.log)
        result = {
            "format": 1,
            "suite": self.suite.model_dump(mode="json"),
            "minutes": None if self.in_steps else self.minutes,
            "data": {"train": len(self.splits.train), "valid": len(self.splits.valid), "test": len(self.test)},
            "controls": controls,
            "systems": {
                name: {
                    "kind": system.kind,
                    "parameters": first[name].num_parameters,
                    "minutes": sum(training.minutes for training in systems[name]) / len(systems[name]),
                    "reconstruction": self._reconstruction(name, systems[name]),
                    "likelihood": self._likelihood(name, systems[name]),
                    "digests": [training.digest for training in systems[name]],
                    "settings": rows[name],
                    "speed": speed[name],
                }
                for name, system in self.suite.systems.items()
            },
            "warnings": self.scoring.warnings,
            "environment": environment() | {"threads": str(torch.get_num_threads())},
        }
        table = write_results(result, self.folder)
        self.log(f"the table is in {table}, the plots are in {table.parent / 'plots'}")
        return table

    # ------------------------------------------------------------------------------------------------------- training

    def _trained(self, name: str, known: Mapping[str, Sequence[System]]) -> list[System]:
        config = self.suite.systems[name]
        like, of = config.like, config.of
        ladle = next((s[0] for n, s in known.items() if isinstance(s[0], LadleSystem) and like in (None, n)), None)
        systems = []
        for number in range(self.suite.training_seeds if config.model is None else 1):
            steered = known[of][number % len(known[of])].folder if of is not None else None
            folder = self.folder / name / (f"training-{number}" if number else "")
            self.log(f"{name}: training" + (f" {number + 1} of {self.suite.training_seeds}" if number else ""))
            size = ladle.folder if ladle else None
            minutes = config.minutes or self.minutes
            training = Training(config, self.splits, folder, minutes, size, self.log, number, steered)
            system = trained(name, self.suite, training)
            systems.append(system)
            self.log(f"{name}: {system.num_parameters / 1e6:.2f}M parameters, {system.minutes:.1f} minutes of training")
        return systems

    # ------------------------------------------------------------------------------------------------------- sampling

    def _conditions(self) -> list[list[Condition]]:
        """(label, source) of each sample, for each seed."""
        kind, count, seeds = self.suite.condition, self.suite.num_samples, range(self.suite.seeds)
        if kind == "none":
            return [[(None, None)] * count for _ in seeds]
        given = [row[kind] for row in self.test if kind in row]
        if not given:
            raise UserError(f"the suite's condition is '{kind}', but no test row has a {kind}; change one of them")
        if kind == "label":
            return [[(label, None) for label in random.Random(seed).choices(given, k=count)] for seed in seeds]
        sources = list(dict.fromkeys(given))[:count]
        return [[(None, source) for source in sources] for _ in seeds]

    def _rows(self, name: str, trainings: Sequence[System]) -> dict[str, list[Mapping[str, Any]]]:
        """By settings the scores of each seed."""
        rows = {}
        for i, (setting, values) in enumerate(self.suite.systems[name].settings.items()):
            few = min(self.suite.frontier_seeds, self.suite.seeds)
            seeds = range(self.suite.seeds if i < self.suite.full_settings else few)
            rows[setting] = [self._row(name, trainings[s % len(trainings)], setting, values, s) for s in seeds]
        return rows

    def _row(self, name: str, system: System, setting: str, values: Mapping[str, Any], seed: int) -> Mapping[str, Any]:
        """The scores of one system's texts of one seed."""
        scores = self.folder / name / "settings" / setting / f"scores-{seed}.json"
        drawn = self._drawn_from(system, values, seed)
        measured = digest([drawn, self.scoring.key])
        known = known_json(scores)
        if known.get("measured") == measured:
            return known["row"]
        path = self._samples(name, system, setting, values, seed)
        row = as_report({"row": self.scoring.measurement.measure(read_samples(path))})["row"]
        atomic_json(scores, {"drawn": drawn, "measured": measured, "row": row})
        return_freed_memory()
        return row

    def _drawn_from(self, system: System, values: Mapping[str, Any], seed: int) -> str:
        """A fingerprint of what texts are made from."""
        choice, _ = split_choice(values)
        answers = [self._references(seed)] if choice is not None and choice.needs_answers else []
        return digest([system.digest, dict(values), self.conditions[seed], seed, *answers])

    def _references(self, seed: int) -> list[list[str]]:
        """The answers to the source of each text."""
        return [self.scoring.reference.texts[str(source)] for _, source in self.conditions[seed]]

    def _samples(self, name: str, system: System, setting: str, values: Mapping[str, Any], seed: int) -> Path:
        """The file of one system's texts of one seed, drawn where it is not there."""
        folder = self.folder / name / "settings" / setting
        path, scores = folder / f"samples-{seed}.jsonl", folder / f"scores-{seed}.json"
        drawn = self._drawn_from(system, values, seed)
        if known_json(scores).get("drawn") == drawn and path.exists():
            return path
        start = time.monotonic()
        draws = draws_for(self.conditions[seed], seed * SEEDS_APART)
        choice, own = split_choice(values)
        if choice is None:
            texts = system.draw(draws, own, BATCH)
        else:
            numbers = range(choice.count)
            texts = choice.chosen(
                [self._candidates(name, system, own, seed, number) for number in numbers], self._references(seed)
            )
        write_rows(path, [
            {"text": text} | ({"seed": number} if choice is None else {})  # (of several texts each had its own)
            | {k: v for k, v in (("label", label), ("source", source)) if v}
            for text, number, label, source in zip(texts, *draws.values(), strict=True)
        ])  # fmt: skip
        atomic_json(scores, {"drawn": drawn})
        self.log(f"{name}, {setting}, seed {seed}: {len(texts):,} texts in {duration(time.monotonic() - start)}")
        return path

    def _candidates(self, name: str, system: System, settings: Mapping[str, Any], seed: int, number: int) -> list[str]:
        """One of several draws for each source, kept for all settings that choose among them. Draw 0 is the one that
        settings without a choice keep, if there are such."""
        plain = self.suite.systems[name].settings
        if number == 0 and (same := next((key for key, values in plain.items() if values == settings), None)):
            path = self._samples(name, system, same, plain[same], seed)
        else:
            conditions = self.conditions[seed]
            key = digest([system.digest, dict(settings), conditions, seed])
            path = self.folder / name / "candidates" / key[:12] / f"{number}.jsonl"
            if not path.exists():
                draws = draws_for(conditions, seed * SEEDS_APART + number * len(conditions))
                write_rows(path, [{"text": text} for text in system.draw(draws, settings, BATCH)])
        return [sample.text for sample in read_samples(path)]

    def _likelihood(self, name: str, trainings: Sequence[System]) -> dict[str, Any] | None:
        """Perplexity a token of test rows under each training of a system: `value`, their mean; `values`; `reports`.
        None where it is not asked for, or a system has none."""
        if not self.suite.metrics.likelihood:
            return None
        rows = self.test[: self.suite.metrics.likelihood]
        key = digest([[training.digest for training in trainings], [dict(row) for row in rows]])
        path = self.folder / name / "likelihood.json"
        known = known_json(path)
        if known.get("key") != key:
            self.log(f"{name}: likelihood of {counted(len(rows), 'text')}")
            reports = [report.as_json() for training in trainings if (report := training.likelihood(rows)) is not None]
            known = {"key": key, "reports": reports}
            atomic_json(path, known)
        if not known["reports"]:
            return None
        # A latent diffusion has a row for the decoder's best level too; its texts are made with the sampler's.
        found = [report["rows"] for report in known["reports"]]
        values = [(rows.get("sampler") or rows["exact"])["perplexity"]["value"] for rows in found]
        return {"value": float(np.mean(values)), "values": values, "reports": known["reports"]}

    def _reconstruction(self, name: str, trainings: Sequence[System]) -> float | None:
        """Mean over the trainings of a Ladle system."""
        ours = [training for training in trainings if isinstance(training, LadleSystem)]
        if not ours:
            return None
        texts = list(dict.fromkeys(row["text"] for row in self.test))[:RECONSTRUCTED]
        key = digest([[training.digest for training in ours], texts])
        path = self.folder / name / "reconstruction.json"
        known = known_json(path)
        if known.get("key") != key:
            self.log(f"{name}: reconstructing {len(texts)} texts")
            known = {"key": key, "values": [training.reconstruction(texts) for training in ours]}
            atomic_json(path, known)
        return float(sum(known["values"]) / len(known["values"]))
