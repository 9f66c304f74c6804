"""The two Wikipedia forms: what may stand in a row, how long it is, and that no text is in two splits."""

import importlib.util
import json
import re
import sys
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

import tiny
from ladle.errors import UserError
from ladle.storage.writing import write_rows

RECIPES = Path(__file__).parents[1] / "recipes"
SHARED = Path(__file__).parents[2] / "shared" / "data"
ARTICLES = [
    "The café opened in 1990; it isn't open today. Its owner, Mr. Smith, sold 12 kinds of tea.",
    "A horse ate the hay near a tree. The hen saw it and ran to the sea at noon, and it was 3 miles away.",
]


@pytest.fixture
def forms(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The recipe as a module. It imports the recipe beside it."""
    monkeypatch.syspath_prepend(str(RECIPES))
    spec = importlib.util.spec_from_file_location("wikipedia_forms", RECIPES / "wikipedia_forms.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.modules.pop("base_en_corpus", None)


def letters(texts: list[str]) -> list[int]:
    """A count of tokens by which lengths are easy to see."""
    return [len(text.replace(" ", "")) for text in texts]


def test_text8_has_letters_and_spaces_alone(forms: Any) -> None:
    """The filter of Mahoney, but letters with accents stay letters."""
    assert " ".join(forms.text8_words(ARTICLES[0])).startswith(
        "the cafe opened in one nine nine zero it isn t open today its owner mr smith sold one two kinds"
    )
    assert forms.text8_words("Łódź, Straße: Æsop & Москва №7") == ["lodz", "strasse", "aesop", "no", "seven"]
    assert forms.text8_words(" 東京 --- ") == []


def test_lines_have_exactly_their_length_and_do_not_overlap(forms: Any) -> None:
    """Speed is measured by texts of 64 tokens, so a line may be neither shorter nor longer; words stay whole."""
    words = ["aa", "bbb", "c", "dddd", "ee", "f", "ggg", "hh", "i", "jj"]
    sizes = {word: len(word) for word in words}
    found = list(forms.lines_of(words, sizes, 6))
    assert found == ["aa bbb c", "dddd ee", "f ggg hh"]
    assert list(forms.lines_of(words, sizes, 100)) == list(forms.lines_of([], {}, 6)) == []
    assert list(forms.lines_of(["aaaaa", "bb", "cccc"], {"aaaaa": 5, "bb": 2, "cccc": 4}, 6)) == ["bb cccc"]


def test_no_line_is_of_two_articles_and_the_count_is_the_tokenizers(forms: Any) -> None:
    """Words are counted one by one; the tokenizer of `base-en` must count the same for a whole line."""
    count = forms.base_en_counter()
    lines = forms.text8_lines(ARTICLES, count, 8)
    assert len(lines) >= 4 and count(lines) == [8] * len(lines)
    assert all(re.fullmatch("[a-z]+( [a-z]+)*", line) for line in lines)
    for line in lines:
        assert sum(line in " ".join(forms.text8_words(article)) for article in ARTICLES) == 1
    assert lines == forms.text8_lines(ARTICLES, count, 8)


def test_paragraphs_of_one_title_are_one_article(forms: Any) -> None:
    rows = [{"text": "a", "title": "x"}, {"text": "b", "title": "x"}, {"text": "c", "title": "y"}]
    assert forms.articles_of(rows) == ["a b", "c"]
    assert forms.articles_of([{"text": "a"}, {"text": "b"}]) == ["a", "b"]


def test_pieces_are_whole_sentences_within_the_limit(forms: Any) -> None:
    """An abbreviation ends no sentence. A sentence that is too long, begins in the middle or has <unk> is left out."""
    one, two, three = "Mr. Smith sold tea to us.", "He ran to the sea at noon.", "He was never seen again there."
    text = f"{one} {two} {three} The <unk> was in the sea."
    assert letters([one, two, three]) == [20, 20, 25]
    assert forms.pieces([text], letters, 40) == [f"{one} {two}", three]
    assert forms.pieces([text], letters, 39) == [one, two, three]
    assert forms.pieces(["and so it was in the end.", "Yes. It is.", "The x " * 10 + "."], letters, 39) == []


def test_words_that_were_cut_are_mended(forms: Any) -> None:
    assert forms.mended('He ( ) doesn \'t like " " the 2011 – 12 season ( 4.0 / 11 ) , at + 20 %') == (
        "He doesn't like the 2011–12 season (4.0/11), at +20%"
    )
    assert forms.mended("The 'tis and the – that") == "The 'tis and the – that"


def test_a_held_out_row_that_training_rows_know_is_left_out(forms: Any) -> None:
    """Whatever its case and signs; a shorter run in common is chance."""
    known = {"text": "One two three, FOUR five."}
    free = {"text": "one two three six four five"}
    training = [{"text": "zero one two three four five"}]
    assert forms.without_known([known, free], training, 5) == [free]
    assert forms.without_known([known, free], training, 6) == [known, free]


def test_the_public_file_is_split_by_characters(forms: Any, tmp_path: Path) -> None:
    """90, 5 and 5 million characters as usual; another file is refused in one line."""
    text = " ".join(["a bb ccc"] * 20)
    sizes = {"train": len(text) - 40, "valid": 20, "test": 20}
    (tmp_path / "text8").write_text(text + "\n")
    found = forms.of_public(str(tmp_path / "text8"), letters, sizes, 6)
    assert {split: len(lines) for split, lines in found.items()} == {"train": 15, "valid": 2, "test": 2}
    assert set(found["train"]) == {"a bb ccc"}
    with pytest.raises(UserError, match=r"text8 has 179 characters; text8 has 100,000,000"):
        forms.of_public(str(tmp_path / "text8"), letters)
    (tmp_path / "other").write_text("a B")
    with pytest.raises(UserError, match="holds 'B', but text8 has a to z and spaces alone"):
        forms.of_public(str(tmp_path / "other"), letters)


def shared_sets(folder: Path) -> Path:
    """The four Wikipedia sets, with made articles."""
    for number, name in enumerate(
        ["wikipedia_paragraphs/train", "wikipedia_leads/train", "wikipedia_leads/valid", "wikipedia_leads/test",
         "wikitext/valid", "wikitext/test"]
    ):  # fmt: skip
        words = [sentence[:-1] for sentence in tiny.SENTENCES[8 * number : 8 * number + 8]]
        text = ". ".join(f"{part[0].upper()}{part[1:]} and then {part} again" for part in words) + "."
        rows = [{"text": text, "title": f"{name} {i}"} for i in range(2)]
        write_rows(folder / f"{name}.jsonl.gz", [rows[0], rows[1] | {"text": f"In {number}00 years, {text}"}])
    return folder


@pytest.mark.parametrize("form", ["text8", "wikitext"])
def test_both_forms_whole(
    forms: Any, tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same files every time, no row longer than 64 tokens, no row of one split in another."""
    data = shared_sets(tmp_path / "data")
    for name in ("one", "two"):
        forms.main([form, str(data), str(tmp_path / name)])
    splits = {}
    for split in forms.SPLITS:
        path = tmp_path / "one" / f"{split}.jsonl"
        assert path.read_bytes() == (tmp_path / "two" / f"{split}.jsonl").read_bytes()
        splits[split] = [json.loads(line)["text"] for line in path.read_text().splitlines()]
        sizes = forms.base_en_counter()(splits[split])
        assert sizes and (set(sizes) == {64} if form == "text8" else max(sizes) <= 64)
    assert not set(splits["train"]) & {*splits["valid"], *splits["test"]} and not set(splits["valid"]) & set(
        splits["test"]
    )
    if form == "text8":
        assert re.fullmatch("[a-z ]+", "".join(chain.from_iterable(splits.values())))
    said = capsys.readouterr().err
    assert f"test: {len(splits['test'])} texts" in said and splits["test"][0] in said


def test_a_missing_set_is_one_line(forms: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        forms.main(["text8", str(tmp_path), str(tmp_path / "out")])


@pytest.mark.skipif(not SHARED.is_dir(), reason="the data sets of ../shared are not on this machine")
def test_no_article_of_the_shared_sets_is_in_two_splits(forms: Any) -> None:
    """By title; so a line of the test split cannot continue an article of the training rows."""
    names = [*forms.TRAIN, *forms.HELD_OUT["text8"].values()]
    titles = {name: {row["title"] for row in forms.read(SHARED, name)} for name in names}
    train = titles[names[0]] | titles[names[1]]
    assert len(train) > 17_000
    assert not train & (titles[names[2]] | titles[names[3]]) and not titles[names[2]] & titles[names[3]]
