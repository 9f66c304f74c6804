"""Does a change of the code change what a model says, or how it learns? One file of outputs, to compare with another.

    python benchmarks/equal_outputs.py before.json                          # on the commit before
    python benchmarks/equal_outputs.py after.json --against before.json    # on the commit after; 1 if they differ

It draws texts from the shipped models in the ways that there are, trains two small models for 60 steps each, and writes
every text, every loss (to the last digit) and a hash of the weights. One thread, so that sums are made in one order.
The same machine has to run both commits: another processor rounds otherwise.
"""

import argparse
import hashlib
import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

import ladle

PLACES = ("Aromi", "Blue Spice", "Cotto", "The Vaults", "Giraffe", "Zizzi", "The Mill", "Loch Fyne")
FOODS = ("Italian", "French", "Chinese", "English", "Japanese", "Indian", "Fast food")
PRICES = ("cheap", "moderate", "high", "less than £20", "more than £30")
GOOD, BAD = ("lovely", "great", "friendly", "quick"), ("awful", "cold", "rude", "slow")
TIMES = {"seconds", "tokens_per_second"}


def sources(count: int) -> list[str]:
    """Facts about restaurants, in E2E's notation."""
    rng = random.Random(0)
    rows = []
    for _ in range(count):
        facts = [f"name[{rng.choice(PLACES)}]", f"eatType[{rng.choice(('pub', 'coffee shop', 'restaurant'))}]"]
        facts += [f"food[{rng.choice(FOODS)}]", f"priceRange[{rng.choice(PRICES)}]"]
        facts += [f"area[{rng.choice(('riverside', 'city centre'))}]", f"familyFriendly[{rng.choice(('yes', 'no'))}]"]
        rows.append(", ".join(facts[: rng.randint(3, 6)]))
    return rows


def reviews(count: int, *, with_source: bool) -> list[dict[str, str]]:
    """Labelled sentences, each from its facts."""
    rng = random.Random(1)
    rows = []
    for _ in range(count):
        label = rng.choice(("good", "bad"))
        place, food, how = rng.choice(PLACES), rng.choice(FOODS), rng.choice(GOOD if label == "good" else BAD)
        text = f"{place} serves {food} food, and the staff were {how}."
        if rng.random() < 0.5:
            text = f"We ate {food} food at {place} on day {rng.randint(1, 28)}; it was {how}."
        row = {"text": text, "label": label}
        rows.append(row | {"source": f"name[{place}], food[{food}]"} if with_source else row)
    return rows


def drawn() -> dict[str, Any]:
    """Texts of the shipped models."""
    model = ladle.LatentDiffusion.from_pretrained("e2e")
    facts = sources(50)
    found: dict[str, Any] = {
        "free": model.generate(seeds=range(200)),
        "by source": model.generate(seeds=range(50), source=facts),
        "4 candidates by source": model.generate(seeds=range(50), source=facts, candidates=4),
        "4 candidates, free": model.generate(seeds=range(12), candidates=4),
        "some with a source": model.generate(seeds=range(12), source=[*facts[:6], *[None] * 6], batch_size=5),
        "ddpm": model.generate(seeds=range(8), sampler="ddpm", num_inference_steps=12),
        "less noise": model.generate(seeds=range(8), source=facts[:8], noise_scale=0.7, length_temperature=0.7),
        "drawn words": model.generate(seeds=range(8), source=facts[:8], temperature=0.8, top_p=0.9),
        "beams": model.generate(seeds=range(8), source=facts[:8], num_beams=4, guidance_scale=2.0),
        "reconstructed": model.reconstruct(model.generate(seeds=range(8))),
    }
    general = ladle.LatentDiffusion.from_pretrained("base-en")
    return found | {"base-en": general.generate(seeds=range(12))}


def trained(name: str, rows: list[dict[str, str]], sets: list[str]) -> dict[str, Any]:
    """Losses, weights and texts of a short training."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        data = folder / f"{name}.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        common = ["training.precision=fp32", "training.validate_every=0.5", "training.sample_every=0"]
        recipe = ladle.load_recipe(data=str(data), sets=[*common, *sets])
        final = ladle.train(recipe, folder / "run", log=lambda line: None)
        lines = (folder / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        losses = [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]
        weights = {
            f"{path.parent.name}/{name}": hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()[:16]
            for path in sorted(final.rglob("*.safetensors"))
            for name, tensor in load_file(path).items()
            if not name.startswith("adaptive_times.")  # (of training only; model folders held it once)
        }
        model = ladle.LatentDiffusion.from_pretrained(final)
        texts = {
            "free": model.generate(seeds=range(6)),
            "by label": model.generate(seeds=range(6), label=["good", "bad"] * 3),
            "by label, the first": model.generate(seeds=range(6), label="good", candidates=3, choose="label"),
        }
        if model.takes_source:
            facts = [row["source"] for row in rows[:6]]
            texts["by both"] = model.generate(seeds=range(6), label="bad", source=facts)
        told = {by: model.classify([row["text"] for row in rows[:4]], by=by).tolist() for by in ("words", "denoiser")}
    return {"losses": losses, "weights": weights, "texts": texts, "told": told}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--against", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    stages = {"autoencoder": 20, "diffusion": 20, "joint": 10, "decoder": 10}
    small = [
        "start=nothing", "autoencoder.backbone.vocab_size=400", "autoencoder.backbone.width=64",
        "diffusion.denoiser.width=64", "diffusion.denoiser.num_layers=4",
        "training.steps=60", *(f"training.{name}.share={count}" for name, count in stages.items()),
    ]  # fmt: skip
    further = ["start=base-en", "training.steps=20"]
    found = {
        "shipped models": drawn(),
        "from nothing, four stages": trained("small", reviews(400, with_source=True), small),
        "from base-en": trained("further", reviews(400, with_source=False), further),
    }
    arguments.output.write_text(json.dumps(found, indent=1, ensure_ascii=False), encoding="utf-8")
    if arguments.against is None:
        return 0
    differing = list(differences(json.loads(arguments.against.read_text(encoding="utf-8")), found))
    for place in differing[:20]:
        print("differs:", place)
    print(f"{len(differing)} differences" if differing else "no text, no loss and no weight differs")
    return int(bool(differing))


def differences(old: Any, new: Any, place: str = ""):
    """Where two nested values differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in old | new:
            yield from differences(old.get(key), new.get(key), f"{place}/{key}")
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for i, (one, other) in enumerate(zip(old, new, strict=True)):
            yield from differences(one, other, f"{place}/{i}")
    elif json.dumps(old) != json.dumps(new):
        yield f"{place}: {json.dumps(old)[:100]} -> {json.dumps(new)[:100]}"


if __name__ == "__main__":
    sys.exit(main())
