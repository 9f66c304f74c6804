"""Are texts what was asked for? How often each of several attributes is obeyed, with and without being asked for.

    python recipes/e2e_attributes.py ../shared/data/e2e runs/e2e-attributes
    ladle train --data runs/e2e-attributes --attribute food --attribute area --attribute priceRange --output runs/slots
    python benchmarks/attributes.py runs/slots/final --ask food=Italian area=riverside priceRange=high -n 1000

A text obeys a slot of E2E if it says the value and no other value of the slot, by the table of phrases
(`ladle.evaluation.slots`). With --judge NAME=FOLDER (from `ladle fit judge --label NAME`) it obeys if the judge finds
the value likeliest. An empty text obeys nothing. --guidance NAME=WEIGHT is as of `ladle sample`: below 0 a text obeys
if it does not have the value. The second column counts texts of the same model for which nothing was asked. Div is that
of all texts of a column (1: no run of 2 to 4 words comes twice).
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ladle.cli.sample_options import guidance_scales, pairs
from ladle.data.labels import own_label
from ladle.errors import LadleError, UserError
from ladle.evaluation import slots
from ladle.evaluation.evaluate import environment
from ladle.evaluation.intervals import wilson_interval
from ladle.evaluation.judge import Judge
from ladle.evaluation.markdown import format_percent
from ladle.evaluation.text_stats import diversity, is_empty, tokenise
from ladle.pipeline import LatentDiffusion
from ladle.storage.writing import atomic_json

SLOTS = ("name", "eatType", "food", "priceRange", "customer rating", "area", "familyFriendly", "near")
Has = Callable[[list[str], str], list[bool]]  # (texts, value) -> whether each text has the value


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Draw texts with and without the attributes, print the Markdown table, write and return the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a model folder, a shipped model's name, or a hub id")
    parser.add_argument("--ask", nargs="+", required=True, metavar="NAME=VALUE", help="attributes of all texts")
    parser.add_argument("-n", "--num-samples", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--judge", nargs="+", metavar="NAME=FOLDER", help="judges of attributes")
    parser.add_argument("--guidance", nargs="+", metavar="NAME=WEIGHT", help="guidance of single attributes")
    parser.add_argument("--options", type=json.loads, default={}, help='sampling options, such as {"candidates": 4}')
    parser.add_argument("-o", "--output", help="write the figures as JSON")
    given = parser.parse_args(arguments)

    model = LatentDiffusion.from_pretrained(given.model)
    asked = {name: _one("--ask", name, values) for name, values in pairs("--ask", given.ask, "food=Italian").items()}
    for name, value in asked.items():
        model.conditions.check_attribute(name, own_label(value, model.attributes.get(name, ())))
    folders = pairs("--judge", given.judge, "food=FOLDER")
    checks = {name: check_for(name, folders.get(name)) for name in asked}
    scales = guidance_scales(given.guidance) or {}
    options = given.options | ({"guidance_scales": scales} if scales else {})
    free = {name: value for name, value in given.options.items() if name != "choose"}  # nothing to choose by
    seeds = range(given.seed, given.seed + given.num_samples)
    texts = {
        "asked for": model.generate(seeds=seeds, attributes=asked, **options),
        "not asked for": model.generate(seeds=seeds, **free),
    }
    result = {
        "model": given.model,
        "digest": model.digest,
        "asked": asked,
        "seed": given.seed,
        "options": options,
        "columns": {column: score(own, asked, checks, scales) for column, own in texts.items()},
        "environment": environment(),
    }
    print(to_markdown(result))
    if given.output:
        atomic_json(given.output, result)
    return result


def check_for(name: str, folders: list[str] | None) -> Has:
    """What tells whether texts have a value of the attribute. UserError: nothing does."""
    if folders:
        judge = Judge.load(_one("--judge", name, folders))

        def by_judge(texts: list[str], value: str) -> list[bool]:
            judge.check_labels([value])
            wanted = own_label(value, judge.labels)
            return [own == wanted and not is_empty(text) for own, text in zip(judge.predict(texts), texts, strict=True)]

        return by_judge
    if name not in SLOTS:
        raise UserError(f"nothing tells '{name}' of a text: it is no slot of E2E; give --judge {name}=FOLDER")

    def by_slot(texts: list[str], value: str) -> list[bool]:
        scores = [slots.score(text, {name: value}) for text in texts]
        return [name in own.said and name not in dict(own.wrong) for own in scores]

    return by_slot


def score(
    texts: list[str], asked: Mapping[str, str], checks: Mapping[str, Has], scales: Mapping[str, float]
) -> dict[str, Any]:
    """Shares of texts that obey each attribute, and all of them, with 95 % intervals (Wilson), and the variety."""
    obeyed = {}
    for name, value in asked.items():
        has = checks[name](texts, value)
        avoided = scales.get(name, 1.0) < 0
        obeyed[name] = [own != avoided and not is_empty(text) for own, text in zip(has, texts, strict=True)]
    every = [all(row) for row in zip(*obeyed.values(), strict=True)]
    return {
        "texts": len(texts),
        "obeyed": {name: share(own) for name, own in obeyed.items()},
        "all": share(every),
        "div": diversity([tokenise(text) for text in texts]),
        "empty": sum(map(is_empty, texts)),
    }


def share(hits: Sequence[bool]) -> dict[str, Any]:
    """How many of them, with a 95 % interval."""
    interval = wilson_interval(sum(hits), len(hits))
    return {"value": sum(hits) / len(hits), "interval": interval and list(interval), "n": len(hits)}


def to_markdown(result: Mapping[str, Any]) -> str:
    """A line for each attribute, for all of them, and for the variety of the texts."""
    columns, scales = result["columns"], result["options"].get("guidance_scales", {})
    lines = ["| obeyed, % | " + " | ".join(columns) + " |", "|---" * (1 + len(columns)) + "|"]
    for name, value in result["asked"].items():
        title = f"not {value}" if scales.get(name, 1.0) < 0 else value
        cells = [format_percent(column["obeyed"][name]) for column in columns.values()]
        lines.append(f"| {name}: {title} | " + " | ".join(cells) + " |")
    lines.append("| all of them | " + " | ".join(format_percent(column["all"]) for column in columns.values()) + " |")
    lines.append("| Div | " + " | ".join(f"{column['div']:.3f}" for column in columns.values()) + " |")
    return "\n".join([*lines, "", f"{next(iter(columns.values()))['texts']:,} texts a column."])


def _one(option: str, name: str, values: list[str]) -> str:
    if len(values) > 1:
        raise UserError(f"{option} {name} is given {len(values)} times; give one")
    return values[0]


if __name__ == "__main__":
    try:
        main()
    except LadleError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
