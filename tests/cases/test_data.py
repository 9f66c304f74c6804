"""Section C of the cases from the field: data are read as people write them, or the line says what a person sees."""

import csv
import io
import json
import random
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tiny
from ladle.conditioning.config import ConditionConfig
from ladle.data.columns import Columns
from ladle.data.labels import own_label, spell_label
from ladle.data.rows import read_rows
from ladle.data.splits import DataConfig, load_splits
from ladle.evaluation.evaluate import evaluate
from ladle.evaluation.judge import fit_judge
from ladle.pipeline import LatentDiffusion
from ladle.sampling.request import Request
from ladle.storage.model_folder import load_parts, save_parts
from row_files import message_of, put, put_rows

RNG = random.Random(1)
THINGS = ["The food", "The staff", "Our waiter", "The room", "This place", "The soup", "My order", "The bar"]
ENDS = {"positive": ["was great", "is lovely", "was quick"], "negative": ["was awful", "is dirty", "was cold"]}


def _text(label: str) -> str:
    thing, end, day = (
        RNG.choice(THINGS),
        RNG.choice(ENDS[label]),
        RNG.choice(["soon", "again", "on Monday", "next year"]),
    )
    return f"{thing} {end}, and we will tell {RNG.randrange(99)} friends {day}."


ROWS = [(_text(label), label) for label in RNG.choices(["positive", "negative"], k=300)]
TEXTS = [text for text, _ in ROWS]
LABELLED = [{"text": text, "label": label} for text, label in ROWS]


def table(path: Path, header: list[str] | None, rows: list[Any], **options: Any) -> Path:
    out = io.StringIO()
    writer = csv.writer(out, **options)
    writer.writerows([header, *rows] if header else rows)
    return put(path, out.getvalue())


def read(path: Any, columns: Columns | None = None, **options: Any) -> tuple[list[Any], list[str], list[str]]:
    """Rows, what was taken, notes; the file's name stands for its path."""
    taken: list[str] = []
    notes: list[str] = []
    rows = read_rows(path, columns, taken=taken, notes=notes, **options)
    return rows, *([line.replace(f"{Path(str(path)).parent}/", "") for line in lines] for lines in (taken, notes))


SIZES = [
    "training.steps=4", "autoencoder.max_tokens=24", "autoencoder.backbone.vocab_size=320",
    "autoencoder.backbone.width=32", "autoencoder.bottleneck.latent_dim=16", "diffusion.denoiser.width=32",
    "diffusion.denoiser.num_layers=2", "sampling.num_inference_steps=2",
]  # fmt: skip


def train_words(data: object, output: object, *more: object) -> list[object]:
    return [
        "train",
        "--data",
        data,
        "-o",
        output,
        "--from-scratch",
        *more,
        *(w for size in SIZES for w in ("--set", size)),
    ]


# ------------------------------------------------------------------------------------------ the same column options


def test_case_named_columns_are_found_by_every_command(run, tmp_path: Path):
    """Case C: `named.csv`: `train --text review --label stars`, then `evaluate --reference`, `fit judge`,
    `reconstruct`, `sample --source` on it. Every command has the same options; the model's own names are tried first.

    (`remark` is as long as `review`, so that only the names of the training tell which of them is the text.)
    """
    rows = [(f"Aside: {text}", text, 5 if label == "positive" else 1) for text, label in ROWS[:60]]
    data = table(tmp_path / "named.csv", ["remark", "review", "stars"], rows)
    folder = tmp_path / "run"
    code, out, err = run(*train_words(data, folder, "--text", "review", "--label", "stars"))
    assert code == 0, err
    first = [line.split("  ")[-1] for line in err.splitlines()[:2]]
    assert (
        f"text is column 'review': '{rows[0][1][:30]}" in first[0] and "label is column 'stars': 2 labels: " in first[1]
    )
    model = folder / "final"
    assert load_parts(model).info["columns"] == {"text": "review", "label": "stars"}

    code, out, err = run("reconstruct", data, "--model", model)
    assert code == 0, err
    assert [json.loads(line)["text"] for line in out.splitlines()] == [text for _, text, _ in rows]
    code, out, err = run("reconstruct", data, "--model", model, "--text", "remark")
    assert code == 0 and json.loads(out.splitlines()[0])["text"] == rows[0][0]
    code, out, err = run("inspect", "--model", model, "--health", "--data", data, "--minutes", 0)
    assert code == 0 and "text is column 'review'" in err, err

    samples = put_rows(tmp_path / "samples.jsonl", [{"text": text, "label": "5"} for _, text, _ in rows[:9]])
    code, out, err = run("evaluate", samples, "--reference", data, "--model", model)
    assert code == 0 and "text is column 'review'" in err and "label is column 'stars'" in err, err
    code, out, err = run("evaluate", samples, "--reference", data, "--text", "review", "--label", "stars")
    assert code == 0, err
    code, out, err = run("evaluate", samples, "--reference", data)  # nothing says which of the two
    assert code == 2 and "name it with --text COLUMN" in err and "review (" in err and "data.text" not in err
    code, out, err = run("fit", "judge", "--data", data, "--text", "review", "-o", tmp_path / "judge")
    assert code == 2 and "--label stars would use its 2 values" in err
    code, out, err = run(
        "fit", "judge", "--data", data, "--text", "review", "--label", "stars", "-o", tmp_path / "judge"
    )
    assert code == 0 and "label is column 'stars'" in err, err


def test_case_named_source_column_of_sample(run, tmp_path: Path):
    """Case C: `sample --source` on `named.csv`: its options are `--source-column` and `--label-column`."""
    parts = tiny.tiny_parts()
    parts.info["columns"] = {"text": "answer", "source": "facts", "label": "mood"}
    save_parts(parts, tmp_path / "model")
    rows = [{"facts": "the cat", "more": "the red fox", "mood": "good", "kind": "bad"}]
    data = put_rows(tmp_path / "named.jsonl", rows)
    words = ("sample", "--model", tmp_path / "model", "--source", data)
    code, out, err = run(*words)
    assert code == 0 and (json.loads(out)["source"], json.loads(out)["label"]) == ("the cat", "good"), err
    code, out, err = run(*words, "--source-column", "more", "--label-column", "kind")
    assert code == 0 and (json.loads(out)["source"], json.loads(out)["label"]) == ("the red fox", "bad"), err
    code, out, err = run(*words, "--label-column", "")
    assert code == 0 and "label" not in json.loads(out)
    other = put_rows(tmp_path / "other.jsonl", [{"one": "the cat", "two": "the owl"}])
    code, out, err = run("sample", "--model", tmp_path / "model", "--source", other)
    assert code == 2 and "name it with --source-column COLUMN" in err
    code, out, err = run("sample", "--model", tmp_path / "model", "--source-column", "more")
    assert code == 2 and "give it with --source FILE" in err


@pytest.mark.parametrize("verb", ["train", "evaluate", "fit scorer", "fit judge", "reconstruct", "inspect"])
def test_every_command_that_reads_rows_has_the_same_column_options(run, verb: str):
    code, out, _ = run(*verb.split(), "--help")
    assert code == 0 and all(f" --{name} " in out for name in ("text", "label", "source", "references"))


# ---------------------------------------------------------------------------------------------------- what was taken


def test_case_unknown_column_is_said_with_three_values(tmp_path: Path):
    """Case C: `unknown_column.csv`, `text.unknown`, `one_label.csv`: first what was taken for text, label, source, with
    three values."""
    rows, taken, _ = read(table(tmp_path / "a.csv", ["id", "comment_body"], list(enumerate(TEXTS))))
    assert [row["text"] for row in rows] == TEXTS
    assert taken[0].startswith(f"a.csv: text is column 'comment_body': '{TEXTS[0][:37]}...', '")
    assert taken[0].count("...'") == 3 and taken[1] == "a.csv: no labels"
    rows, taken, _ = read(put(tmp_path / "text.unknown", "\n".join(TEXTS)))
    assert [row["text"] for row in rows] == TEXTS
    assert taken[0] == "text.unknown: read as plain text, one text a line"
    assert taken[1].startswith(f"text.unknown: text is one a line: '{TEXTS[0][:37]}")


def test_case_one_label_for_all_is_said(tmp_path: Path):
    """Case C: `one_label.csv`: one label for all is said."""
    path = table(tmp_path / "a.csv", ["text", "label"], [(text, "positive") for text in TEXTS])
    _, taken, notes = read(path)
    said = "1 label: positive (300 rows); all rows have the same label, so the model learns nothing from it"
    assert (taken[1], notes) == (f"a.csv: label is column 'label': {said}", [])


def test_case_singleton_label_is_named(tmp_path: Path):
    """Case C: `singleton_label.csv`: says that "mixed" has one row."""
    _, taken, notes = read(table(tmp_path / "a.csv", ["text", "label"], [*ROWS, ("The spa was closed.", "mixed")]))
    assert "mixed (1 row)" in taken[1]
    assert notes == ["a.csv: labels with one row, from which they can hardly be learnt: 'mixed'"]


def test_what_was_taken_comes_before_any_work(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Where the plan is already refused, the account of the data has been given."""
    rows = [(text, number) for number, text in enumerate(TEXTS)]
    data = table(tmp_path / "a.csv", ["text", "label"], rows)
    code, _, err = run(*train_words(data, tmp_path / "run"))
    lines = err.splitlines()
    assert code == 2 and "text is column 'text'" in lines[0] and re.search(r"has \d+ different values", lines[-1])
    assert '--label ""' in lines[-1]


def test_columns_that_could_be_labels_are_offered(tmp_path: Path):
    rows = [("Visit", text, label, n % 3, n) for n, (text, label) in enumerate(ROWS)]
    path = table(tmp_path / "a.csv", ["title", "review", "mood", "star rating", "id"], rows)
    _, taken, _ = read(path)
    assert taken[0].startswith("a.csv: text is column 'review'")
    offers = (
        "--label mood would use its 2 values ('positive', 'negative'); --label 'star rating' would use its 3 values"
    )
    offers = offers.replace(
        "'positive', 'negative'", ", ".join(f"'{x}'" for x in dict.fromkeys(lab for _, lab in ROWS))
    )
    assert taken[1].startswith(f"a.csv: no labels; {offers}")


def test_the_parts_of_a_folder_are_read_alike(tmp_path: Path):
    """A short last part must not be read otherwise than the first, which showed that `source` holds sites."""
    rows = [{"text": text, "source": f"site{n % 3}.example"} for n, text in enumerate(TEXTS)]
    for number, part in enumerate((rows[:200], rows[200:290], rows[290:])):
        put_rows(tmp_path / "data" / f"train-{number}.jsonl", part)
    put_rows(tmp_path / "data" / "valid.jsonl", rows[:5])
    splits = load_splits(DataConfig(path=str(tmp_path / "data")))
    assert not any("source" in row for row in (*splits.train, *splits.valid))
    assert "train-0.jsonl and 2 more files: text is column 'text'" in splits.taken[0]
    assert sum("not taken for the source" in note for note in splits.notes) == 1


# ------------------------------------------------------------------------------- a name counts only if contents fit


def test_case_numbers_in_target(tmp_path: Path):
    """Case C: `numbers_in_target.csv` (`target` a score, prose in `comment_text`): not trained on "0.003"."""
    rows = [(n, f"{RNG.random():.3f}", text) for n, text in enumerate(TEXTS)]
    path = table(tmp_path / "a.csv", ["id", "target", "comment_text"], rows)
    found, taken, notes = read(path)
    assert [row["text"] for row in found] == TEXTS and "text is column 'comment_text'" in taken[0]
    assert f"the column 'target' is not taken for the text: it holds '{rows[0][1]}'" in notes[0]
    assert notes[0].endswith("to take it: --text target")
    assert read(path, Columns(text="target"))[0][0]["text"] == rows[0][1]  # a column that is named is taken
    path = table(tmp_path / "b.csv", ["id", "target"], [row[:2] for row in rows])
    assert "none of its columns is clearly the text" in message_of(read_rows, path)


def test_case_site_in_source(tmp_path: Path):
    """Case C: `site_in_source.csv`: a third of the rows was held out as one source."""
    rows = [(text, f"{RNG.choice(['one', 'two', 'three'])}.example") for text in TEXTS]
    path = table(tmp_path / "a.csv", ["text", "source"], rows)
    splits = load_splits(DataConfig(path=str(path)))
    assert len(splits.valid) == 15 and not any("source" in row for row in splits.train)
    assert any("(3 different values), which are names" in n and n.endswith("--source source") for n in splits.notes)
    forced = load_splits(DataConfig(path=str(path), source="source"))
    assert all("source" in row for row in forced.train)
    numbers = table(tmp_path / "b.csv", ["text", "source"], [(text, n) for n, text in enumerate(TEXTS)])
    assert "source" not in read(numbers)[0][0]


def test_case_numbers_in_references(tmp_path: Path):
    """Case C: `numbers_in_references.jsonl`: was refused with no way round; any column can be left out."""
    path = put_rows(tmp_path / "a.jsonl", [{"text": text, "references": 12} for text in TEXTS])
    rows, _, notes = read(path)
    assert rows == [{"text": text} for text in TEXTS]
    assert "the column 'references' is not taken for the references: it holds '12'" in notes[0]
    good = put_rows(
        tmp_path / "b.jsonl", [{"text": "a", "label": "x", "source": "b", "references": ["c"], "more": ["d"]}]
    )
    assert read(good, Columns(label="", source="", references=""))[0] == [{"text": "a"}]
    assert read(good, Columns(references="more"))[0][0]["references"] == ["d"]
    late = put_rows(tmp_path / "c.jsonl", [{"text": "a"}] * 1000 + [{"text": "a", "references": 5}])
    assert message_of(read_rows, late).endswith('to leave it out: --references ""')


def test_a_column_named_twice_is_refused(run, tmp_path: Path):
    path = table(tmp_path / "base.csv", ["text", "label"], ROWS)
    message = message_of(read_rows, path, Columns(text="text", label="text"))
    assert message.startswith("the column 'text' is named as text and as label") or "as label and as text" in message
    code, _, err = run(*train_words(path, tmp_path / "run", "--text", "text", "--label", "text"))
    assert code == 2 and "the column 'text' is named as" in err and not (tmp_path / "run").exists()


@pytest.mark.parametrize("script", ["如何解决问题{}呢这样可以", "ทำอย่างไรให้ได้ดี{}", "как решить вопрос номер {} скоро"])
def test_words_of_every_script_count(tmp_path: Path, script: str):
    """The column of texts is found where words have no spaces between them."""
    rows = [{"id": f"x{n}", "body": script.format(n)} for n in range(30)]
    assert read(put_rows(tmp_path / "a.jsonl", rows))[0][3]["text"] == script.format(3)


# ---------------------------------------------------------------------------------------- tables as people have them


def test_case_label_first_no_header(tmp_path: Path):
    """Case C: `label_first_no_header.csv` (the form of the public AG News and Yelp files): read, and said."""
    lines = [f'{n % 2},"{text}"\n' for n, text in enumerate(TEXTS)]
    rows, taken, _ = read(put(tmp_path / "a.csv", "".join(lines)))
    assert rows == [{"text": text, "label": str(n % 2)} for n, text in enumerate(TEXTS)]
    assert taken[0] == "a.csv: it has no header, so the columns are numbered"
    assert taken[2] == "a.csv: label is column '1': 2 labels: 0 (150 rows), 1 (150 rows)"


def test_headless_forms_of_public_sets(tmp_path: Path):
    """AG News: class, title, description. Yelp: quoted numbers. Words for labels; tabs; the user's own choice."""
    for name, rows, text, options in (
        ("ag.csv", [(n % 4 + 1, f"Title {n}", f"{t} {t}") for n, t in enumerate(TEXTS)], 2, {"quoting": csv.QUOTE_ALL}),
        ("yelp.csv", [(n % 5 + 1, t) for n, t in enumerate(TEXTS)], 1, {"quoting": csv.QUOTE_ALL}),
        ("words.csv", [(label, t) for t, label in ROWS], 1, {}),
        ("tabs.tsv", [(t, label) for t, label in ROWS], 0, {"delimiter": "\t"}),
    ):
        found, _, _ = read(table(tmp_path / name, None, rows, **options))
        assert [row["text"] for row in found] == [row[text] for row in rows], name
        assert [row["label"] for row in found] == [str(row[0 if text else 1]) for row in rows], name
        if name == "ag.csv":
            own = read(tmp_path / name, Columns(text="2", label=""))[0]
            assert own == [{"text": row[1]} for row in rows]
    pairs = table(tmp_path / "pairs.csv", None, [(t, t.upper()) for t in TEXTS])  # two columns of texts: which?
    assert "it has no header, so the columns are numbered): 1 (" in message_of(read_rows, pairs)


@pytest.mark.parametrize(
    "header", [["Timestamp", "How was your stay with us?"], ["", "review"], ["nr", "body of text"]]
)
def test_headers_of_many_kinds_are_headers(tmp_path: Path, header: list[str]):
    """A question of a form, pandas' nameless index."""
    path = table(tmp_path / "a.csv", header, list(enumerate(TEXTS)))
    assert read(path)[0] == [{"text": text} for text in TEXTS]


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
def test_delimiters_are_found_by_all_rows(tmp_path: Path, mark: str):
    """Commas in the header of a table with semicolons; commas in its texts."""
    rows = [(f"Well, {text}", label) for text, label in ROWS]
    path = table(tmp_path / "a.csv", ["the text, or so", "label"], rows, delimiter=mark)
    assert read(path)[0] == [{"text": text, "label": label} for text, label in rows]


@pytest.mark.parametrize("name", ["a.csv", "a", "a.tsv"])
@pytest.mark.parametrize("line", ["sep={}", '"sep={}"', "\n sep={}"])
def test_excels_line_that_names_the_delimiter_is_no_row(tmp_path: Path, name: str, line: str):
    """Errors still name the right line. In plain text it is a text."""
    mark = "\t" if name == "a.tsv" else ";"
    start = line.format(mark) + f"\r\ntext{mark}label\r\n"
    assert read(put(tmp_path / name, start + "".join(f"{t}{mark}{x}\r\n" for t, x in ROWS)))[0] == LABELLED
    bad = put(tmp_path / name, f"{start}a{mark}b\r\nc\r\n")
    assert f":{5 if line[0] == chr(10) else 4}: 1 cells" in message_of(read_rows, bad)
    assert message_of(read_rows, put(tmp_path / name, line.format(mark))).endswith("is empty")
    assert read(put(tmp_path / "a.txt", "sep=;\nA text.\n"))[0] == [{"text": "sep=;"}, {"text": "A text."}]


@pytest.mark.parametrize("codec", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_excels_encodings_are_read(tmp_path: Path, codec: str):
    """`Unicode text` is UTF-16 with tabs."""
    content = "text\tlabel\r\n" + "".join(f"Café {text} 😀\t{label}\r\n" for text, label in ROWS)
    mark = "\ufeff" if codec in ("utf-16-le", "utf-16-be") else ""
    for name in ("a.csv", "a.tsv", "a.csv.gz"):
        rows = read(put(tmp_path / name, (mark + content).encode(codec)))[0]
        assert rows[0] == {"text": f"Café {TEXTS[0]} 😀", "label": ROWS[0][1]} and len(rows) == 300


def test_case_a_title_above_the_header_is_no_header(tmp_path: Path):
    """Case C, of the same kind as `label_first_no_header.csv`: spreadsheets often have a title in the first cell."""
    rows = "".join(f'"{text}",{label}\n' for text, label in ROWS)
    found, taken, _ = read(put(tmp_path / "a.csv", f"Customer feedback 2024,\ntext,label\n{rows}"))
    assert [(row["text"], row["label"]) for row in found] == ROWS
    assert taken[0] == "a.csv: the first line is a title"


def test_case_backslash_escapes(tmp_path: Path):
    """Case C: `backslash_escapes.csv`: "',' expected after '"'"."""
    said = [f'{text} He said "no", twice. C:\\dir' for text in TEXTS]
    lines = [
        '"{}",{}\n'.format(text.replace("\\", "\\\\").replace('"', '\\"'), label)
        for text, (_, label) in zip(said, ROWS, strict=True)
    ]
    rows, taken, _ = read(put(tmp_path / "a.csv", "text,label\n" + "".join(lines)))
    assert [row["text"] for row in rows] == said and rows[0]["label"] == ROWS[0][1]
    assert taken[0] == 'a.csv: quotes in cells are written \\"'


def test_case_blank_before_quote(tmp_path: Path):
    """Case C: `blank_before_quote.csv`."""
    content = "label, text\n" + "".join(f'{label}, "{text}"\n' for text, label in ROWS)
    assert read(put(tmp_path / "a.csv", content))[0] == [{"text": text, "label": label} for text, label in ROWS]


def test_old_mac_line_ends_and_a_column_without_quotes(tmp_path: Path):
    path = put(tmp_path / "mac.csv", "text;label\r" + "".join(f"{text};{label}\r" for text, label in ROWS))
    assert read(path)[0] == LABELLED
    path = put(tmp_path / "one.csv", "text\n" + "".join(f"{text}\n" for text in [*TEXTS, "No comma here."]))
    assert [row["text"] for row in read(path)[0]] == [*TEXTS, "No comma here."]


def test_case_nul_is_named_with_its_line(tmp_path: Path):
    """Case C: `nul.txt`: "wrong reason"."""
    content = "".join(text + "\0" * (n == 40) + "\n" for n, text in enumerate(TEXTS))
    message = message_of(read_rows, put(tmp_path / "nul.txt", content))
    assert message.startswith(f"{tmp_path}/nul.txt:41: a NUL character (\\0)") and TEXTS[40][-20:] in message
    message = message_of(read_rows, put(tmp_path / "nul.csv", "text,label\na text,x\n\0\0\0\n"))
    assert ":3: a NUL character" in message and "iconv" not in message  # converting it would not help
    spelled = put(tmp_path / "a.jsonl", '{"text": "a"}\n{"text": "b\\u0000c"}\n')  # (a sample of a model may hold it)
    assert read(spelled)[0][1]["text"] == "b\0c"


def test_case_a_line_in_another_encoding_is_not_a_reason_to_convert_all(tmp_path: Path):
    """Case C, of the same kind as `nul.txt`: the remedy must fit. Lines in UTF-8 would be garbled by iconv."""
    lines = [b"text\n", "Café au lait\n".encode(), "Café noir\n".encode("cp1252")]
    message = message_of(read_rows, put(tmp_path / "a.csv", b"".join(lines)))
    assert ":3: the lines before are UTF-8, this one is not" in message and "iconv" not in message
    message = message_of(read_rows, put(tmp_path / "b.csv", b"".join([lines[0], lines[2]])))
    assert ":2: not UTF-8 text; save it as UTF-8" in message


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("not_really.xlsx", b"The food was great.\n", 'a spreadsheet, which is not read; save it as "CSV UTF-8"'),
        ("real.xlsx", b"PK\x03\x04\x14\0", "a spreadsheet, which is not read"),
        ("named_wrong.csv", b"PK\x03\x04\x14\0\x06\0", "a spreadsheet, a document or an archive"),
        ("old.csv", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "a spreadsheet, a document or an archive"),
        ("sheet.ods", b"", "a spreadsheet, which is not read"),
        ("report.docx", b"PK\x03\x04", "a text document, which is not read; save it as plain text"),
        ("report.txt", b"%PDF-1.7\n", "a text document"),
        ("rows.zip", b"PK\x03\x04", "packed or a database, which is not read; unpack"),
        ("rows", b"\xfd7zXZ\0", "packed or a database"),
    ],
)
def test_case_not_really_xlsx(tmp_path: Path, name: str, content: bytes, says: str):
    """Case C: `not_really.xlsx`: trained on; refused in words that a spreadsheet user understands."""
    assert message_of(read_rows, put(tmp_path / name, content)).startswith(f"{tmp_path}/{name} is {says}")


def test_what_a_person_sees_in_a_broken_table(tmp_path: Path):
    """The line where the fault begins, and no word of the csv module."""
    rows = "".join(f'"{text}",{label}\n' for text, label in ROWS)
    for content, says in (
        (
            f'text,label\n{rows}"Never closed,positive\n{rows}',
            r":302: malformed CSV \(a quote that opens in line 302 is closed in line 303,",
        ),
        (
            f'text,label\n{rows}"Never closed,positive\n',
            r":302: malformed CSV \(the quote that opens in line 302 is never",
        ),
        (f'text,label\n{rows}"Goes" on,positive\n', r":302: malformed CSV \(a cell goes on after its closing quote"),
        (f"text,label\n{rows}one cell\n", r":302: 1 cells, but the first line names 2 columns; a cell that holds"),
    ):
        assert re.search(says, message_of(read_rows, put(tmp_path / "a.csv", content)))
    latin = "text\n" + "Plain.\n" * 5 + "Un café noir.\n"
    message = message_of(read_rows, put(tmp_path / "latin.csv", latin.encode("cp1252")))
    assert ":7: not UTF-8 text" in message and 'save it as "CSV UTF-8"' in message and "comes after 'Un caf'" in message


# ------------------------------------------------------------------------------------------- JSON as people have it

PANDAS = {name: {str(n): row[name] for n, row in enumerate(LABELLED)} for name in ("text", "label")}
JSON_FORMS = {
    "pretty": json.dumps(LABELLED, indent=2),
    "list inside": json.dumps({"version": 1, "data": LABELLED}),
    "list inside, pretty": json.dumps({"schema": {"fields": []}, "data": LABELLED}, indent=1),
    "columns": json.dumps({name: [row[name] for row in LABELLED] for name in ("text", "label")}),
    "pandas columns": json.dumps(PANDAS),
    "pandas index": json.dumps({str(n): row for n, row in enumerate(LABELLED)}),
    "pandas split": json.dumps({"columns": ["text", "label"], "index": list(range(300)), "data": ROWS}),
    "one line each": "\n".join(map(json.dumps, LABELLED)),
    "pretty objects in turn": "\n".join(json.dumps(row, indent=4) for row in LABELLED),
    "an array on one line": "\n\n" + json.dumps(LABELLED),
}


@pytest.mark.parametrize("form", JSON_FORMS)
@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a", "a.json.gz"])
def test_case_pretty_list_inside_and_columns_json(tmp_path: Path, form: str, name: str):
    """Case C: `pretty.json`, `list_inside.json`, `columns.json`: "not JSON"; read."""
    assert read(put(tmp_path / name, JSON_FORMS[form]))[0] == LABELLED


def test_json_rows_that_look_like_forms_are_rows(tmp_path: Path):
    """One row is one row: with a list, with an object, with both."""
    row = {"source": "a b", "text": "c d", "references": ["e", "f"]}
    assert read(put_rows(tmp_path / "a.jsonl", [row]))[0] == [row]
    pair = {"translation": {"de": "ein Satz", "en": "a sentence"}}
    path = put_rows(tmp_path / "b.jsonl", [pair])
    assert read(path, Columns(text="translation.de"))[0] == [{"text": "ein Satz"}]
    assert read(put(tmp_path / "c.json", json.dumps(TEXTS)))[0] == [{"text": text} for text in TEXTS]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('[{"text": "a"},\n{"text": "b",}]', ":2: not JSON"),
        ("[{'text': 'a'}]", ":1: not JSON"),
        ('{"train": [{"text": "a"}], "test": [{"text": "b"}]}', ":1: several lists of rows, train, test"),
        ('{"text": "a"}\n{"text": \n', ":2: not JSON"),
        ("{\n", ":2: not JSON"),
        ('{\n "text": "a"\n}\n{\n "text": oops\n}\n', ":5: not JSON"),
        ("5", ":1: a JSON number, not an object"),
        ("[1, 2]", ": row 1: a JSON number"),
    ],
)
def test_other_json_is_refused_with_file_and_line(tmp_path: Path, content: str, says: str):
    assert message_of(read_rows, put(tmp_path / "a.json", content)).startswith(f"{tmp_path}/a.json{says}")


# ----------------------------------------------------------------------------------------------- spelling of labels


@pytest.mark.parametrize(
    ("values", "label"),
    [
        ([True, "True", "true", "TRUE", np.bool_(True), " true "], "true"),
        ([1, 1.0, "1", "1.0", "1.00", np.int64(1), np.float32(1)], "1"),
        ([0, 0.0, "0", "-0.0", np.int8(0)], "0"),
        ([-2, "-2.0"], "-2"),
        ([0.5, "0.5"], "0.5"),
        (["sport  and games", " sport and\tgames\n"], "sport and games"),
        (["-"], "-"),
        (["01"], "01"),
        (["1.0.0"], "1.0.0"),
        ([None, "", " ", "NaN", "nan", "NA", "N/A", "None", "null", float("nan"), np.nan], None),
    ],
)
def test_labels_have_one_spelling(values: list[Any], label: str | None):
    assert {spell_label(value) for value in values} == {label}
    if label is not None:
        assert {own_label(value, ["other", label]) for value in values} == {label} == {spell_label(label)}


def test_case_true_false_float_and_missing_labels(tmp_path: Path):
    """Case C: `true_false.jsonl`, `float_labels.csv`, `missing_labels.csv`: trained as `true`, refused as `True`; 1 and
    1.0 two classes; `nan` a class. One spelling everywhere; missing is missing, counted."""
    path = put_rows(tmp_path / "a.jsonl", [{"text": text, "label": label == "positive"} for text, label in ROWS])
    assert {row["label"] for row in read(path)[0]} == {"true", "false"}
    config = ConditionConfig(labels=("false", "true"))
    for asked in (True, "True", np.bool_(True), "true"):
        request = Request.line_up(2, label=asked, known=config)
        assert request.labels == ["true", "true"] and config.label_ids(request.labels).tolist() == [1, 1]
    path = table(
        tmp_path / "b.csv", ["text", "label"], [(text, ["0", "1", "1.0"][n % 3]) for n, text in enumerate(TEXTS)]
    )
    assert "2 labels: 1 (200 rows), 0 (100 rows)" in read(path)[1][1]
    words = ["NaN", "NA", "None", "nan", ""]
    rows = [(text, [label, *words][n % 6]) for n, (text, label) in enumerate(ROWS)]
    found, taken, notes = read(table(tmp_path / "c.csv", ["text", "label"], rows))
    assert len(found) == 300 and sum("label" in row for row in found) == 50 and "2 labels" in taken[1]
    assert notes == ["c.csv: 250 of 300 rows have no label ('NaN', 'NA', 'None', 'nan'); they count as unlabelled"]


def test_case_odd_labels(run, tmp_path: Path):
    """Case C: `odd_labels.csv`: `sample --label -`, `--label "sport  and games"`; `label=0` in Python for classes 0 and
    1."""
    labels = ("-", "0", "1", "news, world", "sport and games", "true")
    parts = tiny.tiny_parts()
    parts.diffusion = tiny.tiny_diffusion(parts.autoencoder, labels=labels)
    save_parts(parts, tmp_path / "model")
    for asked, label in (("-", "-"), ("sport  and games", "sport and games"), ("1.0", "1"), ("True", "true")):
        code, out, err = run(
            "sample", "--model", tmp_path / "model", "--label", asked, "--label", "news, world", "-n", 2
        )
        assert code == 0 and [json.loads(line)["label"] for line in out.splitlines()] == [label, "news, world"], err
    model = LatentDiffusion(parts)
    expected = model.generate(seeds=[3], label="0")
    for same in (0, 0.0, np.int64(0), [0], [np.float32(0)], np.array([0]), ["0.0"]):
        assert model.generate(seeds=[3], label=same) == expected
    code, _, err = run("sample", "--model", tmp_path / "model", "--label", "nwes, world")
    assert code == 2 and "unknown label 'nwes, world': did you mean 'news, world'?" in err


def test_labels_of_earlier_models_and_judges_are_still_found(tmp_path: Path):
    """They were stored as `True` and `1.0`, and with two spaces."""
    known = ("1.0", "True", "a  b")
    assert Request.line_up(label=[1, "True", True, "a b", None], known=ConditionConfig(labels=known)).labels == [
        "1.0",
        "True",
        "True",
        "a  b",
        None,
    ]
    assert own_label("nan", ("nan", "x")) == "nan" and own_label("nan", ("x",)) == "nan"  # (the error names it)
    rows = [{"text": text, "label": label == "positive"} for text, label in ROWS]
    judge = fit_judge(rows, tmp_path / "judge")
    judge.labels = ("False", "True")
    assert judge.accuracy(TEXTS[:20], [str(row["label"]).lower() for row in rows[:20]])["value"] > 0.8


# ---------------------------------------------------------------------------------------- reference = training rows


def test_case_evaluate_reference_and_train_are_one_file(run, tmp_path: Path):
    """Case C: `evaluate --reference F --train F` (README's own command): copies 1.0, memorisation 1.0, no word."""
    data = table(tmp_path / "base.csv", ["text", "label"], ROWS)
    (tmp_path / "link.csv").symlink_to(data)
    held_out = [row["text"] for row in load_splits(DataConfig(path=str(data))).valid]
    samples = put_rows(tmp_path / "samples.jsonl", [{"text": text} for text in held_out])
    code, out, err = run("evaluate", samples, "--reference", data, "--train", tmp_path / "link.csv")
    assert code == 0, err
    said = "reference and training rows are the same file: the 15 rows that training holds out of it are the reference"
    assert said in " ".join(out.split())
    report = evaluate(samples, reference=data, train=data)
    assert report["rows"]["reference"]["copies"]["value"] == 0 == report["rows"]["samples"]["copies"]["value"]
    assert report["files"]["train"]["rows"] == 285 and report["files"]["reference"]["texts"] == 15
    same = evaluate(samples, reference=LABELLED, train=LABELLED)  # (one object)
    assert same["rows"] == report["rows"]


def test_a_reference_that_overlaps_the_training_rows_is_told(tmp_path: Path):
    data = put_rows(tmp_path / "train.jsonl", LABELLED)
    copy = shutil.copy(data, tmp_path / "copy.jsonl")
    report = evaluate(TEXTS[:30], reference=copy, train=data)
    assert any("100% of the reference texts are training texts too" in warning for warning in report["warnings"])
    report = evaluate(TEXTS[:30], reference=[f"{n} new" for n in range(30)], train=data)
    assert not any("training texts too" in warning for warning in report["warnings"])


# ------------------------------------------------------------------------------------------------- texts come through

CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), max_size=30)
PROSE = CELLS.map(lambda text: f"so {text}".strip())
DIALECTS: dict[str, dict[str, Any]] = {
    "excel": {},
    "all quoted": {"quoting": csv.QUOTE_ALL},
    "semicolons": {"delimiter": ";"},
    "bars": {"delimiter": "|"},
    "tabs": {"delimiter": "\t"},
    "unix": {"lineterminator": "\n"},
    "backslash": {"doublequote": False, "escapechar": "\\", "quoting": csv.QUOTE_ALL},
}


@pytest.mark.parametrize("dialect", DIALECTS)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(PROSE, min_size=3, max_size=8), data=st.data())
def test_texts_of_every_dialect_come_through(tmp_path: Path, dialect: str, texts: list[str], data: st.DataObject):
    """Line breaks, quotes, delimiters, any script: what csv wrote is read, as .csv and (for tabs) .tsv."""
    texts = [*texts, 'so "quoted"'] if dialect == "backslash" else texts  # else nothing tells what a backslash means
    rows = [(text, data.draw(st.sampled_from(["a", "b c", "d,e"]))) for text in texts]
    expected = [{"text": text, "label": label} for text, label in rows]
    name = "a.tsv" if dialect == "tabs" and data.draw(st.booleans()) else "a.csv"
    assert read_rows(table(tmp_path / name, ["text", "label"], rows, **DIALECTS[dialect])) == expected


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(PROSE, min_size=1, max_size=6), indent=st.sampled_from([None, 2]), ascii_only=st.booleans())
def test_texts_of_every_json_form_come_through(tmp_path: Path, texts: list[str], indent: int | None, ascii_only: bool):
    rows = [{"text": text, "n": n} for n, text in enumerate(texts)]
    columns = {name: [row[name] for row in rows] for name in ("text", "n")}
    pandas = {name: {str(n): row[name] for n, row in enumerate(rows)} for name in ("text", "n")}
    for form in (rows, {"data": rows}, columns, pandas):
        path = put(tmp_path / "a.json", json.dumps(form, indent=indent, ensure_ascii=ascii_only))
        assert [row["text"] for row in read_rows(path)] == texts
    lines = put(
        tmp_path / "a.jsonl", "".join(json.dumps(row, indent=indent, ensure_ascii=ascii_only) + "\n" for row in rows)
    )
    assert [row["text"] for row in read_rows(lines)] == texts


def test_what_pandas_writes_comes_through(tmp_path: Path):
    pandas = pytest.importorskip("pandas", reason="pandas, to write the files with, is not installed")
    texts = ['Say "no".', "Two\n\nparagraphs, yes.", "a;b\tc|d", "Привет, мир 😀", " \\ back\\slash \\n", "'single'"]
    frame = pandas.DataFrame({"text": texts * 5, "label": [1.0, 0.0, None, 1.0, 0.0, 1.0] * 5})
    expected = [text.strip() for text in frame["text"]]
    for name, write in {
        "a.csv": lambda path: frame.to_csv(path),
        "b.csv": lambda path: frame.to_csv(path, index=False, sep=";"),
        "c.csv": lambda path: frame.to_csv(path, index=False, doublequote=False, escapechar="\\"),
        "d.tsv": lambda path: frame.to_csv(path, index=False, sep="\t"),
        "e.csv": lambda path: frame.to_csv(path, index=False, encoding="utf-16", quoting=csv.QUOTE_NONNUMERIC),
        "f.json": lambda path: frame.to_json(path),
        "g.json": lambda path: frame.to_json(path, orient="records"),
        "h.json": lambda path: frame.to_json(path, orient="split", indent=1),
        "i.json": lambda path: frame.to_json(path, orient="index"),
        "j.json": lambda path: frame.to_json(path, orient="table"),
        "k.jsonl": lambda path: frame.to_json(path, orient="records", lines=True),
        "l.parquet": lambda path: frame.to_parquet(path),
        "m.data": lambda path: frame.to_parquet(path),
    }.items():
        write(tmp_path / name)
        rows = read_rows(tmp_path / name)
        assert [row["text"] for row in rows] == expected, name
        assert [row.get("label") for row in rows[:3]] == ["1", "0", None], name
    assert read_rows(frame.to_dict("records"))[0] == {"text": 'Say "no".', "label": "1"}


def test_large_tables_are_streamed(tmp_path: Path):
    """Only the beginning is held to learn how a table is written."""
    path = tmp_path / "large.csv"
    with open(path, "w", encoding="utf-8") as file:
        file.write("text,label\n")
        for number in range(60_000):
            file.write(f'"Row {number} says ""{"word " * 20}"" here.",{number % 2}\n')
    import tracemalloc

    from ladle.data.rows import Taken, iter_rows, open_table

    tracemalloc.start()
    rows = iter_rows(Taken(open_table(path, Columns())), Columns())
    assert sum(1 for _ in rows) == 60_000
    assert tracemalloc.get_traced_memory()[1] < path.stat().st_size * 1.5
    tracemalloc.stop()
