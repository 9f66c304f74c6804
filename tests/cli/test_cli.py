"""The command line as a user meets it: what it writes, where, and how it ends when something is wrong."""

import gzip
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
from ladle import __version__, cli
from ladle.cli import exit_codes as outcome
from ladle.pipeline import LatentDiffusion
from ladle.sampling.options import LatentDraw, SamplingOptions
from ladle.storage.model_folder import save_parts

VERBS = (
    "demo", "train", "sample", "reconstruct", "evaluate", "inspect", "embed", "augment", "likelihood",
    "interpolate", "vary", "paraphrase", "edit", "infill", "fit", "plot",
)  # fmt: skip
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved tiny model with the labels bad and good and with source texts."""
    folder = tmp_path_factory.mktemp("cli") / "tiny"
    parts = tiny.tiny_parts()
    # A random autoregressive decoder writes one text whatever it reads; the parallel one's texts differ.
    parts.sampling = parts.sampling.model_copy(update={"decoder": "parallel"})
    assert parts.diffusion is not None
    with torch.random.fork_rng(), torch.no_grad():  # what starts at zero would make all conditions alike
        torch.manual_seed(0)
        for parameter in parts.diffusion.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    save_parts(parts, folder)
    return folder


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """A plain text file of seven short texts."""
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(tiny.SENTENCES[:7]) + "\n")
    return path


def process(*words: object, **options: object) -> subprocess.Popen[str]:
    """The command line as a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(Path(cli.__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "ladle", *map(str, words)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, **options,
    )  # type: ignore[call-overload]  # fmt: skip


def rows(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def one_line(err: str) -> str:
    """Standard error must be one line of ours, without a traceback."""
    assert err.startswith("ladle: "), err
    assert err.count("\n") == 1, err
    assert "Traceback" not in err
    return err


# ------------------------------------------------------------------------------------------------------- verbs


def test_sample_writes_text_seed_and_digest_as_json_lines_on_standard_output(run: Run, model: Path):
    """Rows must say how to draw them again, and standard output must hold nothing but rows."""
    code, out, _ = run("sample", "--model", model, "-n", 3, "--seed", 5)
    assert code == 0
    expected = LatentDiffusion.from_pretrained(model)
    assert rows(out) == [
        {"text": text, "seed": seed, "model": expected.digest}
        for text, seed in zip(expected.generate(seeds=[5, 6, 7]), [5, 6, 7], strict=True)
    ]


def test_a_seed_gives_its_text_at_any_batch_size_and_first_seed(run: Run, model: Path):
    """The promise of one generator per sample, seen from the shell."""
    _, whole, _ = run("sample", "--model", model, "-n", 5, "--seed", 0)
    _, small, _ = run("sample", "--model", model, "-n", 5, "--seed", 0, "--batch-size", 2)
    _, later, _ = run("sample", "--model", model, "-n", 2, "--seed", 3)
    assert whole == small
    assert len({row["text"] for row in rows(whole)}) > 1
    assert rows(later) == rows(whole)[3:]


def test_without_a_seed_others_are_drawn_and_the_log_says_which(run: Run, model: Path):
    """A text that is liked can be had again."""
    (_, out, err), (_, other, _) = (run("sample", "--model", model, "-n", 5, "--temperature", 2) for _ in range(2))
    assert {row["seed"] for row in rows(out)}.isdisjoint(row["seed"] for row in rows(other))
    first, last, again = re.fullmatch(r"seeds (\d+) to (\d+); --seed (\d+) draws the same texts again\n", err).groups()
    assert first == again and [row["seed"] for row in rows(out)] == list(range(int(first), int(last) + 1))
    assert run("sample", "--model", model, "-n", 5, "--temperature", 2, "--seed", again)[1:] == (out, "")


def test_every_sampling_option_is_an_option_of_sample_and_of_generate(
    run: Run, model: Path, monkeypatch: pytest.MonkeyPatch
):
    """One field, everywhere: in the help, as an option, as an override. (The one with several values has an option of
    another name: `--guidance NAME=WEIGHT`.)"""
    asked: list[dict[str, Any]] = []
    generate = LatentDiffusion.generate

    def noted(*arguments: Any, **options: Any) -> list[str]:
        asked.append(options)
        return generate(*arguments, **options)

    monkeypatch.setattr(LatentDiffusion, "generate", noted)
    _, out, _ = run("sample", "--help")
    pair = {name for name, field in SamplingOptions.model_fields.items() if field.annotation is LatentDraw}
    names = (SamplingOptions.model_fields.keys() - pair - {"guidance_scales"}) | LatentDraw.model_fields.keys()
    assert " --guidance " in out
    for name in names:
        option = "--" + name.replace("_", "-")
        assert f" {option} " in out, name
        default = SamplingOptions.flat_fields()[name].default
        # (A number of words has no default, and is not for the parallel decoder, this model's own.)
        value, needs = (3, {"decoder": "autoregressive"}) if default is None else (default, {})
        more = [word for key, wanted in needs.items() for word in (f"--{key}", wanted)]
        assert run("sample", "--model", model, "--label", "good", option, value, *more)[0] == 0, name
        assert asked[-1][name] == value
        assert not asked[-1].keys() & (names - {name} - needs.keys())


def test_labels_take_turns_and_are_written(run: Run, model: Path):
    """A row must carry the label that it was drawn with, or evaluation by class would be wrong."""
    code, out, _ = run("sample", "--model", model, "-n", 3, "--seed", 0, "--label", "good", "--label", "bad")
    assert code == 0
    assert [row["label"] for row in rows(out)] == ["good", "bad", "good"]
    one = LatentDiffusion.from_pretrained(model)
    drawn = [row["text"] for row in rows(out)]
    assert drawn == one.generate(seeds=range(3), label=["good", "bad", "good"])
    assert drawn != one.generate(seeds=range(3), label="good")


def test_sources_are_drawn_n_times_each_with_their_references_and_labels(run: Run, model: Path, tmp_path: Path):
    """Data-to-text evaluation reads source, references and label from the samples alone."""
    path = tmp_path / "sources.jsonl.gz"
    given = [
        {"source": "the cat", "references": ["a cat."], "label": "good"},
        {"source": "the owl", "target": "an owl."},
    ]
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in given).encode()))
    target = tmp_path / "new" / "samples.jsonl"
    more = ("-n", 2, "--seed", 0, "--candidates", 2, "-o", target)
    code, out, err = run("sample", "--model", model, "--source", path, *more)
    assert (code, out) == (0, "")
    assert "4 rows written" in err
    written = rows(target.read_text())
    assert [row["source"] for row in written] == ["the cat", "the cat", "the owl", "the owl"]
    assert [row["seed"] for row in written] == [0, 1, 2, 3]
    assert [(row.get("references"), row.get("label")) for row in written[1:3]] == [(["a cat."], "good"), (None, None)]


def test_a_plain_text_file_holds_one_source_a_line(run: Run, model: Path, texts: Path):
    """The shortest way to condition on something: a text file."""
    code, out, _ = run("sample", "--model", model, "--source", texts)
    assert code == 0
    assert [row["source"] for row in rows(out)] == tiny.SENTENCES[:7]


def test_options_of_sample_reach_the_model(run: Run, model: Path):
    """Each option must change what it names, and nothing when it equals the saved default."""
    command = ("sample", "--model", model, "-n", 4, "--seed", 0, "--label", "good")
    default = run(*command)[1]
    saved = ("--num-inference-steps", 4, "--guidance-scale", 1.5, "--sampler", "dpmpp_2m_sde", "--decoder", "parallel")
    assert run(*command, *saved)[1] == default
    for option in (
        ("--num-inference-steps", 2),
        ("--guidance-scale", 6),
        ("--noise-scale", 0),
        ("--temperature", 2),
        ("--sampler", "ddim"),
        ("--decoder", "autoregressive"),
    ):
        assert run(*command, *option)[1] != default, option


def test_reconstruct_keeps_the_order_and_tells_what_was_cut(run: Run, model: Path, tmp_path: Path):
    """Rows pair with the input lines, and a text that does not fit must not be cut silently."""
    path = tmp_path / "texts.txt"
    given = [tiny.SENTENCES[0], " ".join(tiny.SENTENCES[:9]), tiny.SENTENCES[1]]
    path.write_text("\n".join(given))
    code, out, err = run("reconstruct", "--model", model, path)
    assert code == 0
    assert [row["text"] for row in rows(out)] == given
    assert [row["reconstruction"] for row in rows(out)] == LatentDiffusion.from_pretrained(model).reconstruct(given)
    assert "1 of 3 texts are longer than the model's 24 tokens and were cut" in err
    assert re.search(r"3 texts: BLEU \d+\.\d, \d+\.\d% exactly the same", err)


def test_evaluate_prints_a_table_and_writes_the_report(run: Run, texts: Path, tmp_path: Path):
    """A person reads the table, a program the JSON; with -o - the program gets JSON and nothing else."""
    samples, report = tmp_path / "samples.jsonl", tmp_path / "report.json"
    samples.write_text("".join(json.dumps({"text": text}) + "\n" for text in tiny.SENTENCES[3:9]))
    code, out, _ = run("evaluate", samples, "--reference", texts, "-o", report)
    assert code == 0
    assert out.startswith("| metric |")
    code, out, _ = run("evaluate", samples, "--reference", texts, "-o", "-")
    assert code == 0
    assert json.loads(out)["rows"] == json.loads(report.read_text())["rows"]


def test_inspect_tells_parts_sizes_and_latent_statistics(run: Run, model: Path):
    """What a model is must be seen without Python: each part with its parameters, and the fitted normaliser."""
    code, out, _ = run("inspect", "--model", model)
    assert code == 0
    parts = LatentDiffusion.from_pretrained(model).parts
    assert parts.diffusion is not None
    for module in (parts.autoencoder.backbone.model, parts.autoencoder.bottleneck, parts.diffusion.denoiser):
        assert f"{sum(p.numel() for p in module.parameters()):,}" in out
    for word in ("24 tokens, 8 latents", "bad, good", "dpmpp_2m_sde, 4 steps", "rows", "digest"):
        assert word in out
    assert f"{parts.autoencoder.normaliser.std.max():.3f}" in out


def test_train_from_nothing_makes_a_model_that_samples(run: Run, tmp_path: Path):
    """The path from a user's file to texts, whole, at the smallest size."""
    data = tmp_path / "data.csv"
    data.write_text("text,label\n" + "".join(f"{text},{len(text) % 2}\n" for text in tiny.SENTENCES))
    sizes = [
        "training.steps=6", "autoencoder.max_tokens=24", "autoencoder.backbone.vocab_size=320",
        "autoencoder.backbone.width=32", "autoencoder.bottleneck.latent_dim=16", "diffusion.denoiser.width=32",
        "diffusion.denoiser.num_layers=2", "sampling.num_inference_steps=2",
    ]  # fmt: skip
    settings = [word for size in sizes for word in ("--set", size)]
    command = ("train", "--data", data, "--output", tmp_path / "run", "--from-scratch", "--seed", 3, *settings)
    code, out, err = run(*command)
    assert code == 0, err
    assert out == f"{tmp_path / 'run' / 'final'}\n"
    code, out, err = run("sample", "--model", tmp_path / "run", "-n", 2, "--label", "1")
    assert code == 0, err
    assert [row["label"] for row in rows(out)] == ["1", "1"]


def test_demo_shows_both_models_without_a_network(run: Run, model: Path, tmp_path: Path, monkeypatch):
    """Texts, data to text and reconstruction, from the folders of shipped models (tiny ones stand in here)."""
    monkeypatch.setattr("ladle.cli.demo.shipped_models", lambda: {"e2e": model, "base-en": model})
    code, out, err = run("demo")
    assert code == 0, err
    for word in ("data", "between", "back", "vectors", "ladle train --data FILE"):
        assert word in out
    assert max(map(len, out.splitlines())) <= 100


def test_demo_without_shipped_models_says_so(run: Run, monkeypatch):
    """An installation that lost its models must not end in a traceback."""
    monkeypatch.setattr("ladle.cli.demo.shipped_models", dict)
    code, out, err = run("demo")
    assert (code, out) == (1, "")
    assert "needs the shipped model 'base-en'" in one_line(err)


# --------------------------------------------------------------------------------------------------- wrong use

NO_MODEL = "/no/such/model"  # the checks below come before any model is loaded


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["sampel"], 'Did you mean "sample"?'),
        (["sample", "--model", "x", "--guidance-scal", "2"], "Did you mean --guidance-scale?"),
        (["sample"], "--model requires an argument"),
        (["sample", "--model", "x", "-n", "many"], "-n: 'many' is not a whole number"),
        (["sample", "--model", "x", "--decoder", "paralel"], 'Did you mean "parallel"?'),
        (["train", "--data", "x", "--stage", "difusion"], 'Did you mean "diffusion"?'),
        (["evaluate"], "SAMPLES requires an argument"),
        (["sample", "--model", NO_MODEL, "-n", "0"], "-n (--num-samples) is 0; it must be at least 1"),
        (["sample", "--model", NO_MODEL, "--num-inference-steps", "0"], "--num-inference-steps: must be"),
        (["sample", "--model", NO_MODEL, "--candidates", "-1"], "candidates: must be"),
        (["sample", "--model", NO_MODEL, "--batch-size", "0"], "--batch-size is 0"),
        (["reconstruct", "x", "--batch-size", "0"], "--batch-size is 0"),
        (["sample", "--model", NO_MODEL, "--seed", "-1"], "--seed is -1"),
        (["sample", "--model", NO_MODEL, "--seed", str(2**32 - 1), "-n", "2"], "must be from 0 to 4294967294"),
        (["sample", "--model", NO_MODEL, "--guidance-scale", "nan"], "--guidance-scale: must be a finite number"),
        (["sample", "--model", NO_MODEL, "--temperature", "-1"], "ladle: --temperature: must be"),
        (
            ["sample", "--model", NO_MODEL, "--choose", "label"],
            "--choose label needs a label, an attribute or a control; give --label",
        ),
        (["sample", "--model", NO_MODEL, "--stop-time", "1"], "--stop-time: must be less than 1 (given: 1.0)"),
        (["sample", "--model", NO_MODEL, "--sampler", "ddmp"], "did you mean 'ddpm'?"),
        (["sample", "--model", NO_MODEL, "--source", "none.txt"], "no such file: none.txt"),
        (["sample", "--model", "base-em"], "no model 'base-em'"),
        (["reconstruct", "none.txt"], "no such file: none.txt"),
        (["evaluate", "none.jsonl"], "no such file: none.jsonl"),
        (["inspect", "--model", NO_MODEL], NO_MODEL),
        (["train"], "--data FILE"),
        (["train", "--data", "none.csv"], "no such file: none.csv"),
        (["train", "none.toml"], "none.toml"),
        (["train", "texts.csv"], "ladle train --data texts.csv"),
        (["train", "--data", "x", "--set", "diffusion.shedule.shift=3"], "did you mean 'schedule'?"),
        (["train", "--data", "x", "--set", "training.minutes"], "KEY=VALUE"),
        (["train", "--data", "x", "--minutes", "-3"], "training.minutes"),
        (["train", "--data", "x", "--minutes", "3m"], "--minutes: '3m' is not a number"),
        (
            ["train", "--data", "x", "--from-scratch", "--backbone", "y"],
            "--from-scratch and --backbone cannot be used together",
        ),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(run: Run, words: Sequence[str], says: str, tmp_path: Path, monkeypatch):
    """The line names what was given and what to do; nothing is written."""
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*words)
    assert (code, out) == (2, ""), err
    assert says in one_line(err)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.jsonl", b"", "a.jsonl is empty"),
        ("a.jsonl", b'{"source": "a"}\n{"source": \n', "a.jsonl:2: not JSON"),
        ("a.jsonl", b'{"source": "a"}\n{"text": "b"}\n', "a.jsonl:2: no 'source' among text"),
        ("a.jsonl", b'{"source": 3}\n', "a.jsonl:1: 'source' is 3"),
        (
            "a.jsonl",
            b'{"source": "a"}\n' * 1000 + b'{"source": "a", "references": 5}\n',
            "a.jsonl:1001: 'references' is 5",
        ),
        ("a.csv", b"source,label\na\n", "a.csv:2: 1 cells"),
        ("a.txt", "café\n".encode("latin-1"), "a.txt:1: not UTF-8"),
        ("a.txt.gz", b"plain", "a.txt.gz is not a gzip file"),
        ("a.txt.gz", gzip.compress(b"the cat\n" * 99, mtime=0)[:-9], "incomplete gzip file"),
        ("a.jsonl", b'{"source": "a", "label": "ugly"}\n', "unknown label 'ugly'"),
    ],
)
def test_bad_source_files_are_named_with_file_and_line(
    run: Run, model: Path, tmp_path: Path, name: str, content: bytes, says: str
):
    """Half-written output must not stay behind when a bad row comes late."""
    path = tmp_path / name
    path.write_bytes(content)
    code, out, err = run("sample", "--model", model, "--source", path, "-o", tmp_path / "out.jsonl")
    assert (code, out) == (2, "")
    assert says in one_line(err)
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize(
    ("option", "says"),
    [
        (["--label", "goodd"], "unknown label 'goodd': did you mean 'good'?"),
        (["--sampler", "dpmpp_3m"], "dpmpp_2m"),
        (["--choose", "best"], "label"),
    ],
)
def test_what_the_model_has_not_names_the_nearest(run: Run, model: Path, tmp_path: Path, option: list[str], says: str):
    """Labels and samplers are known only with the model."""
    code, out, err = run("sample", "--model", model, *option, "-o", tmp_path / "out.jsonl")
    assert (code, out) == (2, "")
    assert says in one_line(err)
    assert list(tmp_path.iterdir()) == []


def test_an_autoencoder_without_diffusion_cannot_sample_and_says_what_can(run: Run, tmp_path: Path):
    """It is an easy mistake."""
    parts = tiny.tiny_parts()
    parts.diffusion = None
    save_parts(parts, tmp_path / "autoencoder")
    code, _, err = run("sample", "--model", tmp_path / "autoencoder")
    assert code == 2
    assert "cannot sample" in one_line(err)


@pytest.mark.parametrize("damage", ["truncated", "missing", "pickle", "shape"])
def test_a_damaged_model_folder_is_one_line(run: Run, model_folder: Path, damage: str):
    """Whatever is wrong in it, the file is named and nothing is run."""
    weights = model_folder / "denoiser" / "model.safetensors"
    if damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:-20])
    elif damage == "missing":
        weights.unlink()
    elif damage == "pickle":
        (model_folder / "extra.pt").write_bytes(b"\x80\x04.")
    else:
        record = json.loads((model_folder / "model.json").read_text())
        record["diffusion"]["denoiser"]["width"] = 48
        (model_folder / "model.json").write_text(json.dumps(record))
    for verb in ("sample", "inspect"):
        code, out, err = run(verb, "--model", model_folder)
        assert (code, out) == (2, "")
        assert ("extra.pt" if damage == "pickle" else "denoiser") in one_line(err)


def test_unwritable_output_is_told_before_the_work(run: Run, texts: Path, tmp_path: Path):
    """An hour of sampling must not end with `no permission`: the model here does not even exist."""
    for target in (tmp_path, texts / "out.jsonl", "/proc/none/out.jsonl"):
        for words in (["sample", "--model", NO_MODEL], ["reconstruct", "x"], ["evaluate", "x"]):
            code, _, err = run(*words, "-o", target)
            assert code == 2
            assert f"cannot write {target}" in one_line(err)
    for target in (texts, texts / "run"):
        code, _, err = run("train", "--data", texts, "--output", target)
        assert code == 2
        assert "cannot write" in one_line(err)


def test_a_traceback_comes_only_with_debug(run: Run):
    """Users get the line; whoever mends it gets the place."""
    _, _, err = run("sample", "--model", NO_MODEL, "-n", 0)
    assert "Traceback" not in err
    code, _, err = run("sample", "--model", NO_MODEL, "-n", 0, "--debug")
    assert code == 2
    assert "Traceback" in err
    assert err.splitlines()[-1] == "ladle: -n (--num-samples) is 0; it must be at least 1"


# ------------------------------------------------------------------------------------------- how a command ends


class OutOfMemoryError(RuntimeError):
    """Named as CUDA's, which cannot be had without a GPU."""


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (MemoryError(), 1, "a smaller --batch-size"),
        (OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB"), 1, "a smaller --batch-size"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"), 1, "a smaller --batch-size"),
        (RuntimeError("two\nlines"), 1, "internal error (RuntimeError: two lines); run again with --debug"),
        (OSError(28, "No space left on device"), 1, "No space left on device"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_every_failure_is_one_line_and_its_exit_code(capfd, error: BaseException, code: int, says: str):
    """The program's own defects and the machine's limits end like any other failure."""

    def fail(words: Sequence[str]) -> None:
        raise error

    assert outcome.run(fail, ["sample"]) == code
    assert says in one_line(capfd.readouterr().err)


def test_an_interrupted_training_says_that_it_can_go_on(capfd):
    """Nothing is lost, which a user cannot know."""

    def fail(words: Sequence[str]) -> None:
        raise KeyboardInterrupt

    assert outcome.run(fail, ["train"]) == 130
    assert "interrupted; run the same command again" in one_line(capfd.readouterr().err)


def test_out_of_memory_while_training_advises_what_train_has(capfd):
    """`train` has no --batch-size."""

    def fail(words: Sequence[str]) -> None:
        raise MemoryError

    assert outcome.run(fail, ["train"]) == 1
    assert "max_tokens" in one_line(capfd.readouterr().err)


def test_a_closed_pipe_ends_quietly(model: Path):
    """`ladle sample ... | head -1` must print one row and nothing else, as other tools do."""
    more = ("--num-inference-steps", 1, "--decoder", "parallel", "--batch-size", 512)
    child = process("sample", "--model", model, "-n", 3000, *more)
    assert child.stdout is not None
    assert child.stderr is not None
    assert "text" in json.loads(child.stdout.readline())
    child.stdout.close()
    assert child.stderr.read() == ""
    assert child.wait() == outcome.READER_GONE


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, the always full disk of Linux")
def test_a_full_disk_under_standard_output_is_one_line(model: Path):
    """Python would otherwise complain a second time when it ends."""
    environment = os.environ | {"PYTHONPATH": str(Path(cli.__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "ladle", "inspect", "--model", str(model)],
            stdout=full, stderr=subprocess.PIPE, text=True, env=environment, check=False,
        )  # fmt: skip
    assert ended.returncode == 1
    assert "No space left" in one_line(ended.stderr)


def test_interrupting_and_terminating_leave_no_half_written_file(model: Path, tmp_path: Path):
    """Ctrl-C is 130, SIGTERM 143. The rows drawn so far are kept beside the output, and a line says where."""
    partial = tmp_path / "out.jsonl.partial"
    for number, expected in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        words = ("sample", "--model", model, "-n", 100_000, "--seed", 0, "--batch-size", 16)
        child = process(*words, "-o", tmp_path / "out.jsonl")
        deadline = time.monotonic() + 60
        before = partial.stat().st_size if partial.exists() else 1000
        while not (partial.exists() and partial.stat().st_size > before):  # rows are being written
            assert time.monotonic() < deadline
            assert child.poll() is None
            time.sleep(0.05)
        child.send_signal(number)
        _, err = child.communicate(timeout=60)
        assert child.returncode == expected
        assert "Traceback" not in err
        count = len(partial.read_text().splitlines()) - 1  # the first line names the command
        assert f"{count:,} rows kept in {partial}; the same command goes on from there" in err
        assert list(tmp_path.iterdir()) == [partial]


def test_standard_input_is_read_where_a_dash_is_given(model: Path):
    """Verbs chain: `ladle sample ... | ladle evaluate -`."""
    child = process("reconstruct", "--model", model, "-", "-o", "-", stdin=subprocess.PIPE)
    out, err = child.communicate(tiny.SENTENCES[0] + "\n")
    assert child.returncode == 0, err
    assert rows(out)[0]["text"] == tiny.SENTENCES[0]


# ------------------------------------------------------------------------------------------------------- help


@pytest.mark.parametrize("verb", ["", *VERBS, "fit direction", "plot trajectory", "plot interpolation", "plot map"])
def test_help_explains_every_argument(run: Run, verb: str):
    """Help is the reference: each option has its words, and the page goes to standard output."""
    code, out, err = run(*verb.split(), "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"Usage: ladle {verb}".strip())
    for name in VERBS if not verb else ():
        assert name in out
    undocumented = re.findall(r"^│[* ]+--[\w-]+(?: -\w)?(?: [A-Z.]+)?\s+│$", out, flags=re.M)
    assert undocumented == []


def test_help_and_version_import_nothing_heavy_and_are_quick():
    """Under half a second on an idle machine; processor time is measured, since tests share the machine."""
    code = (
        "import sys, time\n"
        "from ladle.cli import main\n"
        "assert main(sys.argv[1:]) == 0\n"
        "heavy = {'torch', 'transformers', 'numpy', 'accelerate', 'datasets', 'sacrebleu'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "print(time.process_time())"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(cli.__file__).parents[2])}
    for words in (["--help"], ["sample", "--help"], ["--version"]):
        ended = subprocess.run(
            [sys.executable, "-c", code, *words], capture_output=True, text=True, env=environment, check=True
        )
        *page, seconds = ended.stdout.splitlines()
        assert float(seconds) < 1.0
        assert page[0] == __version__ or page[0].startswith("Usage: ladle")


def test_the_model_folder_is_untouched_by_use(run: Run, model: Path, tmp_path: Path):
    """A model may lie where its user cannot write."""
    copy = Path(shutil.copytree(model, tmp_path / "copy"))
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*")}
    assert run("sample", "--model", copy)[0] == 0
    assert run("inspect", "--model", copy)[0] == 0
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*")} == before
