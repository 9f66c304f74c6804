"""How fast systems write: tokens of returned text per second, all systems in turn in one process."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median_high
from typing import Any

import torch

from ladle.benchmark.rivals import Log
from ladle.benchmark.suite import SuiteConfig
from ladle.benchmark.systems import Condition, LadleSystem, System, draws_for
from ladle.data.files import known_json
from ladle.storage.writing import atomic_json
from ladle.training.state import digest


def measured_speed(
    suite: SuiteConfig,
    systems: Mapping[str, System],
    timed: Mapping[str, Sequence[str]],
    conditions: Sequence[Condition],
    path: Path,
    log: Log,
) -> dict[str, dict[str, Any]]:
    """Tokens of returned text per second, without loading. Every round runs all systems in turn. Returns the figure of
    each round and their median, by settings and batch size. The first Ladle system's tokenizer counts all tokens.

    timed: the settings to time, by system. conditions: of the texts; they repeat if there are more texts. path: file
    that keeps results, so that nothing is measured twice.
    """
    config, digests = suite.speed, {name: system.digest for name, system in systems.items()}
    runs = [(name, s, suite.systems[name].settings[s]) for name, settings in timed.items() for s in settings]
    key = digest([digests, runs, config.model_dump(), torch.get_num_threads()])
    known = known_json(path)
    if known.get("key") == key:
        return known["systems"]
    log("speed: measuring")
    ladles = (system for system in systems.values() if isinstance(system, LadleSystem))
    tokenizer = next((ladle.model.autoencoder.backbone.tokenizer for ladle in ladles), None)
    found: dict[str, dict[str, Any]] = {name: {setting: {} for setting in timed[name]} for name in systems}
    for batch_size, count in config.batches.items():
        repeated = [conditions[i % len(conditions)] for i in range(count)]
        rounds: dict[tuple[str, str], list[float]] = {(name, setting): [] for name, setting, _ in runs}
        for number in range(-1, config.rounds):  # the first warms up
            for name, setting, values in runs:
                draws = draws_for(repeated, (number + 1) * count)
                start = time.perf_counter()
                texts = systems[name].draw(draws, values, batch_size)
                seconds = time.perf_counter() - start
                if number >= 0:
                    rounds[name, setting].append(_count_tokens(tokenizer, texts) / seconds)
        for (name, setting), figures in rounds.items():
            timed_at = {"median": median_high(figures), "rounds": figures, "texts": count}
            found[name][setting][str(batch_size)] = timed_at
    atomic_json(path, {"key": key, "systems": found})
    return found


def settings_to_time(rows: Mapping[str, Sequence[Mapping[str, Any]]], passes: Mapping[str, int]) -> list[str]:
    """The first settings, and the cheapest within 5 % of the best MAUVE (over the seeds that all settings share).
    rows: the scores of each seed, by settings. passes: network passes per text, by settings."""
    scored = {name: part for name, part in rows.items() if part and "mauve" in part[0]}
    shared = min(map(len, scored.values()), default=0)
    quality = {name: sum(row["mauve"]["value"] for row in part[:shared]) for name, part in scored.items()}
    good = [name for name, value in quality.items() if value >= 0.95 * max(quality.values())]
    return list(dict.fromkeys([next(iter(rows)), *sorted(good, key=passes.__getitem__)[:1]]))


def _count_tokens(tokenizer: Any, texts: Sequence[str]) -> int:
    if tokenizer is None:
        return sum(len(text.split()) for text in texts)
    return sum(map(len, tokenizer(list(texts), add_special_tokens=False)["input_ids"]))
