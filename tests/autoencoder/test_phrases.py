"""Phrases: what a draft of them guesses, what they may tell of the data, and that they change no text."""

import json
import random
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

import plan_runs
import tiny
from ladle.autoencoder.language import Cache, LanguageDecoder
from ladle.autoencoder.phrases import GUESSES, LONGEST, Phrases
from ladle.errors import UserError
from ladle.pipeline import LatentDiffusion
from ladle.storage.model_folder import load_parts, save_parts
from ladle.storage.parts import ModelParts
from ladle.training.run import train

START, END = 1, 2


def drafting_parts() -> ModelParts:
    """A tiny model with the phrases of its own texts, drawn and greedy, so that many guesses are right."""
    parts = tiny.tiny_plan_parts(source=False)
    backbone, own = parts.autoencoder.backbone, list[list[int]]()

    def noting(*given: Any, **options: Any) -> Tensor:
        ids = type(backbone).write(backbone, *given, **options)
        own.extend(ids.tolist())
        return ids

    backbone.write = noting  # type: ignore[method-assign]
    for temperature in (0.0, 1.0):
        LatentDiffusion(parts, "cpu").generate(seeds=range(12), temperature=temperature)
    del backbone.write
    backbone.phrases = Phrases.learnt(own, backbone.model.generation_config.decoder_start_token_id, 1)
    return parts


def test_the_usual_continuation_of_the_longest_known_phrase_is_guessed() -> None:
    """Three tokens say more than one, an unknown phrase is left out, and a text begins as most texts do."""
    phrases = Phrases.learnt([[5, 6, 7, END]] * 3 + [[8, 6, 9, END]] * 4, START, 1)
    assert phrases.draft(START, [5, 6])[0] == 7
    assert phrases.draft(START, [8, 6])[0] == 9
    assert phrases.draft(START, [3, 6])[0] == 9  # 6 alone goes on with 9 in four of seven
    assert phrases.draft(START, [])[0] == 8
    assert phrases.draft(START, [3]) == []


def test_a_draft_ends_where_it_is_likely_to_be_wrong() -> None:
    """A longer pass costs more; so does a guess that a wrong one stands before."""
    half = Phrases.learnt([[5, 6], [5, 7]] + [[6, 8], [6, 9]] * 2 + [[7, 3]], START, 1)
    assert half.draft(START, [0, 5]) == [6]  # (6 and 8 together: one in four)
    sure = Phrases.learnt([[*range(3, 30)]] * 2, START, 1)
    assert sure.draft(START, []) == [*range(3, 3 + GUESSES)]
    assert Phrases.learnt([[5, other] for other in range(6, 10)], START, 1).draft(START, [5]) == []


def test_what_few_texts_say_is_not_kept() -> None:
    """No text can be told from a phrase: a text that says a thing often counts once."""
    common, rare = [[4, 5, 6, END]] * 10, [[7, 8, 9] * 20] * 9
    phrases = Phrases.learnt(common + rare, START, 10)
    assert {token for last, (token, _) in phrases.table.items() for token in (*last, token)} == {START, 4, 5, 6, END}
    assert all(len(last) <= LONGEST for last in phrases.table)
    assert Phrases.learnt([*common, *rare, rare[0]], START, 10).draft(START, [7, 8]) == [9, 7, 8, 9]


def test_passes_are_those_of_a_decoder_that_writes_the_texts() -> None:
    """A pass writes the guesses that are right and one token more."""
    phrases = Phrases.learnt([[*range(3, 12), END]], START, 1)
    assert phrases.passes([[*range(3, 12), END]], START) == 2 / 10
    assert phrases.passes([[3, 4, 5, 20, 21]], START) == 2 / 5
    assert phrases.passes([[20, 21, 20]], START) == 1


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_phrases_change_no_text_and_save_passes(
    temperature: float, batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The promise: a user sees only the time. Larger batches are not drafted."""
    parts, sizes = drafting_parts(), list[int]()
    backbone, step = parts.autoencoder.backbone, LanguageDecoder.step

    def counting(self: LanguageDecoder, ids: Tensor, cache: Cache) -> Tensor:
        sizes.append(ids.shape[1])
        return step(self, ids, cache)

    monkeypatch.setattr(LanguageDecoder, "step", counting)
    model = LatentDiffusion(parts, "cpu")
    # (A text that ends at once is written again, in a batch of its own.)
    texts = model.generate(seeds=range(30), temperature=temperature)
    seeds = [seed for seed, text in enumerate(texts) if text][:12]
    sizes.clear()
    write = partial(model.generate, seeds=seeds, temperature=temperature)
    drafted = write(batch_size=batch_size)
    assert max(sizes) > 1
    with_drafts = len(sizes)
    sizes.clear()
    assert write(batch_size=12) is not None and set(sizes) == {1}
    sizes.clear()
    backbone.phrases = None
    assert write(batch_size=batch_size) == drafted
    assert set(sizes) == {1} and with_drafts < 0.8 * len(sizes)


def test_a_model_folder_keeps_them_and_says_so(tmp_path: Path) -> None:
    """Whoever shares a model must know what of the data is in it."""
    parts = drafting_parts()
    save_parts(parts, tmp_path / "with")
    loaded = load_parts(tmp_path / "with").autoencoder.backbone.phrases
    assert loaded == parts.autoencoder.backbone.phrases
    card = (tmp_path / "with" / "README.md").read_text(encoding="utf-8")
    assert loaded is not None and f"It holds {len(loaded.table):,} phrases of its training data" in card
    parts.autoencoder.backbone.phrases = None
    save_parts(parts, tmp_path / "with")  # over the earlier folder
    assert load_parts(tmp_path / "with").autoencoder.backbone.phrases is None
    assert "phrases" not in (tmp_path / "with" / "README.md").read_text(encoding="utf-8")
    assert not (tmp_path / "with" / "phrases.json").exists()


@pytest.mark.parametrize(
    "content", ["[", "{}", '{"least": 1, "phrases": [[0.5]]}', '{"least": 1, "phrases": [[1, 320, 0.5]]}',
                '{"least": 1, "phrases": [[1, "a", 0.5]]}', '{"least": 1, "phrases": 3}'],
)  # fmt: skip
def test_a_damaged_file_is_told(content: str, tmp_path: Path) -> None:
    """It may come from a stranger."""
    path = tmp_path / "phrases.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=r"phrases\.json .*copy or download the model folder again"):
        Phrases.load(path, 320)
    path.write_text(json.dumps({"least": 1, "phrases": [[1, 319, 0.5]]}), encoding="utf-8")
    assert Phrases.load(path, 320).table == {(1,): (319, 0.5)}


def test_texts_of_which_drafts_would_save_little_leave_no_phrases(tmp_path: Path) -> None:
    """A wrong guess makes a pass longer."""
    rng = random.Random(0)
    data = [{"text": "".join(rng.choices("abcdefghijklmnop", k=20))} for _ in range(72)]
    settings = plan_runs.settings(training={"steps": 2, "phrases": 1})
    train(settings, tmp_path / "run", data=data, log=lambda line: None)
    assert load_parts(tmp_path / "run" / "final").autoencoder.backbone.phrases is None


@pytest.mark.parametrize(("least", "kept"), [(5, True), (0, False), (1000, False)])
def test_a_recipe_decides_whether_a_model_has_them(least: int, kept: bool, tmp_path: Path) -> None:
    """Texts whose next token is nearly certain. None are wanted, or so many texts are not there."""
    data = [{"text": f"the old cat sat on a mat at noon for us, {number}."} for number in range(72)]
    settings = plan_runs.settings(training={"steps": 2, "phrases": least})
    train(settings, tmp_path / "run", data=data, log=lambda line: None)
    phrases = load_parts(tmp_path / "run" / "final").autoencoder.backbone.phrases
    assert (phrases is not None) == kept
    assert phrases is None or (phrases.least == least and phrases.table)
