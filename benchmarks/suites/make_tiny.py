"""Make the texts of the suite `tiny`: short reports of the weather, with a label. By rule, so that nobody owns them.

python benchmarks/suites/make_tiny.py
"""

import json
import random
from pathlib import Path

PLACES = (
    "the valley",
    "the harbour",
    "the old town",
    "the north coast",
    "the hills",
    "the island",
    "the market",
    "the lake",
)
TIMES = ("this morning", "at noon", "in the evening", "all day long", "since Monday", "before dawn", "after lunch")
SIGHTS = {
    "fair": ("the sun was out over {place}", "a warm wind came to {place}", "the sky was clear above {place}",
             "children swam near {place}", "we sat outside by {place}", "boats went out from {place}"),
    "foul": ("rain fell on {place}", "fog lay over {place}", "a cold storm hit {place}",
             "the roads to {place} were under water", "hail broke windows in {place}", "nobody left home in {place}"),
}  # fmt: skip
ENDS = {
    "fair": ("and it will stay so", "and people were glad", "so bring a hat", "as it should be in June"),
    "foul": ("and it will get worse", "and people were tired of it", "so bring a coat", "as it is every autumn"),
}


def main() -> None:
    rng = random.Random(0)
    texts: dict[str, str] = {}
    while len(texts) < 1200:
        label = rng.choice(("fair", "foul"))
        sight = rng.choice(SIGHTS[label]).format(place=rng.choice(PLACES))
        parts = [f"{sight} {rng.choice(TIMES)}", f"{rng.choice(TIMES)} {sight}"]
        text = rng.choice(parts)
        if rng.random() < 0.6:
            text += f", {rng.choice(ENDS[label])}"
        texts[text[0].upper() + text[1:] + "."] = label
    rows = [{"text": text, "label": label} for text, label in texts.items()]
    folder = Path(__file__).parent / "tiny"
    folder.mkdir(exist_ok=True)
    for name, part in (("train", rows[:1000]), ("test", rows[1000:])):
        with open(folder / f"{name}.jsonl", "w", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in part)


if __name__ == "__main__":
    main()
