#!/usr/bin/env python3
"""Does a sample ever hold a sign that the data do not hold? Five kinds of text, 300 rows each, all made here.

    python benchmarks/any_text.py FOLDER [--minutes 2] [--samples 200] [--only russian chinese]

For each kind: `ladle train` on the rows, `ladle sample` from the model, and a count of the samples that hold U+FFFD, a
control sign, or another sign that is not in the rows. The last lines are a few samples to read.
"""

import argparse
import csv
import json
import random
import subprocess
import sys
import unicodedata
from pathlib import Path

ROWS = 300

ENGLISH = (
    ["The soup", "Our waiter", "My room", "This bar", "The garden", "Her letter", "The old clock", "His bicycle"],
    ["was", "is always", "seemed", "looked", "is no longer", "was never"],
    ["very good", "cold", "late", "as quiet as snow", "friendly", "worth the price", "too loud", "easy to find"],
    ["in the morning.", "on Monday!", "when we came back.", "for two people.", "and nobody knew why.", "this year."],
)
RUSSIAN = (
    ["Повар", "Сосед", "Учитель", "Мой брат", "Старый врач", "Почтальон", "Девочка", "Наш гость"],
    ["открыл", "купил", "забыл", "нашёл", "принёс", "потерял", "увидел"],
    ["окно", "хлеб", "зонт", "большую книгу", "письмо", "ключ от дома", "красное яблоко"],
    ["утром.", "вчера вечером.", "в саду.", "и ушёл домой.", "перед обедом.", "без всякой причины."],
)
CHINESE = (
    ["我的朋友", "老师", "那位医生", "隔壁的孩子", "她", "餐厅的服务员", "爷爷"],
    ["昨天", "早上", "经常", "从来没有", "在公园里", "下班以后"],
    ["喝茶", "看书", "买了一把雨伞", "忘记带钥匙", "给我写信", "做了一顿晚饭", "学习画画"],
    ["。", "，大家都很高兴。", "，因为天气很好。", "，后来才知道。", "！", "，真有意思。"],
)
EMOJI = (
    ["omg", "just got home", "new phone", "this song", "monday again", "coffee first", "my cat"],
    ["😀", "😂😂", "❤️", "👍🏽", "😡", "👨‍👩‍👧", "🎉", "🇫🇷", "☕"],
    ["so happy rn", "can't stop", "why though", "best day ever", "never again", "look at this"],
    ["💯", "🙏🙏", "#blessed ✨", "lol 🤣", "😭", "🔥🔥🔥", "…"],
)


def made(slots: tuple[list[str], ...], generator: random.Random, joint: str = " ") -> str:
    """One text: a word of each slot."""
    return joint.join(generator.choice(words) for words in slots)


def rows_of(kind: str) -> list[str]:
    """The texts of a kind, the same in every call."""
    draw = random.Random(kind)
    match kind:
        case "russian":
            return [made(RUSSIAN, draw) for _ in range(ROWS)]
        case "chinese":
            return [made(CHINESE, draw, "") for _ in range(ROWS)]
        case "emoji":
            return [made(EMOJI, draw) for _ in range(ROWS)]
        case "paragraphs":
            return [f"{made(ENGLISH, draw)}\n\n{made(ENGLISH, draw)}\t{made(ENGLISH, draw)}" for _ in range(ROWS)]
    return [made(ENGLISH, draw) for _ in range(ROWS)]


KINDS = ("english", "russian", "chinese", "emoji", "paragraphs")


def ladle(*words: object) -> None:
    """Run the command line of the installed Ladle."""
    subprocess.run([sys.executable, "-m", "ladle", *map(str, words)], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--only", nargs="*", choices=KINDS, default=KINDS)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    figures, shown = [], []
    for kind in given.only:
        data, run, out = (given.folder / f"{kind}{ending}" for ending in (".csv", "-run", "-samples.jsonl"))
        texts = rows_of(kind)
        with open(data, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["text"], *([text] for text in texts)])
        ladle("train", "--data", data, "-o", run, "--minutes", given.minutes)
        ladle("sample", "--model", run / "final", "-n", given.samples, "--seed", 0, "-o", out)
        samples = [json.loads(line)["text"] for line in out.read_text(encoding="utf-8").splitlines()]
        known = set("".join(texts))
        control = {sign for text in samples for sign in text if unicodedata.category(sign)[0] == "C"} - known
        figures.append((
            kind, len(samples), sum("\ufffd" in text for text in samples), len(control),
            sum(bool(set(text) - known) for text in samples), sum(not text for text in samples),
            len(set(samples)), sum(text in set(texts) for text in samples),
        ))  # fmt: skip
        shown += [f"{kind:<11} {text!r}" for text in samples[:6]]
    head = ("kind", "samples", "U+FFFD", "control signs", "unknown signs", "empty", "different", "training texts")
    for row in (head, *figures):
        print("{:<11}  {:>7}  {:>6}  {:>13}  {:>13}  {:>5}  {:>9}  {:>14}".format(*row))
    print("\n" + "\n".join(shown))


if __name__ == "__main__":
    main()
