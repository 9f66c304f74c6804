"""The fuzzer: many odd inputs, and the rules of `harness.check` after each. `make fuzz` runs 10,000 of them.

The small run belongs to the default tests: the same inputs every time. LADLE_FUZZ=N tries N new inputs in all.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import tiny
from fuzz import inputs
from fuzz.harness import call, check, full_disk, snapshot, without_rights
from ladle import LatentDiffusion
from ladle.cli import app
from ladle.data.rows import read_rows
from ladle.errors import UserError
from ladle.storage.model_folder import save_parts

ALL = int(os.environ.get("LADLE_FUZZ", "0"))
ROW = '{"text": "the old cat sat on a mat.", "label": "good", "source": "the red fox ran to the sea."}\n'
STEPS = ["--set", "training.steps=3"]
SMALL = [
    "--from-scratch", "--set", "autoencoder.backbone.width=32", "--set", "autoencoder.max_tokens=24",
    "--set", "autoencoder.backbone.vocab_size=320", "--set", "autoencoder.bottleneck.latent_dim=16",
    "--set", "diffusion.denoiser.width=32", "--set", "diffusion.denoiser.num_layers=2", *STEPS,
]  # fmt: skip


def examples(share: float, few: int) -> Callable:
    """How many inputs a test tries: a share of all of them in `make fuzz`, else a few, always the same."""
    count = max(1, round(ALL * share)) if ALL else few
    return settings(
        max_examples=count, deadline=None, derandomize=not ALL, database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
    )  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    save_parts(tiny.tiny_parts(), folder)
    return folder


@pytest.fixture
def place(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of a user, who is offline. Any user may enter it."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for folder in (tmp_path, *tmp_path.parents):
        if str(folder).startswith(tempfile.gettempdir() + os.sep):
            folder.chmod(0o777)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def fresh(place: Path, model: Path) -> Callable[[], Path]:
    """Makes a new working folder with a model, some rows and a note of the user's own. One for each input."""

    def make() -> Path:
        for leftover in place.iterdir():
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        folder = Path(tempfile.mkdtemp(dir=place))
        shutil.copytree(model, folder / "model")
        rows = [ROW.replace("cat", animal) for animal in ("cat", "dog", "owl", "hen")]
        rows += [row.replace("good", "bad").replace("mat", "roof") for row in rows]
        (folder / "rows.jsonl").write_text("".join(rows), encoding="utf-8")
        (folder / "note.txt").write_text("mine\n", encoding="utf-8")
        os.chdir(folder)
        return folder

    return make


def verbs_on(name: str) -> list[list[str]]:
    """Commands that read the rows of a file."""
    return [
        ["reconstruct", name, "--model", "model", "-o", "out.jsonl"],
        ["sample", "--model", "model", "--source", name, "-o", "out.jsonl"],
        ["evaluate", name, "--reference", "rows.jsonl", "-o", "out.jsonl"],
        ["evaluate", "rows.jsonl", "--reference", name, "--train", name, "-o", "out.jsonl"],
        ["fit", "judge", "--data", name, "-o", "judge"],
    ]


OUTPUTS = ["out.jsonl", "judge", "run", "runs", "results", "plots"]


@pytest.mark.parametrize("kind", ["tables", "json"])
def test_files_of_any_bytes(fresh: Callable[[], Path], kind: str) -> None:
    files = inputs.damaged(inputs.tables() if kind == "tables" else inputs.json_files())

    @examples(0.22, 25)
    @given(file=files, verb=st.integers(0, 4), piped=st.integers(0, 5))
    def tries(file: inputs.File, verb: int, piped: int) -> None:
        folder = fresh()
        name = f"data{file.ending}"
        (folder / name).write_bytes(file.data)
        before = snapshot(folder)
        words = verbs_on("-" if piped == 0 and verb == 0 else name)[verb]
        check(call(words, file.data if piped == 0 else b""), before, folder, OUTPUTS)

    tries()


def test_training_on_files_of_any_bytes(fresh: Callable[[], Path]) -> None:
    @examples(0.03, 5)
    @given(file=inputs.damaged(st.one_of(inputs.tables(), inputs.json_files())))
    def tries(file: inputs.File) -> None:
        folder = fresh()
        name = f"data{file.ending}"
        (folder / name).write_bytes(file.data)
        before = snapshot(folder)
        check(call(["train", "--data", name, "-o", "run", *SMALL]), before, folder, OUTPUTS)

    tries()


def test_a_text_that_is_read_is_the_text_in_the_file(fresh: Callable[[], Path]) -> None:
    @examples(0.2, 60)
    @given(file=inputs.readable())
    def tries(file: inputs.File) -> None:
        path = fresh() / f"data{file.ending}"
        path.write_bytes(file.data)
        assume(file.texts)  # (a file without rows is an error)
        assert [row["text"] for row in read_rows(path)] == file.texts

    tries()


WORDS = [
    "", "-", "--", "0", "-1", "1", "2", "2.5", "nan", "inf", "99999999999999999999", "é", "a b", "x" * 300, "../x/",
    "note.txt", "rows.jsonl", "model", "nowhere/at/all", "a/b", "good", "text", "label", "source", "true",
    "autoencoder", "training.steps=2", "diffusion.schedule.shift=x", "data.text=label", "x=", "=", "#", "\udcff",
]  # fmt: skip


def _options(verb: str) -> list[str]:
    """The names of the options of a command, from the command line itself."""
    command = app
    for word in verb.split():
        command = command[word]
    return sorted({name for argument in command.assemble_argument_collection() for name in argument.names})


def test_options_of_any_value(fresh: Callable[[], Path]) -> None:
    verbs = {
        "sample": ["--model", "model", "-o", "out.jsonl"], "reconstruct": ["rows.jsonl", "--model", "model"],
        "evaluate": ["rows.jsonl"], "inspect": ["--model", "model"], "train": ["--data", "rows.jsonl", "-o", "run"],
        "benchmark": [], "convert ld4lg": ["model", "-o", "out"], "fit judge": ["--data", "rows.jsonl", "-o", "judge"],
        "fit scorer": [],
    }  # fmt: skip

    @examples(0.18, 25)
    @given(data=st.data())
    def tries(data: st.DataObject) -> None:
        folder = fresh()
        before = snapshot(folder)
        verb = data.draw(st.sampled_from(sorted(verbs)))
        options = data.draw(st.lists(st.tuples(st.sampled_from(_options(verb)), st.sampled_from(WORDS)), max_size=3))
        words = verb.split() + (verbs[verb] if data.draw(st.integers(0, 3)) else [])
        words += [word for option in options for word in option]
        # What is given last holds: a call that is right must not train for a quarter of an hour.
        words += SMALL if verb == "train" and "--data" in words else []
        named = [words[i + 1] for i, word in enumerate(words[:-1]) if word in ("-o", "--output", "--plots")]
        outputs = [os.path.normpath(name) for name in named if name and (name, words.count(name)) != ("rows.jsonl", 2)]
        check(call(words), before, folder, [*outputs, *OUTPUTS])

    tries()


PLACES = [
    "out.jsonl", "out.jsonl.gz", "new/folder/out.jsonl", "note.txt/out.jsonl", "folder", "rows.jsonl", "link", "hard",
    "dangling", "model", "model/model.json", ".", "..", "/dev/full", "/dev/null", "locked/out.jsonl", "n" * 300, "a\nb",
    "é 😀", "-o", " ", "loop",
]  # fmt: skip
READ = ("rows.jsonl", "link", "hard")  # three names of one file
WRITERS = [
    ["reconstruct", "rows.jsonl", "--model", "model"], ["sample", "--model", "model", "-n", "3", "--seed", "1"],
    ["sample", "--model", "model", "--source", "rows.jsonl"], ["evaluate", "rows.jsonl"],
    ["evaluate", "rows.jsonl", "--reference", "rows.jsonl"], ["fit", "judge", "--data", "rows.jsonl"],
    ["train", "--data", "rows.jsonl", *SMALL],
]  # fmt: skip


def test_outputs_of_any_kind(fresh: Callable[[], Path]) -> None:
    @examples(0.1, 30)
    @given(
        words=st.sampled_from(WRITERS),
        target=st.sampled_from(PLACES),
        room=st.sampled_from([None, None, 0, 50, 3000]),
        user=st.booleans(),
    )
    def tries(words: list[str], target: str, room: int | None, user: bool) -> None:
        folder = fresh()
        (folder / "folder").mkdir()
        (folder / "folder" / "mine.txt").write_text("mine", encoding="utf-8")
        (folder / "link").symlink_to("rows.jsonl")
        (folder / "hard").hardlink_to("rows.jsonl")
        (folder / "dangling").symlink_to("nothing-there")
        (folder / "loop").symlink_to("loop")
        locked = folder / "locked"
        locked.mkdir(mode=0o555)
        before = snapshot(folder)
        os.chmod(folder, 0o777)
        with ExitStack() as stack:
            stack.enter_context(full_disk(room) if room is not None else nullcontext())
            stack.enter_context(without_rights() if user else nullcontext())
            ended = call([*words, "-o", target])
        is_folder = os.path.isdir(folder / target)
        if words[0] in ("train", "fit") and is_folder:  # what was there stays; a model or a judge is new
            unchanged = {name: content for name, content in before.items() if content is not None}
            assert {name: (folder / name).read_bytes() for name in unchanged} == unchanged
            return
        ours = [os.path.normpath(target), "nothing-there"]
        if target == "link":  # it points to a file that the command does not read
            ours.append("rows.jsonl")
        if is_folder or target == "model/model.json" or ("rows.jsonl" in words and target in READ):
            ours = []  # (refused)
        check(ended, before, folder, [f"{ours[0]}.partial" if ours else "", *ours])

    tries()


def test_calls_that_end_early(fresh: Callable[[], Path]) -> None:
    @examples(0.07, 8)
    @given(words=st.sampled_from([w for w in WRITERS if "evaluate" not in w]), after=st.floats(0, 0.5))
    def tries(words: list[str], after: float) -> None:
        folder = fresh()
        before = snapshot(folder)
        ours = ["out", "out.partial"]
        ended = call([*words, "-o", "out"], interrupt_after=after)
        assert ended.code in (0, 130)
        check(ended, before, folder, ours)
        again = call([*words, "-o", "out"])
        check(again, before, folder, ours)
        assert again.code == 0, again.err

    tries()


junk = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 300), st.floats(), st.text(max_size=5), st.binary(max_size=3),
    st.lists(st.one_of(st.text(max_size=9), st.none(), st.integers(), st.floats()), max_size=4),
    st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2), st.tuples(st.text(), st.text()),
    st.just(np.array(["a", "b"])), st.just(np.array([1.5])), st.just(torch.zeros(2, 3)), st.just(object()),
)  # fmt: skip


def test_python_calls_with_any_value(model: Path) -> None:
    loaded = LatentDiffusion.from_pretrained(model)
    good = loaded.generate(2, seed=3)

    @examples(0.18, 80)
    @given(data=st.data())
    def tries(data: st.DataObject) -> None:
        def some(name: str) -> dict:
            return {name: data.draw(junk)} if data.draw(st.booleans()) else {}

        calls: dict[str, Callable[[], object]] = {
            "generate": lambda: loaded.generate(
                **some("num_samples"), **some("seed"), **some("seeds"), **some("label"), **some("source"),
                **some("batch_size"), **some("guidance_scale"), **some("temperature"),
            ),
            "encode": lambda: loaded.encode(data.draw(junk), **some("batch_size")),
            "decode": lambda: loaded.decode(data.draw(junk), **some("decoder"), **some("batch_size")),
            "reconstruct": lambda: loaded.reconstruct(data.draw(junk), **some("decoder")),
            "classify": lambda: loaded.classify(data.draw(junk), **some("seeds"), **some("num_levels"), **some("by")),
        }  # fmt: skip
        refused = ""
        try:
            calls[data.draw(st.sampled_from(sorted(calls)))]()
        except UserError as error:
            refused = str(error)
        assert "\n" not in refused

    tries()
    assert loaded.generate(2, seed=3) == good  # the model is as it was


@pytest.fixture(autouse=True)
def _back(request: pytest.FixtureRequest) -> Iterator[None]:
    """Leave the working folder before it is deleted."""
    here = Path.cwd()
    yield
    os.chdir(here)
    sys.stdout.flush()
