"""Texts from templates: what is given stays to the letter, and the blanks get words that fit."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import memorised
import tiny
from knowing import knowing
from ladle import cli
from ladle.autoencoder.latents import Latents
from ladle.autoencoder.lexicon import Lexicon, words_of
from ladle.conditioning.encoder import RawCondition
from ladle.editing.blanks import Draft, fill_blanks
from ladle.editing.continuations import Blank, Continuation, allowed, spread
from ladle.editing.starts import latents_for, renoised, with_guessed_blanks
from ladle.editing.template import Template
from ladle.editing.vocabulary import Vocabulary
from ladle.errors import UserError
from ladle.pipeline import LatentDiffusion
from ladle.sampling.options import SamplingOptions
from ladle.seeding import SampleNoise
from ladle.storage.model_folder import save_parts
from ladle.storage.parts import ModelParts

EIGHT = memorised.EIGHT


def tiny_condition(count: int) -> Any:
    return RawCondition(torch.full((count,), -1))


@cache
def plan() -> LatentDiffusion:
    return LatentDiffusion(tiny.tiny_plan_parts())


@cache
def aligned(kind: str = "aligned") -> LatentDiffusion:
    return LatentDiffusion(memorised.memorised_parts(kind))


def matches(template: str, text: str) -> bool:
    pieces = [re.escape(piece) for piece in re.split("_{3,}", template)]
    return re.fullmatch(".*[^\\W_].*".join(pieces), text, re.DOTALL) is not None


# ------------------------------------------------------------------------------------------------ to the letter

PIECES = st.sampled_from(
    ["", " ", "  ", ".", ", ", "un", "ING", "\n", "“", "” ", "(x)", "cat ", " ü-", "🙂", "日", "1", "?! ", "_", "</s>"]
)  # fmt: skip


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(PIECES, min_size=2, max_size=3), st.integers(0, 99))
def test_what_is_given_stays_to_the_letter(pieces: list[str], seed: int) -> None:
    """Spaces, capitals, signs that the model never learnt, pieces that would be one token with a fill: a template is a
    promise. And each blank has a letter or a digit."""
    template = "___".join(piece.strip("_") if "_" in piece else piece for piece in pieces)
    (text,) = plan().infill(template, seed=seed, candidates=2)
    assert matches(template, text), (template, text)


@pytest.mark.parametrize("kind", ["aligned", "perceiver"])
def test_older_latents_keep_what_is_given_too(kind: str) -> None:
    templates = ["the red ___ ran to ___ sea.", "___", "the wet hen ___", "(___) Zürich  ___!"]
    for template, text in zip(templates, aligned(kind).infill(templates, seed=0), strict=True):
        assert matches(template, text), (template, text)


def test_other_tokenizers_keep_what_is_given(pretrained_folder: Path) -> None:
    """BART has a token before every text, T5's pieces lose spaces: neither may reach the text."""
    model = LatentDiffusion(tiny.tiny_parts(pretrained=str(pretrained_folder)))
    templates = ["the old ___ sat  on ___.", "___ ran to the sea"]
    for template, text in zip(templates, model.infill(templates, seed=0), strict=True):
        assert matches(template, text), (template, text)


# ------------------------------------------------------------------------------------------------ the right words


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("the red ___ ran to the sea.", "the red fox ran to the sea."),
        ("the ___ hid in 12 ___.", "the shy owl hid in 12 trees."),
        ("___ sang for us: the king slept.", "the wet hen sang for us: the king slept."),
        ("the big dog ___", "the big dog ate at noon, a lot."),
        ("the mad ___ee met the king.", "the mad bee met the king."),
    ],
)
def test_a_model_that_knows_the_text_fills_the_right_words(template: str, text: str) -> None:
    """A blank before, between and behind words, of one word and of several, and in a word."""
    assert LatentDiffusion(knowing()).infill(template, n=3, seed=0, candidates=4) == [text] * 3


def test_words_after_a_blank_decide_what_stands_in_it() -> None:
    """From left to right "the" is followed by each of six beginnings; only one of them leads to the words given."""
    model = LatentDiffusion(knowing())
    found = model.infill(["the ___ ran to the sea.", "the ___ hid in 12 trees."], n=4, seed=5, candidates=8)
    assert found == ["the red fox ran to the sea."] * 4 + ["the shy owl hid in 12 trees."] * 4


def test_the_lexicon_holds_in_blanks_and_not_in_what_is_given() -> None:
    """A decoder that writes words in pieces must not invent words; a user's own words may be any."""
    parts = tiny.tiny_plan_parts(source=False)
    backbone = parts.autoencoder.backbone
    known = {"cat", "dog", "the", "sea"}
    backbone.lexicon = Lexicon(known, backbone.tokenizer)
    for text in LatentDiffusion(parts).infill("Xqz ___ fox ___.", n=10, seed=0):
        assert set(words_of([text])) <= known | {"Xqz", "fox"}, text


@pytest.mark.parametrize(("before", "begins"), [("the ", {True}), ("", {True}), ("(", {False}), ("un", {True, False})])
def test_a_blanks_first_token_has_a_space_where_the_template_has_one(before: str, begins: set[bool]) -> None:
    """The space before a blank is a part of its first token, as the decoder knows it; another one would be lost."""
    vocabulary = Vocabulary(plan().autoencoder.backbone)
    blank = Blank(vocabulary.contexts([before])[0], 3, vocabulary.space_wanted(before), False, vocabulary.end)
    (rules,) = allowed(vocabulary, [Continuation(blank)])
    assert {*vocabulary.begins[rules].tolist()} == begins
    assert not rules[vocabulary.end] and not rules[vocabulary.backbone.banned].any()


# ------------------------------------------------------------------------------------------------ seeds and batches


@pytest.mark.parametrize("build", [plan, aligned])
def test_a_seed_gives_its_text_in_any_batch(build: Any) -> None:
    """Templates of other lengths in the batch, the number of texts, the batch size: none of them changes a text."""
    templates = ["the ___ cat sat.", "___ for us: the king ___ a lot.", "the old cat sat on ___", "___"]
    options = {"label": ["bad", None, "good", None], "seeds": [5, 6, 7, 8], "temperature": 1.0}
    texts = build().infill(templates, **options)
    assert build().infill(templates, **options, batch_size=1) == texts
    for place in range(4):
        own = {name: values[place] for name, values in options.items() if name != "temperature"}
        alone = build().infill(templates[place], seed=own["seeds"], label=own["label"], temperature=1.0)
        assert alone == [texts[place]]


def test_seeds_differ_and_count_up() -> None:
    texts = plan().infill("the ___ cat ___.", n=6, seed=3, temperature=1.0)
    assert len(set(texts)) > 1
    assert plan().infill("the ___ cat ___.", n=5, seed=4, temperature=1.0) == texts[1:]


def test_draws_are_spread_over_the_distribution() -> None:
    """At each place one number in each eighth; and each number for itself is uniform."""
    numbers = spread(torch.rand(500, 8, 3))
    assert torch.equal((numbers * 8).long().sort(1).values, torch.arange(8)[None, :, None].expand(500, 8, 3))
    assert abs(float((numbers[:, 0, 0] < 0.3).float().mean()) - 0.3) < 0.07
    assert abs(float((numbers[:, 0, 0] * 8 % 1).mean()) - 0.5) < 0.07


def test_a_blank_takes_as_many_draws_whatever_stands_beside_it() -> None:
    """The decoder's words depend on a row's own memory and stream, in one batch and alone."""
    autoencoder = plan().autoencoder
    latents = Latents(torch.randn(3, 4, 8), torch.ones(3, 4, dtype=torch.bool))

    def filled(rows: list[int]) -> list[str]:
        texts = ["the ___ a lot", "___ us", "the old cat sat ___ mat."]
        drafts = [Draft(Template.parse(texts[row]), SampleNoise([row])) for row in rows]
        memory = autoencoder.expand(Latents(latents.values[rows], latents.mask[rows]))
        fill_blanks(autoencoder.backbone, drafts, memory, temperature=1.0, top_p=0.95)
        return [draft.before for draft in drafts]

    with torch.no_grad():
        assert filled([0, 1, 2]) == [filled([row])[0] for row in range(3)]


# ------------------------------------------------------------------------------------------------ latents


def test_the_start_stays_near_what_is_given() -> None:
    """The later the start, the nearer: at time 0 it is the text's own latents."""
    diffusion, autoencoder = plan().diffusion, plan().autoencoder
    z0 = autoencoder.encode_texts(tiny.SENTENCES[:4])
    options = SamplingOptions(num_inference_steps=8)

    def distance(time: float) -> float:
        found = renoised(diffusion, tiny_condition(4), z0, SampleNoise([0, 1, 2, 3]), time, options)
        return float((found.values - z0.values).square().mean().detach())

    assert distance(0.02) < 0.05 < distance(0.5) < distance(1.0)


def test_known_words_hold_their_latents() -> None:
    """Of latents in the order of the words only those are drawn that have a blank's tokens."""
    autoencoder = aligned().autoencoder
    template = Template.parse("the old cat sat on a ___")
    latents, known = with_guessed_blanks(autoencoder, [template] * 2, SampleNoise([0, 1]))
    given = len(Vocabulary(autoencoder.backbone).contexts([template.pieces[0]])[0])
    full = given // autoencoder.bottleneck.tokens_per_latent
    assert known[:, :full].all()
    assert not known[:, full : int(latents.mask.sum(1).min())].any()


def test_known_words_keep_their_latents_while_blanks_are_drawn() -> None:
    """Inpainting: else the prior would write over what is given."""
    model, templates = aligned(), [Template.parse("the old cat sat on a ___")] * 2
    latents, known = with_guessed_blanks(model.autoencoder, templates, SampleNoise([0, 1]))
    noise, options = SampleNoise([0, 1]), SamplingOptions(num_inference_steps=4)
    drawn = latents_for(model.autoencoder, model.diffusion, templates, tiny_condition(2), noise, options)
    change = (drawn.values - latents.values).detach().abs().amax(-1)
    assert change[known & latents.mask].max() < 0.01 < change[~known & latents.mask].min()


# ------------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("", "the template is empty"),
        (" \n", "the template is empty"),
        ("the cat __ sat.", "has no blank"),
        ("the cat " * 30 + "___", "the model holds texts of 24 tokens"),
        ([], "no template given"),
        (3, "give a text or a list of texts"),
    ],
)
def test_a_template_that_cannot_be_filled_is_one_line(template: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        plan().infill(template)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label": "sad"}, "unknown label 'sad'"),
        ({"n": 0}, "n is 0"),
        ({"decoder": "parallel"}, "the parallel decoder cannot fill blanks"),
        ({"num_beams": 3, "temperature": 0.0}, "num_beams 3 cannot fill blanks"),
        ({"choose": "label"}, "needs a label"),
        ({"seeds": [1, 2]}, "lengths disagree"),
        ({"creativity": 2}, "no sampling option 'creativity'"),
    ],
)
def test_wrong_options_are_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        plan().infill("a ___", **options)


def test_a_source_needs_a_model_that_takes_one() -> None:
    with pytest.raises(UserError, match="not trained with source texts"):
        LatentDiffusion(tiny.tiny_plan_parts(source=False)).infill("a ___", source="x")


def test_an_autoencoder_alone_cannot_fill() -> None:
    model = LatentDiffusion(ModelParts("alone", tiny.tiny_plan_autoencoder()))
    with pytest.raises(UserError, match="without a diffusion model"):
        model.infill("a ___")


def test_labels_and_sources_reach_the_blanks() -> None:
    """With the same seeds the texts differ, so both are read."""
    options = {"n": 8, "seed": 0, "temperature": 1.0, "candidates": 1, "guidance_scale": 4.0}
    texts = {
        tuple(plan().infill("the ___ a ___.", **options, **own))
        for own in ({"label": "bad"}, {"label": "good"}, {"source": "the old cat"}, {})
    }
    assert len(texts) == 4


# ------------------------------------------------------------------------------------------------ command line

Run = Any


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "plan"
    save_parts(tiny.tiny_plan_parts(), path)
    return path


def test_the_command_writes_what_the_method_gives(run: Run, folder: Path) -> None:
    words = ["infill", "--model", folder, "--template", "the ___ cat ___.", "-n", 2, "--seed", 7, "--label", "good"]
    code, out, _ = run(*words)
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and [row["seed"] for row in rows] == [7, 8]
    model = LatentDiffusion.from_pretrained(folder)
    assert [row["text"] for row in rows] == model.infill("the ___ cat ___.", n=2, seed=7, label="good")
    assert rows[0].keys() == {"text", "template", "seed", "label", "model"}
    assert rows[0]["template"] == "the ___ cat ___." and rows[0]["model"] == model.digest


@pytest.mark.parametrize("column", ["template", "text"])
def test_templates_come_from_a_file_with_labels_and_sources(
    run: Run, folder: Path, tmp_path: Path, column: str
) -> None:
    path, output = tmp_path / "templates.jsonl", tmp_path / "out.jsonl"
    given = [{column: "the ___.", "label": "bad"}, {column: "___ a lot.", "label": "good", "source": "the sea"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in given))
    code, _, err = run("infill", "--model", folder, "--templates", path, "--seed", 1, "-n", 2, "-o", output)
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert code == 0 and "4 rows written" in err
    assert [row["template"] for row in rows] == ["the ___."] * 2 + ["___ a lot."] * 2
    assert [row["label"] for row in rows] == ["bad"] * 2 + ["good"] * 2
    assert ["source" in row for row in rows] == [False, False, True, True]
    assert all(matches(row["template"], row["text"]) for row in rows)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give --template TEXT or --templates FILE"),
        (["--template", "a ___", "--templates", "x.txt"], "one of them"),
        (["--template", "a"], "has no blank"),
        (["--template", "___", "-n", "0"], "-n (--num-samples) is 0"),
        (["--template", "___", "--label", "sad"], "unknown label 'sad'"),
        (["--templates", "none.jsonl"], "no such file"),
    ],
)
def test_wrong_use_of_the_command_is_one_line(run: Run, folder: Path, words: list[str], message: str) -> None:
    code, out, err = run("infill", "--model", folder, *words)
    assert (code, out) == (2, "") and message in err


def test_the_command_is_among_the_verbs(run: Run) -> None:
    assert "infill" in run("--help")[1] and cli.main(["infill", "--help"]) == 0
