"""Verbs that change and draw texts (edit, plot and their like): rows, reports, pictures and bad input."""

import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tiny
from knowing import EIGHT, knowing
from ladle.baselines.autoregressive import AutoregressiveConfig, AutoregressiveModel
from ladle.editing.vary import vary as vary_texts
from ladle.pipeline import LatentDiffusion
from ladle.storage.model_folder import save_parts

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plan model that knows eight sentences and judges by cat and dog."""
    folder = tmp_path_factory.mktemp("edit") / "knowing"
    save_parts(knowing(judged=True), folder)
    return folder


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(EIGHT[1:5]) + "\n")
    return path


def rows(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def one_line(err: str) -> str:
    assert err.startswith("ladle: ") and err.count("\n") == 1, err
    return err


# ------------------------------------------------------------------------------------------------ rows


def test_interpolate_writes_a_way_for_each_pair(run: Run, model: Path, texts: Path):
    """The first and the second text make a pair, the third and the fourth; the ends are among the texts."""
    code, out, err = run("interpolate", texts, "--model", model, "--steps", 3, "--path", "slerp", "--seed", 5)
    assert (code, err) == (0, "")
    found, loaded = rows(out), LatentDiffusion.from_pretrained(model)
    assert [row["amount"] for row in found] == [0, 0.5, 1] * 2
    assert [found[i]["text"] for i in (0, 2, 3, 5)] == EIGHT[1:5]
    assert [row["seed"] for row in found] == [5] * 3 + [6] * 3
    ways = loaded.interpolate(EIGHT[1:5:2], EIGHT[2:5:2], 3, path="slerp", seed=5)
    assert [row["text"] for row in found] == [change.text for way in ways for change in way]
    assert found[1].keys() == {"text", "source", "target", "amount", "seed", "model"}
    assert found[1]["model"] == loaded.digest


def test_pairs_may_stand_in_two_columns(run: Run, model: Path, tmp_path: Path):
    """Source is the way's begin."""
    path = tmp_path / "pairs.jsonl"
    path.write_text(
        "".join(json.dumps({"source": a, "text": b}) + "\n" for a, b in (EIGHT[1:3], EIGHT[3:5], EIGHT[5:7]))
    )
    code, out, _ = run("interpolate", path, "--model", model, "--steps", 2, "--path", "linear", "--seed", 0)
    assert code == 0
    assert [row["text"] for row in rows(out)] == EIGHT[1:7]


@pytest.mark.parametrize(
    ("verb", "options", "method"),
    [
        ("vary", ("--strength", 0.4, "-n", 2), lambda m, t: m.vary(t, 0.4, 2, seed=3)),
        ("paraphrase", ("-n", 2, "--wordings", 4), lambda m, t: m.paraphrase(t, 2, candidates=4, seed=3)),
        (
            "edit",
            ("--label", "bad", "-n", 2, "--wordings", 3, "--strength", 0.7),
            lambda m, t: m.edit(t, label="bad", n=2, candidates=3, strength=0.7, seed=3),
        ),
    ],
)
def test_a_verb_writes_what_its_method_gives(run: Run, model: Path, texts: Path, verb: str, options, method):
    """Text by text, at any batch size, to a file as to standard output."""
    command = (verb, texts, "--model", model, *options, "--seed", 3)
    code, out, err = run(*command)
    assert code == 0 and err.count("\n") == ("--label" in options)  # (how many have the label)
    expected = method(LatentDiffusion.from_pretrained(model), EIGHT[1:5])
    assert [(row["text"], row["source"], row["seed"]) for row in rows(out)] == [
        (change.text, change.source, change.seed) for change in expected
    ]
    target = texts.parent / "out.jsonl.gz"
    assert run(*command, "--batch-size", 1, "-o", target)[:2] == (0, "")
    assert rows(gzip.decompress(target.read_bytes()).decode()) == rows(out)


def test_seeds_of_many_texts_count_up_over_all_parts(run: Run, model: Path, tmp_path: Path):
    """Standard output gets its first rows early, in small parts. No seed may come twice for it, nor another text."""
    path = tmp_path / "many.txt"
    path.write_text("\n".join(EIGHT[1:] * 2) + "\n")
    command = ("edit", path, "--model", model, "--label", "good", "-n", 3, "--wordings", 1, "--seed", 7)
    _, out, _ = run(*command)
    assert [row["seed"] for row in rows(out)] == [*range(7, 7 + 14 * 3)]
    target = tmp_path / "out.jsonl"
    run(*command, "-o", target)
    assert target.read_text() == out


def test_without_a_seed_the_log_says_which_was_drawn(run: Run, model: Path, texts: Path):
    """A text that is liked can be had again."""
    code, out, err = run("vary", texts, "--model", model)
    assert code == 0
    seed = rows(out)[0]["seed"]
    assert err == f"the first seed was {seed}; --seed {seed} gives the same texts again\n"
    assert run("vary", texts, "--model", model, "--seed", seed)[1] == out


def test_a_stopped_command_goes_on_and_does_not_begin_anew(run: Run, model: Path, tmp_path: Path, monkeypatch):
    """Texts that are written are not made again, and the whole is the same to the last bit."""
    path, target = tmp_path / "many.txt", tmp_path / "out.jsonl"
    path.write_text("\n".join(EIGHT[1:] * 12) + "\n")  # 84 texts in two parts
    command = ("vary", path, "--model", model, "--seed", 0, "-o", target)
    made: list[int] = []

    def stopping(parts, given, *arguments, **options):
        made.append(len(given))
        if len(made) == 2:
            raise KeyboardInterrupt
        return vary_texts(parts, given, *arguments, **options)

    monkeypatch.setattr("ladle.editing.editor.vary", stopping)
    code, _, err = run(*command)
    assert code == 130 and "64 rows kept" in err and not target.exists()
    code, _, err = run(*command)
    assert code == 0 and "64 rows drawn before; going on from there" in err
    assert made == [64, 20, 20]
    monkeypatch.undo()
    written = target.read_text()
    target.unlink()
    assert run(*command)[0] == 0
    assert target.read_text() == written and len(rows(written)) == 84


@pytest.mark.parametrize("verb", ["vary", "sample"])
def test_a_name_that_ends_in_csv_gets_csv(run: Run, model: Path, texts: Path, tmp_path: Path, verb: str):
    """With the same rows as JSON Lines, and Ladle reads them again; .gz compresses."""
    command = ("vary", texts) if verb == "vary" else ("sample", "-n", 3, "--label", "good", "--label", "bad")
    for name in ("out.jsonl", "out.csv", "out.CSV.gz"):
        code, _, err = run(*command, "--model", model, "--seed", 0, "-o", tmp_path / name)
        assert code == 0, err
    assert run(*command, "--model", model, "--seed", 0, "-o", tmp_path / "out.csv")[0] == 0  # written over
    wanted = rows((tmp_path / "out.jsonl").read_text())
    for name, opened in (("out.csv", open), ("out.CSV.gz", gzip.open)):
        with opened(tmp_path / name, "rt", encoding="utf-8", newline="") as file:
            found = list(csv.DictReader(file))
        assert found == [{key: str(value) for key, value in row.items()} for row in wanted]
    again = run("reconstruct", "--model", model, tmp_path / "out.csv")
    assert again[0] == 0 and len(rows(again[1])) == len(wanted)


def test_a_report_may_be_csv(run: Run, model: Path, texts: Path, tmp_path: Path):
    report = tmp_path / "report.csv"
    code, out, err = run("vary", texts, "--model", model, "--seed", 0, "--report", report)
    assert code == 0, err
    with open(report, encoding="utf-8", newline="") as file:
        assert [row["text"] for row in csv.DictReader(file)] == [row["text"] for row in rows(out)]


def test_sampling_options_reach_the_verb(run: Run, model: Path, texts: Path):
    """Those that choose among candidates are no options: they would do nothing."""
    command = ("vary", texts, "--model", model, "--seed", 0, "--strength", 0.8)
    assert run(*command)[1] != run(*command, "--num-inference-steps", 1, "--stop-time", 0)[1]
    for option in ("--candidates", "--choose", "--label-confidence"):
        code, out, err = run(*command, option, 1)
        assert (code, out) == (2, "") and option in one_line(err)
    assert "must be" in one_line(run(*command, "--temperature", 5)[2])


# ------------------------------------------------------------------------------------------------ reports


def test_a_report_holds_all_figures_and_a_picture_is_beside_it(run: Run, model: Path, texts: Path, tmp_path: Path):
    """And a second run replaces both."""
    report = tmp_path / "report.jsonl"
    command = ("edit", texts, "--model", model, "--label", "bad", "--seed", 0, "--wordings", 2, "--report", report)
    for _ in range(2):
        code, out, err = run(*command)
        assert code == 0, err
        figures, judged = err.splitlines()
        assert figures == f"figures of each text are in {report}, a picture is in {tmp_path / 'report.png'}"
        assert judged.startswith("by the model's own judge")
        found = rows(report.read_text())
        assert [row["text"] for row in found] == [row["text"] for row in rows(out)]
        figures = ("similarity", "bleu", "edit_distance", "moved", "attribute_before", "attribute_after")
        assert all(isinstance(row[name], float) for row in found for name in figures)
        assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")


def test_a_report_of_a_command_that_went_on_is_whole(run: Run, model: Path, tmp_path: Path, monkeypatch):
    """It holds the texts that were written before too."""
    path, target, report = tmp_path / "many.txt", tmp_path / "out.jsonl", tmp_path / "report.jsonl"
    path.write_text("\n".join(EIGHT[1:] * 10) + "\n")
    command = ("vary", path, "--model", model, "--seed", 0, "-o", target, "--report", report)
    calls: list[int] = []

    def stopping(parts, given, *arguments, **options):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return vary_texts(parts, given, *arguments, **options)

    monkeypatch.setattr("ladle.editing.editor.vary", stopping)
    assert run(*command)[0] == 130
    assert run(*command)[0] == 0
    assert [row["text"] for row in rows(report.read_text())] == [row["text"] for row in rows(target.read_text())]
    assert len(rows(report.read_text())) == 70


def test_a_scorer_adds_perplexity_to_the_report(run: Run, model: Path, texts: Path, tmp_path: Path):
    """Of each text."""
    config = AutoregressiveConfig(width=32, num_layers=1, num_heads=2, max_tokens=24)
    AutoregressiveModel(config, tiny.tiny_tokenizer()).save_pretrained(tmp_path / "scorer")
    report = tmp_path / "report.jsonl"
    options = ("--scorer", tmp_path / "scorer", "--report", report)
    code, _, err = run("vary", texts, "--model", model, "--seed", 0, *options)
    assert code == 0, err
    assert all(row["perplexity"] > 1 for row in rows(report.read_text()))


# ------------------------------------------------------------------------------------------------ directions


def test_a_direction_is_fitted_and_followed(run: Run, model: Path, texts: Path, tmp_path: Path):
    """Its probe's accuracy is said; the folder's name is the output."""
    data = tmp_path / "rows.jsonl"
    labelled = [{"text": text, "label": "king" if "king" in text else "other"} for text in tiny.SENTENCES]
    data.write_text("".join(json.dumps(row) + "\n" for row in labelled))
    folder = tmp_path / "way"
    fitted = ("fit", "direction", "--data", data, "--model", model, "--towards", "king", "-o", folder)
    code, out, err = run(*fitted)
    assert code == 0, err
    assert out == f"{folder}\n" and "from other to king; its probe is right on" in err and "9 held-out rows" in err
    code, out, err = run("edit", texts, "--model", model, "--direction", folder, "--strength", -2, "--seed", 0)
    assert (code, err) == (0, "")
    assert {row["amount"] for row in rows(out)} == {-2}
    code, out, err = run(*fitted[:-3], "emperor", "-o", folder)
    assert (code, out) == (2, "") and "no row has the label 'emperor'" in err.splitlines()[-1]


# ------------------------------------------------------------------------------------------------ bad input

NO_MODEL = "/no/such/model"  # the checks below come before any model is loaded


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["interpolate", "t", "--steps", 1], "--steps is 1; it must be at least 2"),
        (["interpolate", "t", "--wordings", 0], "--wordings is 0"),
        (["interpolate", "t", "--path", "prio"], 'Did you mean "prior"?'),
        (["vary", "t", "--strength", 1.5], "--strength is 1.5; it must be from 0 to 1"),
        (["vary", "t", "--strength", "nan"], "--strength is nan; it must be a finite number"),
        (["vary", "t", "-n", 0], "-n (--num-samples) is 0"),
        (["vary", "none.txt"], "no such file: none.txt"),
        (["vary", "t", "--seed", 2**32], "--seed is 4294967296"),
        (["vary", "t", "--batch-size", 0], "--batch-size is 0"),
        (["vary", "t", "--report", "-"], "a report is a file, because a picture is written beside it"),
        (["vary", "t", "--report", "r.png"], "need names of their own"),
        (["vary", "t", "--report", "r.jsonl", "-o", "r.jsonl"], "need names of their own"),
        (["vary", "t", "--report", "t"], "the command reads it"),
        (["vary", "t", "--scorer", "x"], "--scorer adds perplexity to the report; give --report FILE too"),
        (["vary", "t", "-o", "t"], "the command reads it"),
        (["vary", "t", "-o", "o.parquet"], "rows are written as .csv or .jsonl"),
        (["vary", "t", "--report", "r.txt"], "rows are written as .csv or .jsonl"),
        (["infill", "--templates", "t", "-o", "o.tsv.gz"], "rows are written as .csv or .jsonl"),
        (["sample", "-o", "o.xlsx"], "rows are written as .csv or .jsonl"),
        (["reconstruct", "t", "-o", "o.txt"], "rows are written as .csv or .jsonl"),
        (["paraphrase", "t", "-n", 3, "--wordings", 2], "--wordings is 2; it must be at least 3"),
        (["paraphrase", "t", "-n", 0], "-n (--num-samples) is 0"),
        (["paraphrase", "t", "--max-overlap", 101], "--max-overlap is 101; it must be from 0 to 100"),
        (["edit", "t"], "give --label LABEL or --direction FOLDER, one of them"),
        (["edit", "t", "--label", "bad", "--direction", "x"], "give --label LABEL or --direction FOLDER, one of them"),
        (["edit", "t", "--label", "bad", "--strength", 2], "--strength is 2; it must be from 0 to 1"),
        (["edit", "t", "--direction", "x", "--strength", -11], "--strength is -11; it must be from -10 to 10"),
        (["edit", "t", "--direction", "x"], "cannot load the direction in x"),
        (["edit", "t", "--label", "bad", "--confidence", 2], "--confidence is 2"),
        (["plot", "trajectory", "-o", "a.gif"], "a picture's name ends in .png, .svg, .pdf"),
        (["plot", "trajectory", "-o", "a.png", "--levels", 1], "--levels is 1"),
        (["plot", "trajectory"], "--output"),
        (["plot", "interpolation", "a", "-o", "a.png"], "SECOND"),
        (["plot", "interpolation", "a", "b", "-o", "a.png", "--steps", 1], "--steps is 1"),
        (["plot", "map", "none.jsonl", "-o", "a.png"], "no such file: none.jsonl"),
        (["plot", "map", "t", "-o", "t"], "a picture's name ends in"),
        (["plot", "map", "t", "-o", "a.png", "--rows", 2], "--rows is 2"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(run: Run, tmp_path: Path, monkeypatch, words: list[Any], says: str):
    """Before a model is loaded; nothing is written."""
    monkeypatch.chdir(tmp_path)
    Path("t").write_text("a\nb\nc\nd\n")
    code, out, err = run(*words, "--model", NO_MODEL)
    assert (code, out) == (2, ""), err
    assert says in one_line(err)
    assert {path.name for path in tmp_path.iterdir()} == {"t"}


@pytest.mark.parametrize(
    ("words", "content", "says"),
    [
        (["interpolate"], "a\nb\nc\n", "3 texts make no pairs; give an even number, or the columns source and text"),
        (["vary", "--seed", 2**32 - 2, "-n", 2], "a\nb\n", "--seed is 4294967294; it must be from 0 to 4294967292"),
        (["vary"], "", "empty"),
        (["plot", "map"], "a\na\n", "1 different texts make no map; give at least 3"),
    ],
)
def test_what_is_wrong_with_the_texts_is_one_line(run: Run, model: Path, tmp_path: Path, words, content, says: str):
    """Nothing is written."""
    path = tmp_path / "t.txt"
    path.write_text(content)
    code, out, err = run(*words, path, "--model", model, "-o", tmp_path / "out.png")
    assert (code, out) == (2, "")
    assert says in one_line(err)
    assert [own.name for own in tmp_path.iterdir()] == ["t.txt"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["edit", "--label", "baad"], "unknown label 'baad': did you mean 'bad'?"),
        (["vary"], "text 100 of 100 is longer than the 24 tokens that the model holds"),
        (["interpolate"], "longer than the 24 tokens that the model holds"),
    ],
)
def test_what_the_model_does_not_hold_is_said_before_a_row(run: Run, model: Path, tmp_path: Path, words, says: str):
    """Also where the bad text is the last."""
    path, target = tmp_path / "t.txt", tmp_path / "out.jsonl"
    path.write_text("a\n" * 99 + ("a\n" if words[0] == "edit" else "the old cat sat on a mat. " * 9 + "\n"))
    code, out, err = run(*words, path, "--model", model, "-o", target)
    assert (code, out) == (2, "")
    assert says in one_line(err)
    assert [own.name for own in tmp_path.iterdir()] == ["t.txt"]


def test_without_the_extra_for_pictures_it_is_said_before_the_work(run: Run, texts: Path, tmp_path: Path, monkeypatch):
    """One line that says what to install."""
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    for words in (
        ("vary", texts, "--report", tmp_path / "r.jsonl"),
        ("plot", "trajectory", "-o", tmp_path / "a.png"),
        ("plot", "interpolation", "a", "b", "-o", tmp_path / "a.png"),
        ("plot", "map", texts, "-o", tmp_path / "a.png"),
    ):
        code, out, err = run(*words, "--model", NO_MODEL)
        assert (code, out) == (2, "")
        assert "plots need" in one_line(err) and "pip install '.[plots]'" in err


# ------------------------------------------------------------------------------------------------ plot


def test_plot_trajectory_draws_the_text_that_sample_draws(run: Run, model: Path, tmp_path: Path):
    """A picture, and a row for each level on standard output."""
    picture = tmp_path / "new" / "a.svg"
    command = ("plot", "trajectory", "--model", model, "--seed", 5, "--label", "good", "--levels", 3, "-o", picture)
    code, out, err = run(*command)
    assert (code, err) == (0, f"a picture is in {picture}\n")
    found = rows(out)
    assert [one["time"] for one in found] == sorted((one["time"] for one in found), reverse=True)
    assert len(found) == 3 and found[0].keys() == {"text", "time", "noise", "seed", "label", "model"}
    sample = run("sample", "--model", model, "--seed", 5, "--label", "good")[1]
    assert found[-1]["text"] == rows(sample)[0]["text"]
    assert picture.read_text().startswith("<?xml")
    assert run(*command)[0] == 0  # (it may be drawn again)
    code, out, err = run("plot", "trajectory", "--model", model, "-o", picture)
    assert f"--seed {rows(out)[0]['seed']} draws the same text again" in err


def test_plot_interpolation_draws_one_way(run: Run, model: Path, tmp_path: Path):
    """Its rows are those of `interpolate`."""
    picture = tmp_path / "a.png"
    more = ("--steps", 3, "--path", "slerp", "--seed", 4)
    code, out, _ = run("plot", "interpolation", EIGHT[1], EIGHT[2], "--model", model, *more, "-o", picture)
    assert code == 0 and picture.read_bytes().startswith(b"\x89PNG")
    expected = LatentDiffusion.from_pretrained(model).interpolate(EIGHT[1], EIGHT[2], 3, path="slerp", seed=4)
    assert [row["text"] for row in rows(out)] == [change.text for change in expected]
    assert rows(out)[1]["similarity"] == pytest.approx(expected[1].similarity, abs=1e-5)


def test_plot_map_draws_texts_with_their_labels(run: Run, model: Path, tmp_path: Path):
    """The log says how many, and how much of the variance is seen."""
    data, picture = tmp_path / "rows.jsonl", tmp_path / "a.pdf"
    labelled = [{"text": text, "label": text.split()[2]} for text in tiny.SENTENCES]
    data.write_text("".join(json.dumps(row) + "\n" for row in labelled))
    code, out, err = run("plot", "map", data, "--model", model, "--rows", 20, "-o", picture)
    assert (code, out) == (0, ""), err
    assert f"20 of {len(labelled)} texts are in {picture}; its axes hold" in err
    assert picture.read_bytes().startswith(b"%PDF")
    code, _, err = run("plot", "map", data, "--model", model, "-o", picture, "--label", "")
    assert code == 0 and f"{len(labelled)} texts are in" in err


def test_an_edit_says_how_many_texts_have_the_label(run: Run, model: Path, tmp_path: Path):
    """By the model's judge: those that are there already, and those that were reached."""
    texts = tmp_path / "texts.txt"
    texts.write_text("".join(f"{text}\n" for text in (EIGHT[1], EIGHT[4])))  # good and bad
    command = ("edit", texts, "--model", model, "--label", "good", "--strength", 0, "--wordings", 1, "--seed", 0)
    for confidence, said in ((0, "2 of 2 texts"), (1, "0 of 2 texts")):
        code, _, err = run(*command, "--confidence", confidence)
        line = f"by the model's own judge {said} has the label 'good' with a probability of {confidence} or more"
        assert code == 0 and line.replace(" has ", " have ") in err


def test_a_text_with_signs_that_the_model_never_learnt_is_said(run: Run, tmp_path: Path):
    """Such texts come out as anything."""
    folder = tmp_path / "learnt"
    parts = knowing()
    parts.autoencoder.backbone.alphabet = frozenset("abcdefghijklmnopqrstuvwxyz .")
    save_parts(parts, folder)
    texts = tmp_path / "texts.txt"
    texts.write_text(f"{EIGHT[1]}\n老人很累\n", encoding="utf-8")
    code, _, err = run("vary", texts, "--model", folder, "--strength", 0.2, "--seed", 0)
    assert code == 0 and "never learnt" in err and "老" in err
