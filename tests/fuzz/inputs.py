"""Hypothesis strategies: rows of real texts, written in the ways of many programs, and then damaged."""

import csv
import gzip
import io
import json
import os
import re
from pathlib import Path
from typing import NamedTuple

from hypothesis import strategies as st

SHARED = Path(__file__).parents[3] / "shared" / "data"
OWN = (
    "The food was great, and we will come back.", "It was slow; nobody said \"sorry\".", "Ten of 12 rooms | all clean",
    "A line\nand another one.", "One paragraph.\n\nAnd a second.", "A tab\there.",
    "so good 😀👍🏽", "Повар открыл окно.",
    "如何解决问题", "مرحبا بالعالم", "Use </s> to close <s> the tag.",
    "{curly} [square] back\\slash", "naïve café, señor",
    "  spaces  inside ", "'quoted'", '"all of it"', "a,b;c\td|e", "-", "NaN", "12", "null", "é" * 40,
)  # fmt: skip


def _real() -> tuple[str, ...]:
    """Lines of real sets where they are at hand, so that the rows look as people's rows do."""
    found = []
    for path in sorted(SHARED.glob("*/train.jsonl.gz"))[:12] if SHARED.is_dir() else ():
        with gzip.open(path, "rt", encoding="utf-8") as file:
            for _, line in zip(range(20), file, strict=False):
                row = json.loads(line)
                found += [value[:200] for value in row.values() if isinstance(value, str) and value.strip()]
    return tuple(found)


TEXTS = OWN + (_real() if os.environ.get("LADLE_FUZZ") else ())  # (the small run is the same on every machine)
PIECES = [b'"', b"\0", b"\n", b"\r", b",", b"\xff", b"\\", b"{", b"]", b"\xef\xbb\xbf", b"NaN"]  # to put into a file
any_text = st.text(st.characters(exclude_categories=("Cs",)), max_size=40)
texts = st.one_of(st.sampled_from(TEXTS), st.sampled_from(TEXTS), any_text)
labels = st.sampled_from(["good", "bad", "1", "1.0", "0", "True", "false", "", "NaN", "None", "sport  and games", "-"])
values = st.one_of(texts, labels, st.integers(), st.floats(), st.booleans(), st.none(), st.lists(texts, max_size=3))
names = st.sampled_from(
    ["text", "label", "source", "target", "review", "stars", "id", "references", "Text ", "", "data"]
)


class File(NamedTuple):
    """A file to read: its name's ending, its bytes, and the texts in its column `text` (None: nobody can say)."""

    ending: str
    data: bytes
    texts: list[str] | None


@st.composite
def rows(draw) -> list[dict]:
    """Rows as people have them: most have a text, and the same columns throughout."""
    columns = draw(st.lists(names, min_size=0, max_size=3, unique=True))
    kinds = {column: draw(st.sampled_from([texts, labels, values])) for column in columns}
    kinds["text"] = texts
    return draw(st.lists(st.fixed_dictionaries(kinds), min_size=0, max_size=12))


@st.composite
def tables(draw) -> File:
    """CSV and its relatives, by Python's writer, in one of many dialects and encodings."""
    chosen = draw(rows())
    header = list(chosen[0]) if chosen else ["text"]
    delimiter = draw(st.sampled_from(",;\t|"))
    style = {
        "delimiter": delimiter,
        "quoting": draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])),
        "lineterminator": draw(st.sampled_from(["\n", "\r\n"])),
    }
    if draw(st.booleans()):
        style |= {"doublequote": False, "escapechar": "\\"}
    file = io.StringIO()
    writer = csv.writer(file, **style)
    if draw(st.integers(0, 4)):
        writer.writerow(header)
    for row in chosen:
        writer.writerow([row[name] for name in header])
    encoding = draw(st.sampled_from(["utf-8", "utf-8", "utf-8-sig", "utf-16", "cp1252"]))
    ending = draw(st.sampled_from([".csv", ".csv", ".tsv", ".txt", ".unknown", ""]))
    return File(ending, file.getvalue().encode(encoding, "replace"), None)


@st.composite
def json_files(draw) -> File:
    """JSON in the forms in which people have it."""
    chosen = draw(rows())
    form = draw(st.sampled_from(["lines", "array", "indented", "inside", "columns", "one after another"]))
    ascii_only = draw(st.booleans())
    match form:
        case "lines":
            text = "".join(json.dumps(row, ensure_ascii=ascii_only) + "\n" for row in chosen)
        case "one after another":
            text = "\n".join(json.dumps(row, ensure_ascii=ascii_only, indent=1) for row in chosen)
        case "inside":
            text = json.dumps({"version": 1, "data": chosen}, ensure_ascii=ascii_only)
        case "columns":
            text = json.dumps({name: [row[name] for row in chosen] for name in (chosen[0] if chosen else ["text"])})
        case _:
            text = json.dumps(chosen, ensure_ascii=ascii_only, indent=2 if form == "indented" else None)
    ending = draw(st.sampled_from([".jsonl" if form == "lines" else ".json", ".json", ".jsonl", ".txt", ""]))
    return File(ending, text.encode("utf-8", "surrogatepass"), None)


@st.composite
def damaged(draw, files: st.SearchStrategy[File]) -> File:
    """A file with some of its bytes lost, doubled, swapped or replaced, and perhaps packed."""
    file = draw(files)
    data = bytearray(file.data)
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.integers(0, max(0, len(data) - 1)))
        length = draw(st.integers(1, 20))
        match draw(st.sampled_from(["cut", "lose", "double", "put", "end"])):
            case "cut":
                del data[place : place + length]
            case "lose":
                data[place : place + 1] = b""
            case "double":
                data[place:place] = data[place : place + length]
            case "put":
                data[place:place] = draw(
                    st.sampled_from(
                        [b'"', b"\0", b"\n", b"\r", b",", b"\xff", b"\\", b"{", b"]", b"\xef\xbb\xbf", b"NaN"]
                    )
                )
            case "end":
                del data[place:]
    packed = draw(st.sampled_from(["no", "no", "no", "gzip", "name only", "cut"]))
    raw, ending = bytes(data), file.ending
    if packed in ("gzip", "cut"):
        raw, ending = gzip.compress(raw, mtime=0), f"{ending}.gz"
        raw = raw[:-9] if packed == "cut" else raw
    elif packed == "name only":
        ending = f"{ending}.gz"
    return File(ending, raw, None)


@st.composite
def readable(draw) -> File:
    """A file whose texts are beyond doubt: the reader must return exactly these."""
    ordinary = st.sampled_from([text for text in TEXTS if len(text.split()) > 3])
    chosen = draw(st.lists(ordinary, min_size=4, max_size=8))
    # (A carriage return at a line's end is the writer's; a NUL is no text; ends are stripped.)
    inner = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\r\0"), min_size=1, max_size=30)
    chosen += draw(st.lists(inner, max_size=4))
    chosen = [text for text in chosen if text.strip()]
    kept = [text.strip() for text in chosen]
    match draw(st.sampled_from(["csv", "jsonl", "json", "txt", "tsv"])):
        case "csv":
            file = io.StringIO()
            quoting = draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
            writer = csv.writer(file, delimiter=draw(st.sampled_from(",;\t|")), quoting=quoting, lineterminator="\n")
            writer.writerows([["text", "label"], *([text, "good"] for text in chosen)])
            encoding = draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
            return File(".csv", file.getvalue().encode(encoding), kept)
        case "tsv":
            chosen = [re.sub(r'["\t\n]', " ", text) for text in chosen]
            data = "text\tlabel\n" + "".join(f"{text}\tgood\n" for text in chosen)
            return File(".tsv", data.encode(), [text.strip() for text in chosen])
        case "jsonl":
            data = "".join(json.dumps({"text": text, "label": "good"}) + "\n" for text in chosen)
            return File(".jsonl", data.encode(), kept)
        case "json":
            data = json.dumps([{"text": text} for text in chosen], indent=draw(st.sampled_from([None, 2])))
            return File(".json", data.encode(), kept)
    chosen = [text for text in chosen if "\n" not in text]
    return File(".txt", ("\n".join(chosen) + "\n").encode(), [text.strip() for text in chosen])
