"""Data to text on E2E: BLEU, slots and the variety of draws, with the human and the template row beside.

    ladle sample --model e2e --source e2e/test.jsonl.gz --seed 0 -o one.jsonl
    ladle sample --model e2e --source e2e/test.jsonl.gz --seed 0 --candidates 16 -o mbr16.jsonl
    python benchmarks/e2e_data_to_text.py --samples one.jsonl mbr16.jsonl --test e2e/test.jsonl.gz -o results.json

A samples file may hold several draws of an input (rows of one `source`); every draw is scored, and Div of an input's
draws is added. The human row is each input's first reference against its others (one reference fewer than the
systems have); its slots are those of all references.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ladle.data.rows import read_rows
from ladle.errors import LadleError, UserError
from ladle.evaluation import metrics, slots
from ladle.evaluation.evaluate import environment
from ladle.evaluation.intervals import Resampling
from ladle.evaluation.markdown import format_percent, format_score
from ladle.evaluation.samples import gather, read_samples
from ladle.storage.writing import atomic_json

Texts = Mapping[str, Sequence[str]]  # input -> texts


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Score the files, print the Markdown table, write and return the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--samples", nargs="+", required=True, help="one or more samples.jsonl, a row of the table each"
    )
    parser.add_argument("--test", required=True, help="rows with source and references")
    parser.add_argument("-o", "--output", help="write the figures as JSON")
    parser.add_argument("--num-bootstrap", type=int, default=1000)
    given = parser.parse_args(arguments)

    test = gather(read_rows(given.test))
    references: Texts = test.texts
    resampling = Resampling(given.num_bootstrap)
    rows = {name_of(path): score_system(read_draws(path, references), references, resampling) for path in given.samples}
    several = {source: texts for source, texts in references.items() if len(texts) > 1}
    rows["human"] = score_system(
        {source: texts[:1] for source, texts in several.items()},
        {source: texts[1:] for source, texts in several.items()},
        resampling,
    ) | score_slots(references, resampling)
    rows["template"] = score_system(
        {source: [template(slots.parse_mr(source))] for source in references}, references, resampling
    )
    result = {
        "test": {"path": Path(given.test).name, "inputs": len(references), "references": len(test)},
        "rows": rows,
        "environment": environment(),
    }
    print(to_markdown(rows))
    if given.output:
        atomic_json(given.output, result)
    return result


def read_draws(path: str, references: Texts) -> dict[str, list[str]]:
    """The samples by input. Inputs of the test file that have no sample are an error: they would flatter the score."""
    draws: dict[str, list[str]] = {}
    for sample in read_samples(path):
        if sample.source is None or sample.source not in references:
            raise UserError(f"{path}: a sample's source is not in the test file: {sample.source!r:.80}")
        draws.setdefault(sample.source, []).append(sample.text)
    if missing := len(references.keys() - draws.keys()):
        raise UserError(
            f"{path}: {missing} of {len(references)} test inputs have no sample; sample from the whole file"
        )
    return draws


def score_system(draws: Texts, references: Texts, resampling: Resampling) -> dict[str, Any]:
    """All figures of one row of the table."""
    keys = [source for source, texts in draws.items() for _ in texts]
    texts = [text for group in draws.values() for text in group]
    bleu = metrics.score_corpus("bleu", texts, [references[key] for key in keys], resampling, groups=keys)
    row = {
        "texts": len(texts),
        "bleu": bleu.to_dict(),
        "empty": metrics.score_empty(texts, resampling).to_dict(),
        "length": metrics.score_length(texts, resampling).to_dict(),
    }
    if any(len(group) > 1 for group in draws.values()):
        row["div_per_input"] = metrics.score_div_per_input(list(draws.values()), resampling).to_dict()
    return row | score_slots(draws, resampling)


def score_slots(draws: Texts, resampling: Resampling) -> dict[str, Any]:
    """Slots said, wrong additions and faultless texts."""
    keys = [source for source, texts in draws.items() for _ in texts]
    scores = [slots.score(text, slots.parse_mr(source)) for source, texts in draws.items() for text in texts]
    return {"slots": slots.summarise(scores, keys, resampling)}


def to_markdown(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """One line a system."""
    lines = [
        "| system | texts | BLEU | slots said, % | wrong additions, % of slots | faultless texts, % "
        "| Div of an input's draws | words |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        shares = " | ".join(format_percent(row["slots"][key]) for key in ("said", "wrong", "faultless"))
        div, length = format_score(row.get("div_per_input")), row["length"]["value"]
        lines.append(f"| {name} | {row['texts']} | {format_score(row['bleu'])} | {shares} | {div} | {length:.1f} |")
    return "\n".join(lines)


def template(mr: Mapping[str, str]) -> str:
    """The text of an E2E input by simple rules. It must score 100 % said and no wrong addition."""
    price = mr.get("priceRange", "")
    price = {"cheap": "cheap", "moderate": "moderately priced", "high": "high priced"}.get(price, price)
    kind = " ".join(filter(None, [price if "£" not in price else "", mr.get("food", ""), mr.get("eatType", "place")]))
    article = "an" if kind[0] in "AEIO" else "a"
    text = f"{mr.get('name', 'There')} is {article} {kind}"
    text += f" near {mr['near']}" if "near" in mr else ""
    text += {"city centre": " in the city centre", "riverside": " in the riverside area"}.get(mr.get("area", ""), "")
    text += f". The price range is {price}" if "£" in price else ""
    text += f". It has a customer rating of {mr['customer rating']}" if "customer rating" in mr else ""
    family = {"yes": ". It is family-friendly", "no": ". It is not family-friendly"}
    text += family.get(mr.get("familyFriendly", ""), "")
    return text + "."


def name_of(path: str) -> str:
    """The file's name without its ending."""
    return Path(path).name.split(".")[0]


if __name__ == "__main__":
    try:
        main()
    except LadleError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
