"""Section E of the cases from the field: messages in the user's units, hints that work, any terminal, no network."""

import os
import re
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import ladle.hub
import tiny
from ladle import Recipe, SamplingOptions, cli, train
from ladle.cli import exit_codes
from ladle.cli.app import pasted
from ladle.errors import LadleError, UserError
from ladle.hub import loading, reaching_hub
from ladle.storage.model_folder import save_parts
from ladle.storage.names import resolve_model
from ladle.storage.parts import ModelParts

Run = Callable[..., tuple[int, str, str]]
SIZES = (
    "autoencoder.backbone.width=32", "autoencoder.backbone.vocab_size=320", "autoencoder.backbone.num_encoder_layers=1",
    "autoencoder.backbone.num_decoder_layers=1", "autoencoder.bottleneck.latent_dim=16", "autoencoder.max_tokens=24",
    "diffusion.denoiser.width=32", "diffusion.denoiser.num_layers=2", "sampling.num_inference_steps=2",
    "diffusion.denoiser.num_skips=1", "sampling.candidates=1", "autoencoder.backbone.num_heads=4",
)  # fmt: skip
TINY = ["--from-scratch", *(word for size in SIZES for word in ("--set", size))]
NEEDS_NO_MODEL = ["sample", "--model", "no-such-model-anywhere"]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of texts in a folder with a blank in its name; the working folder is beside it."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "my data" / "it's texts.txt"
    path.parent.mkdir()
    path.write_text("\n".join(tiny.SENTENCES))
    return path


def last(err: str) -> str:
    assert "Traceback" not in err and "internal error" not in err
    return err.splitlines()[-1]


def hint(err: str) -> list[str]:
    """The words of the command that the messages end with, as a shell would split it."""
    found = re.findall(r"with: ladle (.*)", err)
    return shlex.split(found[-1])


# ------------------------------------------------------------------------------------------------ budgets


def test_case_a_finished_run_with_more_minutes_says_what_to_type(run: Run, data: Path) -> None:
    """Case E: a finished run, the same command with more `--minutes`. The hint is followed here."""
    command = ["train", "--data", data, "-o", "my run", *TINY]
    assert run(*command, "--minutes", "0.001")[0] == 0
    before = {path: path.stat().st_mtime_ns for path in Path("my run").rglob("*")}
    code, _, err = run(*command, "--minutes", "0.002")
    said = last(err)
    assert code == 2 and {path: path.stat().st_mtime_ns for path in Path("my run").rglob("*")} == before
    assert "my run was started with training.minutes = 0.001, but now 0.002 is given; give the earlier values" in said
    options = re.search(r"to train its model further, give (--set .*) and another --output", said)
    assert options is not None
    sizes = [word for size in SIZES if size.startswith(("diff", "samp")) for word in ("--set", size)]
    further = ["train", "--data", data, "-o", "other", "--minutes", "0.001", *sizes, *shlex.split(options[1])]
    code, out, err = run(*further)
    assert (code, out) == (0, "other/final\n"), err
    assert "starting from the autoencoder and the denoiser of 'my run/final'" in err


@pytest.mark.parametrize("minutes", ["inf", "nan", "-1", "0", "Infinity", "1e999", "5m"])
def test_case_minutes_that_are_no_budget_are_refused(run: Run, data: Path, minutes: str) -> None:
    """Case E: `-n 2.5`, `--minutes inf`, `--text text --label text`. Here: minutes of all verbs that have them."""
    before = sorted(data.parents[1].rglob("*"))
    for words in (
        ["train", "--data", data, "-o", "run"],
        ["fit", "scorer", "--data", data, "-o", "run"],
        ["inspect", "--model", "base-en", "--health", "--data", data],
    ):
        if (words[0], minutes) != ("inspect", "0"):  # (0 trains no small denoiser)
            code, out, err = run(*words, f"--minutes={minutes}")
            assert (code, out, len(err.splitlines())) == (2, "", 1) and "minutes" in last(err)
    assert sorted(data.parents[1].rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([*NEEDS_NO_MODEL, "-n", "2.5"], "-n: '2.5' is not a whole number"),
        ([*NEEDS_NO_MODEL, "-n", "2.0"], "-n: '2.0' is not a whole number"),
        ([*NEEDS_NO_MODEL, "--num-samples", "1e3"], "--num-samples: '1e3' is not a whole number"),
        ([*NEEDS_NO_MODEL, "--seed", "0.5"], "--seed: '0.5' is not a whole number"),
        ([*NEEDS_NO_MODEL, "--batch-size", "7.5"], "--batch-size: '7.5' is not a whole number"),
        ([*NEEDS_NO_MODEL, "--num-inference-steps", "9.5"], "--num-inference-steps: '9.5' is not a whole number"),
        ([*NEEDS_NO_MODEL, "--candidates", "many"], "--candidates: 'many' is not a whole number"),
        (["reconstruct", "x", "--batch-size", "7.5"], "--batch-size: '7.5' is not a whole number"),
        (["train", "--data", "x", "--seed", "1.5"], "--seed: '1.5' is not a whole number"),
        (["fit", "scorer", "--data", "x", "-o", "y", "--seed", "1.5"], "--seed: '1.5' is not a whole number"),
        (["inspect", "--model", "x", "--seed", "1.5"], "--seed: '1.5' is not a whole number"),
        (["benchmark", "x", "--budget", "inf"], "--budget is inf; it must be greater than 0"),
        (["train", "--data", "x", "--set", "training.steps=2.5"], "training.steps: must be a valid integer"),
    ],
)  # fmt: skip
def test_case_numbers_that_are_not_whole_are_refused(run: Run, words: list[str], said: str) -> None:
    """Case E: `-n 2.5`, `--minutes inf`, `--text text --label text`. Here: whole numbers of all verbs."""
    code, out, err = run(*words)
    assert (code, out) == (2, "") and said in last(err)


# ------------------------------------------------------------------------------------------------ hints


@pytest.mark.parametrize("folder", ["my run", "it's $HOME", "-runs/one", "plain"])
def test_case_the_closing_hint_can_be_pasted(run: Run, data: Path, folder: str) -> None:
    """Case E: the closing hint for an output path with a blank."""
    code, out, err = run("train", "--data", data, f"--output={folder}", "--set", "training.steps=3", *TINY)
    assert (code, out) == (0, f"{folder}/final\n")
    words = hint(err)
    assert words[0] == "sample"
    code, out, err = run(*words)
    assert code == 0 and len(out.splitlines()) == 8, err


def test_case_the_hint_after_the_autoencoder_works(run: Run, data: Path) -> None:
    """Case E: `train --stage autoencoder`."""
    stage = ("--stage", "autoencoder", "--set", "training.steps=6")
    code, _, err = run("train", "--data", data, "-o", "my run", *stage, *TINY)
    assert code == 0 and "ladle sample" not in err
    words = hint(err)
    assert words[0] == "reconstruct"
    code, out, err = run(*words)
    assert code == 0 and len(out.splitlines()) == len(tiny.SENTENCES), err


def test_one_is_not_plural(run: Run, data: Path) -> None:
    """One step, one row, one label."""
    data.write_text("\n".join(f'{{"text": "{text}", "label": "fine"}}' for text in tiny.SENTENCES))
    rows = data.rename(data.with_suffix(".jsonl"))
    _, _, err = run("train", "--data", rows, "-o", "run", "--set", "training.steps=3", *TINY)
    _, _, again = run("sample", "--model", "run/final", "-o", "one.jsonl")
    assert "done, 1 step in" in err and "1 label: fine" in err and "1 row written to one.jsonl" in again
    assert not re.search(r"\b1 (rows|steps|labels|texts|samples)\b", err + again)


def test_a_data_file_in_the_place_of_a_recipe_gives_a_command(run: Run, data: Path) -> None:
    """Quoted too; the command gets as far as any."""
    said = last(run("train", data)[2])
    words = shlex.split(said.split("use: ladle ")[1])
    assert words == ["train", "--data", str(data)]
    assert pasted("-x") == "./-x" and pasted(Path("a b")) == "'a b'" and pasted("runs/x") == "runs/x"


def test_too_little_memory_advises_an_option_that_the_command_has(capfd: pytest.CaptureFixture[str], run: Run) -> None:
    """Of every verb."""

    def fail(words: Any) -> None:
        raise MemoryError

    for verb in ("sample", "reconstruct", "train", "evaluate", "fit", "inspect", "demo", "convert", "benchmark"):
        assert exit_codes.run(fail, [verb]) == 1
        options = re.findall(r"--[a-z-]+", capfd.readouterr().err)
        known = run(verb, "--help")[1]
        assert all(option in known for option in options) and bool(options) == (
            verb in ("sample", "reconstruct", "train")
        )


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Recipe(trainig={}), "Recipe: unknown key 'trainig': did you mean 'training'?"),
        (lambda: Recipe(training={"stepps": 3}), "Recipe: unknown key 'training.stepps': did you mean 'steps'?"),
        (lambda: Recipe(training={"steps": -3}), "Recipe: training.steps: must be greater than 0 (given: -3)"),
        (lambda: Recipe(training={"minutes": float("inf")}), "training.minutes: must be a finite number"),
        (lambda: SamplingOptions(guidance_scale="x"), "SamplingOptions: guidance_scale: must be a valid number"),
        (lambda: train("recipe.toml", "x"), "recipe is 'recipe.toml'; give load_recipe(PATH), a mapping of settings"),
        (lambda: train([1], "x"), "recipe is [1]; give load_recipe(PATH)"),
    ],
)
def test_a_wrong_recipe_in_python_is_one_line(make: Callable[[], object], said: str) -> None:
    """Not the several lines of the library that checks it."""
    with pytest.raises(UserError) as caught:
        make()
    assert said in str(caught.value) and "\n" not in str(caught.value)


# ------------------------------------------------------------------------------------------------ terminals


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose name, labels and card hold signs that few encodings have."""
    parts = tiny.tiny_parts(name="模型 é ☕")
    parts.info = {"description": "описание ☕", "limits": "…"}
    folder = tmp_path_factory.mktemp("models") / "modèle ☕"
    save_parts(parts, folder)
    return folder


@pytest.mark.parametrize(
    "encoding", ["ascii", "cp1252", *(pytest.param(name, marks=pytest.mark.slow) for name in ("latin-1", "cp437"))]
)
def test_case_any_terminal_shows_what_it_can(foreign: Path, tmp_path: Path, encoding: str) -> None:
    """Case E: `inspect --model e2e`, `demo` with `PYTHONIOENCODING=ascii` or `cp1252`. Here: files too."""
    (tmp_path / "t.txt").write_text("naïve ☕ текст\nplain\n", encoding="utf-8")
    (tmp_path / "t.jsonl").write_text('{"text": "a b", "label": "☕"}\n' * 2, encoding="utf-8")
    code = f"""
import sys
from ladle import cli
folder, here = {str(foreign)!r}, {str(tmp_path)!r}
codes = [cli.main(words) for words in (
    ["inspect", "--model", folder], ["reconstruct", here + "/t.txt", "--model", folder, "-o", here + "/ö.jsonl"],
    ["sample", "--model", folder, "-n", "1"], ["evaluate", here + "/t.jsonl", "-o", "-"], ["--help"],
    ["sample", "--model", "нет"], ["sample", "--model", folder, "--label", "☕"], ["sample", "--modèle", "x"],
)]
sys.exit(codes != [0, 0, 0, 0, 0, 2, 2, 2])
"""
    environment = os.environ | {"PYTHONIOENCODING": encoding, "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = str(Path(cli.__file__).parents[2])
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment, check=False)
    said = ended.stderr.decode(encoding)
    assert ended.returncode == 0 and "internal error" not in said and "Traceback" not in said, said
    assert (tmp_path / "ö.jsonl").read_text(encoding="utf-8").count("naïve ☕ текст") == 1  # files are UTF-8
    samples = [line for line in ended.stdout.splitlines() if line.startswith(b'{"text"')]
    assert len(samples) == 1 and samples[0].decode("utf-8")
    assert '"☕": 2' in ended.stdout.decode("utf-8", errors="replace")  # data are UTF-8 too


@pytest.mark.slow
@pytest.mark.parametrize("words", [["inspect", "--model", "e2e"], ["demo"]])
@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_case_inspect_and_demo_on_any_terminal(words: list[str], encoding: str) -> None:
    """Case E: `inspect --model e2e`, `demo` with `PYTHONIOENCODING=ascii` or `cp1252`: themselves."""
    environment = os.environ | {"PYTHONIOENCODING": encoding, "PYTHONPATH": str(Path(cli.__file__).parents[2])}
    ended = subprocess.run([sys.executable, "-m", "ladle", *words], capture_output=True, env=environment, check=False)
    assert ended.returncode == 0 and "Caf" in ended.stdout.decode(encoding)


# ------------------------------------------------------------------------------------------------ no network


@pytest.fixture(params=["refused", "silent", "unknown"])
def offline(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[float]]:
    """A hub that refuses, never answers, or has no address; nothing is stored on this machine. Yields the seconds that
    are waited: 3 for each question to the hub at most, and what its libraries sleep before they try again."""
    from huggingface_hub import constants

    waits: list[float] = []
    ask = ladle.hub._answers
    monkeypatch.setattr(time, "sleep", waits.append)
    monkeypatch.setattr(ladle.hub, "_answers", lambda address: waits.append(ladle.hub.SECONDS) or ask(address))
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if request.param == "silent":
            server.listen(5)
        port = server.getsockname()[1]
        address = "http://no-such-host.invalid" if request.param == "unknown" else f"http://127.0.0.1:{port}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.delenv(name, raising=False)
        yield waits


def test_case_a_hub_out_of_reach_is_one_line_within_seconds(run: Run, data: Path, offline: list[float]) -> None:
    """Case E: `train --backbone NAME` offline; and every other place that takes a hub id."""
    from huggingface_hub import constants

    code, _, err = run("train", "--data", data, "-o", "run", "--backbone", "nobody/no-such-model")
    assert 0 < sum(offline) < 5
    assert code == 2 and "Retrying" not in err
    said = "'nobody/no-such-model': there is no such folder, and the hub cannot be reached; name a folder or a hub id"
    assert said in last(err)
    assert constants.HF_HUB_OFFLINE is False  # the program's own choice is back


@pytest.mark.parametrize("offline", ["refused"], indirect=True)
def test_every_place_that_takes_a_hub_id_says_so(run: Run, data: Path, offline: list[float]) -> None:
    """Start, source encoder, scorer, encoder of MAUVE, model, data set."""
    name, train_words = "nobody/no-such-model", ["train", "--data", data, "-o", "run"]
    sources = data.with_name("sources.jsonl")
    sources.write_text("".join(f'{{"text": "a {a} {n}", "source": "{a}"}}\n' for a in ("cat", "dog") for n in range(8)))
    for words in (
        [*train_words, "--set", f"start={name}"],
        ["train", "--data", sources, "-o", "run", "--set", f"source.encoder={name}"],
        ["sample", "--model", name],
        ["inspect", "--model", name],
        ["evaluate", data, "--scorer", name],
        ["fit", "judge", "--data", sources, "-o", "j", "--kind", "encoder", "--encoder", name, "--label", "source"],
        ["train", "-o", "run", "--set", "data.id=nobody/no-such-set"],
    ):
        offline.clear()
        code, out, err = run(*words)
        assert code in (1, 2) and out == "" and 0 < sum(offline) < 5, words
        assert "the hub cannot be reached" in last(err), words


def test_what_is_stored_is_loaded_without_a_network(
    offline: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that was downloaded before needs no hub; a folder never asks it."""
    folder = tmp_path / "cache" / "models--somebody--stories" / "snapshots" / ("0" * 40)
    save_parts(ModelParts("tiny", tiny.tiny_autoencoder()), folder)
    (folder.parents[1] / "refs").mkdir()
    (folder.parents[1] / "refs" / "main").write_text("0" * 40)
    assert resolve_model("somebody/stories") == folder
    assert 0 < sum(offline) < 5
    monkeypatch.setattr("ladle.hub._answers", lambda address: pytest.fail("the hub was asked"))
    with reaching_hub(folder) as online:
        assert not online
    said = f"cannot load the model '{re.escape(str(folder))}': no weights; name a folder"
    with pytest.raises(UserError, match=said), loading("model", folder):
        raise OSError("no weights\nand much more")


def test_threads_leave_the_switch_of_the_hub_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several models at once without a network: afterwards the process is not offline for ever."""
    from huggingface_hub import constants

    monkeypatch.setattr("ladle.hub._answers", lambda address: time.sleep(0.01))

    def load(number: int) -> bool:
        with reaching_hub("me/mine") as online:
            time.sleep(0.01 * (number % 3))
            return online

    with ThreadPoolExecutor(8) as threads:
        assert not any(threads.map(load, range(16)))
    assert constants.HF_HUB_OFFLINE is False


def test_a_hub_that_answers_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own word is shown then; a program's own choice to be offline is kept."""
    from huggingface_hub import constants

    monkeypatch.setattr("ladle.hub._answers", lambda address: True)
    said = "cannot load the model 'me/mine': no such repository; name a folder"
    with pytest.raises(UserError, match=said), loading("model", "me/mine"):
        assert not constants.HF_HUB_OFFLINE
        raise OSError("no such repository")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with reaching_hub("me/mine") as online:
        assert not online and constants.HF_HUB_OFFLINE
    assert constants.HF_HUB_OFFLINE and issubclass(UserError, LadleError)
