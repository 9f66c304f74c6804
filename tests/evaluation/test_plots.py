"""Plots: real files, for any report, and one line where the extra is missing."""

import struct
import sys
from pathlib import Path
from typing import Any

import pytest

from ladle.errors import UserError
from ladle.evaluation.evaluate import evaluate
from ladle.evaluation.extras import load_extra
from ladle.evaluation.plots import Point, plot_curves, plot_frontier
from ladle.storage.writing import write_rows

pytest.importorskip("matplotlib", reason="plots need the extra 'plots'")


def size(path: Path) -> tuple[int, int]:
    """Width and height of a PNG file, in pixels."""
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", data[16:24])
    return width, height


def test_a_report_has_its_plots(tmp_path: Path) -> None:
    """Lengths always; quality against diversity and memorisation where the report has them."""
    source = "a"
    samples, reference, train = (tmp_path / f"{name}.jsonl" for name in ("samples", "reference", "train"))
    write_rows(samples, [{"text": "one two three four", "source": source}, {"text": "", "source": source}])
    write_rows(reference, [{"source": source, "target": "one two three", "references": ["one two three", "two four"]}])
    write_rows(train, [{"text": "one two"}])
    evaluate(samples, reference, train, plots=tmp_path / "plots", num_bootstrap=0)
    names = sorted(path.name for path in (tmp_path / "plots").iterdir())
    assert names == ["bleu_copies.png", "bleu_div.png", "bleu_mem.png", "lengths.png"]
    assert all(min(size(path)) > 300 for path in (tmp_path / "plots").iterdir())


def test_frontiers_take_systems_of_one_and_of_many_settings(tmp_path: Path) -> None:
    """Lines, single points and the controls in one picture; a system without points is left out."""
    systems = {
        "ladle": [Point("16 steps", 0.3, 0.7, (0.01, 0.02)), Point("32 steps", 0.35, 0.8)],
        "rival": [Point("", 0.4, 0.75)],
        "nothing": [],
        "reference": [Point("", 0.5, 0.95)],
        "shuffled": [Point("", 0.6, 0.1)],
    }
    plot_frontier(systems, "div", "mauve", tmp_path / "frontier.png", title="yelp")
    plot_curves({"rival": [(1.0, 3.0), (2.0, 2.5)]}, "minutes", "held-out loss", tmp_path / "curves.png")
    assert min(size(tmp_path / "frontier.png")) > 300
    assert min(size(tmp_path / "curves.png")) > 300


def test_settings_go_from_left_to_right_and_long_falls_are_logarithmic(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whatever order they are given in; a curve that falls by little keeps an even axis."""
    drawn: list[Any] = []
    figure = load_extra("matplotlib.figure").Figure
    save = figure.savefig
    monkeypatch.setattr(figure, "savefig", lambda self, *to, **how: drawn.extend(self.axes) or save(self, *to, **how))
    plot_frontier({"ladle": [Point("b", 0.5, 0.7), Point("a", 0.2, 0.8)]}, "div", "mauve", tmp_path / "x.png")
    plot_curves({"rival": [(1.0, 900.0), (2.0, 80.0)]}, "minutes", "perplexity", tmp_path / "y.png")
    plot_curves({"rival": [(1.0, 900.0), (2.0, 100.0)]}, "minutes", "perplexity", tmp_path / "z.png")
    assert drawn[0].get_lines()[0].get_xdata().tolist() == [0.2, 0.5]
    assert [axes.get_yscale() for axes in drawn[1:]] == ["log", "linear"]


def test_without_the_extra_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It names what to install, before any work."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match=r"pip install .\.\[plots\]"):
        load_extra("matplotlib.figure")
    with pytest.raises(UserError, match=r"pip install .\.\[plots\]"):
        evaluate(tmp_path / "nothing.jsonl", plots=tmp_path / "plots")
