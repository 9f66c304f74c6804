"""Do texts that were filled in read well, and do they keep what was given? Ladle beside an autoregressive model.

    python benchmarks/infilling.py MODEL --data rows.jsonl.gz -n 1000 --scorer SCORER [--rival FOLDER] [-o results.json]

Each template is a held-out row in which one to three runs of one to three words are blank. Figures: the share of texts
that keep what was given to the letter; the perplexity of whole texts, real ones beside it; the share in which the very
words of the row came back; Div. SCORER is a folder that `ladle fit scorer` wrote.

The rival (a folder of `ladle.baselines.autoregressive`) writes from left to right: in a blank it draws words until it
draws the token that is given next, or MOST tokens; then what is given is forced. It does not know what follows a blank.
It is shown drawing (top-p .9) and greedy.
"""

import argparse
import random
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from ladle.autoencoder.choice import chosen_ids
from ladle.baselines.autoregressive import AutoregressiveModel
from ladle.data.rows import read_rows
from ladle.editing.template import Template
from ladle.evaluation.scorer import Scorer, perplexity
from ladle.evaluation.text_stats import diversity, tokenise
from ladle.pipeline import LatentDiffusion
from ladle.seeding import SampleNoise
from ladle.storage.writing import atomic_json

WORD = re.compile(r"\w[\w'’-]*")
MOST = 12  # tokens that the rival writes in a blank
BATCH = 64


def make_template(text: str, generator: random.Random) -> str | None:
    """The text with one to three runs of one to three words blank, at least one word apart; None if it is too short."""
    words = list(WORD.finditer(text))
    blank: set[int] = set()
    for _ in range(generator.randint(1, 3)):
        size = generator.randint(1, 3)
        begin = generator.randrange(max(1, len(words) - size + 1))
        run = {*range(begin, begin + size)}
        if begin + size <= len(words) and not blank & {place + by for place in run for by in (-1, 0, 1)}:
            blank |= run
    if not blank or len(words) - len(blank) < 2:
        return None
    made, done = "", 0
    for place, word in enumerate(words):
        if place in blank and place - 1 not in blank:
            made += text[done : word.start()] + "___"
        if place in blank:
            done = word.end()
    return made + text[done:]


def keeps(template: str, text: str) -> bool:
    """Whether what is given is in the text to the letter, and something in each blank."""
    pattern = ".+?".join(map(re.escape, Template.parse(template).pieces))
    return re.fullmatch(pattern, text, re.DOTALL) is not None


@torch.no_grad()
def rival_texts(
    model: AutoregressiveModel, templates: Sequence[str], seeds: Sequence[int], top_p: float, temperature: float
) -> list[str]:
    """The texts of the autoregressive model, from the left to the right."""
    tokenizer, texts = model.tokenizer, [""] * len(templates)
    end, start = tokenizer.eos_token_id, model.separator
    special = [token for token in tokenizer.all_special_ids if token != end]
    for first in range(0, len(templates), BATCH):
        rows = range(first, min(first + BATCH, len(templates)))
        parts = [[_piece(tokenizer, piece) for piece in Template.parse(templates[row]).pieces] for row in rows]
        written = [[start, *own.pop(0)] for own in parts]
        sizes = [0] * len(parts)
        noise = SampleNoise([seeds[row] for row in rows])
        while any(parts):
            uniform = noise.uniform()  # of every row, so that a text does not depend on its batch
            open_rows = [i for i, own in enumerate(parts) if own]
            ids = pad_sequence([torch.tensor(written[i]) for i in open_rows], batch_first=True, padding_value=end)
            logits = model.causal(input_ids=ids).logits
            last = torch.tensor([len(written[i]) - 1 for i in open_rows])
            logits = logits[torch.arange(len(ids)), last, : len(tokenizer)].float()
            logits[:, special] = -torch.inf
            wanted_by = [[*parts[i][0], end][0] for i in open_rows]
            for row, (i, wanted) in enumerate(zip(open_rows, wanted_by, strict=True)):
                if not sizes[i]:  # one token at least
                    logits[row, [wanted, end]] = -torch.inf
            chosen = chosen_ids(logits, uniform[open_rows], top_p, temperature).tolist()
            for i, wanted, token in zip(open_rows, wanted_by, chosen, strict=True):
                if token in (wanted, end) or sizes[i] == MOST or len(written[i]) >= model.config.max_tokens:
                    written[i] += parts[i].pop(0)
                    sizes[i] = 0
                else:
                    written[i].append(token)
                    sizes[i] += 1
        for row, text in zip(
            rows, tokenizer.batch_decode([own[1:] for own in written], skip_special_tokens=True), strict=True
        ):
            texts[row] = text.removeprefix(" ")
    return texts


def _piece(tokenizer: Any, piece: str) -> list[int]:
    """The tokens of what is given, as they are behind a word. A space before a blank belongs to the blank's words."""
    before = "-" if piece[:1].isalnum() else "a"
    known, whole = tokenizer([before, before + piece.removesuffix(" ")])["input_ids"]
    return whole[len(known) - 1 : -1]


def figures(templates: Sequence[str], texts: Sequence[str], real: Sequence[str], scorer: Scorer) -> dict[str, float]:
    """The figures of one system. A text that lost what was given is scored as it is."""
    return {
        "kept": sum(map(keeps, templates, texts)) / len(texts),
        "perplexity": perplexity(*scorer.score(texts)),
        "recovered": sum(text == wanted for text, wanted in zip(texts, real, strict=True)) / len(texts),
        "div": diversity([tokenise(text) for text in texts]),
        "words": sum(len(tokenise(text)) for text in texts) / len(texts),
    }


def to_markdown(result: dict[str, Any]) -> str:
    """One line a system."""
    lines = ["| | kept to the letter | perplexity | the very words | Div | words |", "|---|---|---|---|---|---|"]
    for name, row in result["rows"].items():
        cells = f"{row['kept']:.1%} | {row['perplexity']:.1f} | {row['recovered']:.1%} | {row['div']:.3f}"
        lines.append(f"| {name} | {cells} | {row['words']:.1f} |")
    return "\n".join([*lines, "", f"n = {result['templates']}, seed {result['seed']}"])


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Print the table and some texts; write and return the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", required=True, help="held-out rows")
    parser.add_argument("-n", type=int, default=1000, help="templates")
    parser.add_argument("--scorer", required=True)
    parser.add_argument("--rival", help="folder of an autoregressive model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shown", type=int, default=10)
    parser.add_argument("-o", "--output", help="write the figures as JSON")
    given = parser.parse_args(arguments)
    model, scorer = LatentDiffusion.from_pretrained(given.model), Scorer.load(given.scorer)
    generator = random.Random(given.seed)
    rows = [row["text"] for row in read_rows(given.data)]
    generator.shuffle(rows)
    real, templates = [], []
    for text in rows:
        short = len(model.autoencoder.backbone.tokenizer(text)["input_ids"]) < model.max_tokens - MOST
        template = make_template(text, generator) if short and "__" not in text else None
        if template is not None and len(real) < given.n:
            real.append(text)
            templates.append(template)
    seeds = [*range(len(real))]
    systems = {"real": real, "Ladle": model.infill(templates, seeds=seeds)}
    if given.rival:
        rival = AutoregressiveModel.from_pretrained(given.rival)
        systems["autoregressive"] = rival_texts(rival, templates, seeds, 0.9, 1.0)
        systems["autoregressive, greedy"] = rival_texts(rival, templates, seeds, 1.0, 0.0)
    found = {name: figures(templates, texts, real, scorer) for name, texts in systems.items()}
    result = {"templates": len(real), "seed": given.seed, "rows": found}
    print(to_markdown(result))
    for place in range(min(given.shown, len(real))):
        print("", templates[place], *(f"  {name}: {texts[place]}" for name, texts in systems.items()), sep="\n")
    if given.output:
        atomic_json(given.output, result)
    return result


if __name__ == "__main__":
    main()
