"""Section A: the user's files are neither lost nor falsified. (Killed processes: test_kills.py.)"""

import gzip
import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import runs
import tiny
from ladle import cli
from ladle.errors import UserError
from ladle.evaluation.evaluate import evaluate
from ladle.evaluation.judge import Judge, fit_judge, fit_rows
from ladle.paper.conversion import convert_ld4lg
from ladle.pipeline import LatentDiffusion
from ladle.storage.checks import check_writable
from ladle.storage.model_folder import load_parts, save_parts
from ladle.storage.run_folder import LOCK, locked
from ladle.storage.writing import atomic_json, write_rows
from ladle.training.run import train

Run = Callable[..., tuple[int, str, str]]
NOWHERE = "no-such-model"  # what loads it has begun to work


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved tiny model with labels and source texts. Its parallel decoder writes texts that differ."""
    folder = tmp_path_factory.mktemp("files") / "tiny"
    parts = tiny.tiny_parts()
    parts.sampling = parts.sampling.model_copy(update={"decoder": "parallel"})
    save_parts(parts, folder)
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A finished run and its data."""
    folder = tmp_path_factory.mktemp("finished")
    data = runs.write_rows(folder / "rows.jsonl")
    train(runs.recipe(data), folder / "run", log=runs.quiet)
    return folder / "run", data


def refused(result: tuple[int, str, str], says: str = "") -> None:
    """A line says what is wrong. (A training may have said before what it read.)"""
    code, out, err = result
    assert (code, out, err.count("ladle: ")) == (2, "", 1), err
    assert says in err.splitlines()[-1] and err.splitlines()[-1].startswith("ladle: ")


def process(*words: object, **options: Any) -> "subprocess.Popen[str]":
    """The command line as a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(Path(cli.__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "ladle", *map(str, words)], stderr=subprocess.PIPE, text=True, env=environment, **options
    )


# ------------------------------------------------------------------------------------- an output that is an input


@pytest.mark.parametrize("name", ["rows.jsonl", "symbolic.jsonl", "hard.jsonl", "deep/../rows.jsonl"])
def test_case_an_output_that_is_an_input_is_refused(run: Run, tmp_path: Path, name: str) -> None:
    """Case A: `reconstruct x -o x`, `sample --source s -o s`, `evaluate s -o s`; by a symbolic or hard link."""
    rows = runs.write_rows(tmp_path / "rows.jsonl")
    before = rows.read_bytes()
    (tmp_path / "symbolic.jsonl").symlink_to(rows)
    (tmp_path / "hard.jsonl").hardlink_to(rows)
    (tmp_path / "deep").mkdir()
    output = tmp_path / name
    for words in (
        ["reconstruct", rows, "--model", NOWHERE],
        ["sample", "--model", NOWHERE, "--source", rows],
        ["evaluate", rows],
        ["evaluate", NOWHERE, "--reference", rows],
        ["evaluate", NOWHERE, "--train", rows],
        ["inspect", "--health", "--model", NOWHERE, "--data", rows],
    ):
        refused(run(*words, "-o", output), "the command reads it; give another name")
    with pytest.raises(UserError, match="the command reads it"):
        evaluate(rows, output=output)
    assert rows.read_bytes() == before


def test_case_standard_input_and_the_files_of_a_model_are_inputs_too(
    run: Run, tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Case A: `reconstruct - -o x < x`; `sample --model m -o m/model.json`."""
    rows = runs.write_rows(tmp_path / "rows.jsonl")
    child = process("reconstruct", "-", "--model", NOWHERE, "-o", rows, stdin=rows.open(), stdout=subprocess.DEVNULL)
    assert "the command reads it" in child.communicate()[1]
    assert child.returncode == 2
    before = runs.content(model)
    for name in ("model.json", "denoiser/model.safetensors", "README.md"):
        for words in (["sample", "--model", model], ["reconstruct", rows], ["evaluate", rows]):
            refused(run(*words, "-o", model / name), f"Ladle made {model}, and this is a part of it")
    refused(run("fit", "judge", "--data", rows, "-o", model / "judge"), f"Ladle made {model}, and this is a part of it")
    assert runs.content(model) == before


def test_case_the_files_of_a_run_are_no_place_for_samples(run: Run, finished: tuple[Path, Path]) -> None:
    """Case A: `sample -o runs/x/config.json`; beside them, and among the run's samples, there is room."""
    output, data = finished
    before = runs.content(output)
    for name in ("config.json", "metrics.jsonl", "state/diffusion/state.json", "final/model.json"):
        refused(run("sample", "--model", output, "-o", output / name), "and this is a part of it; give another name")
    assert runs.content(output) == before
    for name in ("mine.jsonl", "samples/mine.jsonl", "final/mine.jsonl"):
        assert run("sample", "--model", output, "-o", output / name)[0] == 0
    train(runs.recipe(data), output, log=runs.quiet)
    assert (output / "samples" / "mine.jsonl").exists() and (output / "final" / "mine.jsonl").exists()


def test_case_a_training_does_not_write_over_its_data(tmp_path: Path, finished: tuple[Path, Path]) -> None:
    """Case A: `train --data runs/x/metrics.jsonl -o runs/x`; a start inside the run; `convert x -o x`."""
    output, _ = finished
    before = runs.content(output)
    for data in (output / "metrics.jsonl", output / "samples"):
        with pytest.raises(UserError, match="is an input, but .*run is written over it"):
            train(runs.recipe(data), output, log=runs.quiet)
    with pytest.raises(UserError, match="is an input"):
        train(runs.recipe(start=str(output)), output, log=runs.quiet, data=["a text", "another"])
    assert runs.content(output) == before
    with pytest.raises(UserError, match="the command reads it"):
        convert_ld4lg(tmp_path, tmp_path)


# --------------------------------------------------------------------------------------- what Ladle did not write


def add_own_files(folder: Path) -> dict[str, str]:
    """Files of the user's in a folder of Ladle's."""
    own = {".git/HEAD": "ref", "notes.txt": "mine", "denoiser/notes.txt": "mine", "figures/a.png": "mine"}
    for name, text in own.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return own


def kept(folder: Path, own: dict[str, str]) -> bool:
    return {name: (folder / name).read_text() for name in own} == own


def test_case_a_file_of_the_users_stays_when_a_model_is_saved_again(tmp_path: Path) -> None:
    """Case A: a file of the user's, or `.git`, inside a model folder; then `save_pretrained` there again."""
    model = LatentDiffusion(tiny.tiny_parts())
    (tmp_path / "m" / ".git").mkdir(parents=True)  # a fresh clone
    model.save_pretrained(tmp_path / "m")
    own, number = add_own_files(tmp_path / "m"), (tmp_path / "m").stat().st_ino
    (tmp_path / "link").symlink_to("m")
    smaller = LatentDiffusion(tiny.tiny_parts())
    smaller.parts.diffusion = None
    smaller.save_pretrained(tmp_path / "link")
    assert kept(tmp_path / "m", own) and (tmp_path / "m").stat().st_ino == number and (tmp_path / "link").is_symlink()
    assert not (tmp_path / "m" / "condition").exists()  # the earlier model's
    assert load_parts(tmp_path / "m").diffusion is None


def test_case_a_file_of_the_users_stays_when_a_finished_training_is_called_again(
    tmp_path: Path, finished: tuple[Path, Path]
) -> None:
    """Case A: a file of the user's inside a model folder; then the same finished `train` once more."""
    output, data = finished
    own = add_own_files(output / "final") | {f"../{name}": text for name, text in add_own_files(output).items()}
    train(runs.recipe(data), output, log=runs.quiet)
    assert kept(output / "final", own)


def test_case_a_file_of_the_users_stays_when_a_judge_is_fitted_again(run: Run, tmp_path: Path, model: Path) -> None:
    """Case A: a file of the user's inside a judge's folder, or a model folder; then `fit judge` there."""
    rows = runs.write_rows(tmp_path / "rows.jsonl")
    for folder in (tmp_path / "judge", model):
        for _ in range(2):
            own = add_own_files(folder)
            assert run("fit", "judge", "--data", rows, "-o", folder)[0] == 0
            assert kept(folder, own) and Judge.load(folder).labels == tiny.LABELS
    load_parts(model)


def test_case_the_folder_itself_stays(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Case A: `save_pretrained(".")`, `fit judge -o .`: a shell that stands in the folder goes on."""
    rows = runs.write_rows(tmp_path / "rows.jsonl")
    for name in ("model", "judge"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        for _ in range(2):
            if name == "model":
                LatentDiffusion(tiny.tiny_parts()).save_pretrained(".")
            else:
                assert run("fit", "judge", "--data", rows, "-o", ".")[0] == 0
        assert os.path.samefile(os.getcwd(), tmp_path / name)  # (it fails in a deleted folder)
        assert os.listdir(".") == os.listdir(tmp_path / name)
    assert Judge.load(".").labels == tiny.LABELS
    load_parts(tmp_path / "model")


# ----------------------------------------------------------------------------------- a refused command changes nothing


def test_case_a_refused_training_changes_nothing(run: Run, finished: tuple[Path, Path], tmp_path: Path) -> None:
    """Case A: `train` on a finished run with other data or settings; the same on one that has only begun."""
    output, data = finished
    other = runs.write_rows(tmp_path / "other.jsonl", [{"text": f"another {row['text']}"} for row in runs.ROWS])
    wider = {"denoiser": {"width": 64, "num_layers": 2, "num_skips": 1}, "schedule": {"shift": 2.0}}
    refusals: list[tuple[dict[str, Any], str]] = [
        ({"diffusion": wider}, "diffusion.denoiser.width"),
        ({"training": {"steps": 7}}, "training.steps"),
        ({"training": {"optimiser": {"max_tokens": 400, "lr": 1e-5}}}, "optimiser.lr"),
        ({"training": {"autoencoder": {"token_mask_prob": 0.1}}}, "token_mask_prob"),
    ]
    before = runs.content(output)
    with pytest.raises(UserError, match="was started with data.rows"):
        train(runs.recipe(other), output, log=runs.quiet)
    for settings, key in refusals:
        with pytest.raises(UserError, match=f"was started with .*{key}"):
            train(runs.recipe(data, **settings), output, log=runs.quiet)
        assert runs.content(output) == before
    refused(run("train", output / "recipe.toml", "--data", other, "-o", output), "was started with data.rows")
    refused(run("train", output / "recipe.toml", "--seed", 5, "-o", output), "was started with training.seed")
    assert runs.content(output) == before


def test_case_a_refused_command_leaves_no_new_folder(run: Run, tmp_path: Path) -> None:
    """Case A: wrong data, an encoder that is none, an unknown setting: there is no folder that was not there."""
    rows = runs.write_rows(tmp_path / "rows.jsonl", [{"text": row["text"], "source": "x"} for row in runs.ROWS])
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.iterdir())
    for output in (tmp_path / "new" / "run", tmp_path / "empty"):
        for words in (["--set", f"source.encoder={tmp_path}"], ["--set", "trainin.steps=3"], ["--text", "nothing"]):
            refused(run("train", "--data", rows, "--from-scratch", "--minutes", 1, *words, "-o", output))
        refused(run("fit", "scorer", "--data", tmp_path / "none", "-o", output))
        refused(run("fit", "judge", "--data", rows, "-o", output))
        assert sorted(tmp_path.iterdir()) == before and not any((tmp_path / "empty").iterdir())


def test_what_a_run_that_died_early_left_is_not_used_for_other_data(tmp_path: Path) -> None:
    """Its vocabulary and its shift were made from its own texts."""
    shift = {"diffusion": {"denoiser": {"width": 32, "num_layers": 2, "num_skips": 1}}}
    other = [row["text"].upper() for row in runs.ROWS]
    train(runs.recipe(**shift), tmp_path / "whole", log=runs.quiet, data=other)
    train(runs.recipe(**shift), tmp_path / "run", log=runs.quiet, data=runs.ROWS)
    state = tmp_path / "run" / "state"
    atomic_json(state / "shift.json", json.loads((state / "shift.json").read_text()) | {"shift": 77.0})
    for stage in ("autoencoder", "diffusion", "decoder"):  # as if it had been killed before the first state
        for path in (state / stage).iterdir():
            path.unlink()
        (state / stage).rmdir()
    train(runs.recipe(**shift), tmp_path / "run", log=runs.quiet, data=other)
    for name in ("tokenizer/tokenizer.json", "shift.json"):
        assert (state / name).read_bytes() == (tmp_path / "whole" / "state" / name).read_bytes()


def test_a_damaged_config_is_no_obstacle(tmp_path: Path, finished: tuple[Path, Path]) -> None:
    """The states say what was trained; config.json is for the reader."""
    output, data = finished
    whole = (output / "config.json").read_bytes()
    for text in ("{", "[]", '{"training": 3}'):
        (output / "config.json").write_text(text)
        train(runs.recipe(data), output, log=runs.quiet)
        assert (output / "config.json").read_bytes() == whole


# ------------------------------------------------------------------------------------------ the user's own names


@pytest.mark.parametrize(
    "name", ["recipe.toml", "config.json", "final", "samples", "metrics.jsonl", "environment.json"]
)
def test_case_a_folder_with_such_names_of_the_users_own_is_refused(
    run: Run, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Case A: `train recipe.toml --data base.csv -o .` in a folder with such files of the user's own."""
    monkeypatch.chdir(tmp_path)
    data = runs.write_rows(tmp_path / "base.jsonl")
    recipe = tmp_path / ("recipe.toml" if name == "recipe.toml" else "mine.toml")
    recipe.write_text('name = "mine"\n')
    if name in ("final", "samples"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.txt").write_text("mine")
    elif name != "recipe.toml":
        (tmp_path / name).write_text('{"mine": 1}')
    before = runs.content(tmp_path)
    refused(run("train", recipe, "--data", data, "-o", "."), f"{name} exists, and Ladle did not write it")
    refused(run("fit", "scorer", "--data", data, "-o", "."), f"{name} exists, and Ladle did not write it")
    assert runs.content(tmp_path) == before


def test_a_judge_and_a_model_spare_such_names_too(tmp_path: Path) -> None:
    """A `model.json` of another tool is not taken for Ladle's. All of it is refused before the work."""
    rows = runs.write_rows(tmp_path / "rows.jsonl")
    for name in ("model.json", "judge.json", "README.md", "tokenizer", "results.json"):
        (tmp_path / name).write_text("{}")
    before = runs.content(tmp_path)
    with pytest.raises(UserError, match=r"README.md exists, and Ladle did not write it"):
        LatentDiffusion(tiny.tiny_parts()).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"judge.json exists, and Ladle did not write it"):
        fit_judge(rows, tmp_path)
    with pytest.raises(UserError, match=r"README.md exists, and Ladle did not write it"):
        convert_ld4lg(tmp_path / "none", tmp_path)
    assert runs.content(tmp_path) == before


@pytest.mark.parametrize("name", ["words.txt", "phrases.json", "sentence_encoder", "decoder_condition"])
def test_a_plan_model_spares_such_names_too(tmp_path: Path, name: str) -> None:
    """Also those that this model would not write: the next one that is put there might."""
    (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match=f"{name} exists, and Ladle did not write it"):
        LatentDiffusion(tiny.tiny_plan_parts()).save_pretrained(tmp_path)
    assert (tmp_path / name).read_text() == "mine"


def test_a_scorer_is_not_trained_where_its_model_cannot_be_put(
    run: Run, finished: tuple[Path, Path], tmp_path: Path
) -> None:
    """`fit scorer` in the folder of a `train`, and a `final` that came after the run began: refused before the work."""
    output, data = finished
    before = runs.content(output)
    refused(
        run("fit", "scorer", "--data", data, "-o", output), f"{output / 'final' / 'tokenizer'} exists, and Ladle did"
    )
    assert runs.content(output) == before
    train(runs.recipe(data), tmp_path / "run", "autoencoder", runs.quiet)
    (tmp_path / "run" / "final" / "model.json").write_text("{}")
    with pytest.raises(UserError, match=r"final.*exists, and Ladle did not write it"):
        train(runs.recipe(data), tmp_path / "run", log=runs.quiet)


def test_a_run_goes_on_from_its_own_recipe(run: Run, finished: tuple[Path, Path]) -> None:
    """`train runs/x/recipe.toml -o runs/x`: those names are the run's."""
    output, _ = finished
    assert run("train", output / "recipe.toml", "-o", output)[0] == 0


# --------------------------------------------------------------------------------------------------- one at a time

HOLDER = """
import sys, time
from ladle.storage.run_folder import locked
with locked(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """Another process that trains in tmp_path/run."""
    words = [sys.executable, "-c", HOLDER, str(tmp_path / "run")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None and child.stdout.readline() == "held\n"
        yield child
        child.kill()


def test_case_of_two_trainings_in_one_folder_the_second_is_refused(
    run: Run, tmp_path: Path, holder: "subprocess.Popen[str]"
) -> None:
    """Case A: two `train` into one output folder at once; a lock left by a dead process is no obstacle."""
    data = runs.write_rows(tmp_path / "rows.jsonl")
    before = runs.content(tmp_path)
    for words in (["train"], ["fit", "scorer"]):
        result = run(*words, "--data", data, "-o", tmp_path / "run")
        refused(result, f"run is in use by process {holder.pid} on ")
    assert runs.content(tmp_path) == before
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / "run" / LOCK).exists()
    train(runs.recipe(data), tmp_path / "run", "autoencoder", runs.quiet)
    assert not (tmp_path / "run" / LOCK).exists()


def test_two_commands_do_not_write_one_output_at_once(run: Run, tmp_path: Path, model: Path) -> None:
    """Their rows would be mixed in the file where they wait."""
    output = tmp_path / "out.jsonl"
    with locked(output, tmp_path / ".out.jsonl.lock"):
        refused(run("sample", "--model", model, "-o", output), f"{output} is in use by process {os.getpid()} on ")
    assert run("sample", "--model", model, "-o", output)[0] == 0 and os.listdir(tmp_path) == ["out.jsonl"]


def test_two_threads_are_two_as_well(tmp_path: Path) -> None:
    """A notebook may start two trainings."""
    with locked(tmp_path / "run"):
        caught: list[UserError] = []

        def second() -> None:
            try:
                train(runs.recipe(), tmp_path / "run", log=runs.quiet, data=runs.ROWS)
            except UserError as error:
                caught.append(error)

        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
        assert f"in use by process {os.getpid()} on" in str(caught[0])
    assert not (tmp_path / "run").exists()


# ----------------------------------------------------------------------------------------------------------- modes


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_case_modes_follow_the_umask(tmp_path: Path, mask: int) -> None:
    """Case A: `umask 022`, a labelled model loaded by another user. A file that is replaced keeps its mode."""
    parts = tiny.tiny_parts()
    parts.judge = fit_rows([dict(row) for row in runs.ROWS])  # type: ignore[arg-type]
    earlier = os.umask(mask)
    try:
        save_parts(parts, tmp_path / "model")
        train(runs.recipe(), tmp_path / "run", "autoencoder", runs.quiet, data=runs.ROWS)
        weights = tmp_path / "model" / "judge" / "model.safetensors"
        modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*") if path.is_file()}
        assert modes == {0o666 & ~mask}
        weights.chmod(0o640)
        (tmp_path / "model" / "model.json").chmod(0o604)
        save_parts(parts, tmp_path / "model")
        assert [stat.S_IMODE(path.stat().st_mode) for path in (weights, tmp_path / "model" / "model.json")] == [
            0o640,
            0o604,
        ]
    finally:
        os.umask(earlier)


# ------------------------------------------------------------------------------------------------- rows that are kept


def interrupt_after(monkeypatch: pytest.MonkeyPatch, name: str, calls: int, error: BaseException) -> None:
    """Let the model be interrupted after it has drawn so many portions."""
    real, count = getattr(LatentDiffusion, name), 0

    def draw(*given: Any, **options: Any) -> Any:
        nonlocal count
        count += 1
        if count > calls:
            raise error
        return real(*given, **options)

    monkeypatch.setattr(LatentDiffusion, name, draw)


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz"])
@pytest.mark.parametrize("verb", ["sample", "reconstruct"])
def test_case_rows_already_drawn_are_kept(
    run: Run, tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, verb: str, ending: str
) -> None:
    """Case A: Ctrl-C in `sample -n 3000 -o big.jsonl`: kept, with one line where; the same command goes on."""
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(tiny.SENTENCES) + "\n")
    words = ["sample", "-n", 49, "--seed", 3] if verb == "sample" else ["reconstruct", texts]
    words += ["--model", model, "--batch-size", 4]
    output, whole = tmp_path / f"out.{ending}", tmp_path / f"whole.{ending}"
    code, _, said = run(*words, "-o", whole)
    assert code == 0
    write_rows(output, [{"text": "earlier", "seed": 1}])
    earlier = output.read_bytes()
    partial = tmp_path / f"out.{ending}.partial"
    name = "generate" if verb == "sample" else "reconstruct"
    for calls, rows, error in ((1, 4, KeyboardInterrupt()), (1, 20, SystemExit(143))):
        with monkeypatch.context() as patch:
            interrupt_after(patch, name, calls, error)
            if isinstance(error, SystemExit):
                with pytest.raises(SystemExit):
                    run(*words, "-o", output)
            else:
                code, _, err = run(*words, "-o", output)
                assert code == 130
                assert f"\n{rows} rows kept in {partial}; the same command goes on from there\n" in f"\n{err}"
                assert f"{output} exists; it is replaced when all new rows are there" in err
        assert len(partial.read_text().splitlines()) == rows + 1
        assert output.read_bytes() == earlier
    with open(partial, "a") as file:
        file.write('{"text": "cut o')  # the kill of a system that lost its power
    refused(run(*words[:-1], 5, "--model", NOWHERE, "-o", texts) if verb == "reconstruct" else run(
        "sample", "-n", 48, "--seed", 3, "--model", model, "-o", output
    ), "")  # fmt: skip
    code, _, err = run(*words, "-o", output)
    assert code == 0 and "20 rows drawn before; going on from there" in err
    assert output.read_bytes() == whole.read_bytes()
    assert err.splitlines()[-1] == said.splitlines()[-1].replace("whole.", "out.")
    assert not partial.exists() and not list(tmp_path.glob(".*"))


def test_an_interruption_before_the_first_row_says_so(
    run: Run, tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_after(monkeypatch, "generate", 0, KeyboardInterrupt())
    output = tmp_path / "out.jsonl"
    words = ["sample", "--model", model, "-n", 3, "--seed", 3, "-o", output]
    code, _, err = run(*words)
    assert code == 130 and err.splitlines()[-2:] == ["no row was drawn yet", "ladle: interrupted"]
    write_rows(output, [{"text": "earlier", "seed": 1}])
    code, _, err = run(*words)
    assert code == 130 and err.splitlines()[-2:] == [
        f"no row was drawn yet; {output} is unchanged",
        "ladle: interrupted",
    ]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("out")] == ["out.jsonl"]


def test_another_command_does_not_go_on_from_rows_that_are_kept(
    run: Run, tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither another seed, model, number or option, nor a file of the user's with that name. A random seed is
    remembered."""
    output, partial = tmp_path / "out.jsonl", tmp_path / "out.jsonl.partial"
    words = ["sample", "--batch-size", 4, "-o", output]
    asked = {"--model": model, "-n": 12}

    def again(**change: Any) -> tuple[int, str, str]:
        return run(*words, *(word for pair in (asked | change).items() for word in pair))

    with monkeypatch.context() as patch:
        interrupt_after(patch, "generate", 1, KeyboardInterrupt())
        assert again()[0] == 130
    before = partial.read_bytes()
    save_parts(tiny.tiny_parts(seed=1), tmp_path / "other")
    changes = {"--seed": 4, "-n": 13, "--model": tmp_path / "other", "--guidance-scale": 3, "--label": "bad"}
    for option, value in changes.items():
        refused(again(**{option: value}), f"{partial} holds rows of another command that was interrupted; run that")
    assert partial.read_bytes() == before and not output.exists()
    assert again()[0] == 0
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    first = json.loads(before.splitlines()[1])["seed"]
    assert [row["seed"] for row in rows] == list(range(first, first + 12))
    assert rows[5]["text"] == LatentDiffusion.from_pretrained(model).generate(seed=first + 5)[0]
    partial.write_text("a file of the user's")
    refused(again(), "holds rows of another command")
    assert partial.read_text() == "a file of the user's"


def test_a_command_that_fails_before_its_first_row_leaves_nothing(
    run: Run, tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is nothing to keep."""
    with monkeypatch.context() as patch:
        interrupt_after(patch, "generate", 0, KeyboardInterrupt())
        assert run("sample", "--model", model, "-o", tmp_path / "new" / "out.jsonl")[0] == 130
    refused(run("sample", "--model", model, "--label", "none", "-o", tmp_path / "new" / "out.jsonl"))
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------------------- pipes


def test_case_a_reader_that_leaves_ends_the_drawing(model: Path) -> None:
    """Case A: `sample ... | head -1` ends within 2 s of the reader's leaving, without a traceback."""
    words = ("sample", "--model", model, "-n", 100_000, "--num-inference-steps", 1000, "--batch-size", 1024)
    child = process(*words, stdout=subprocess.PIPE)
    assert child.stdout is not None and child.stderr is not None
    assert "text" in json.loads(child.stdout.readline())  # (of the first eight; the next thousand take a minute)
    time.sleep(1.0)
    child.stdout.close()
    begun = time.monotonic()
    assert child.stderr.read() == ""
    assert child.wait(60) == 141
    assert time.monotonic() - begun < 5  # (of which the test's machine may take some)


def test_case_closed_streams_do_no_harm(model: Path, tmp_path: Path) -> None:
    """Case A: stdout closed (`>&-`); also the other two: no traceback, and no file gets their numbers."""
    output = tmp_path / "out.jsonl"
    ladle = f"'{sys.executable}' -m ladle"
    cases = (
        (f"{ladle} sample --model '{model}' >&-", 2, "ladle: standard output is closed; give --output FILE\n"),
        (f"{ladle} reconstruct - --model '{model}' <&-", 2, "ladle: standard input is empty\n"),
        (f"{ladle} --help >&- <&-", 0, ""),
        (f"{ladle} sample -n 0 --model x 2>&-", 2, ""),
        (f"{ladle} sample --model '{model}' -n 2 --seed 1 -o '{output}' >&- 2>&- <&-", 0, ""),
    )
    environment = os.environ | {"PYTHONPATH": str(Path(cli.__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    for words, code, says in cases:
        ended = subprocess.run(["sh", "-c", words], capture_output=True, text=True, env=environment, check=False)
        assert (ended.returncode, ended.stdout, ended.stderr) == (code, "", says), words
    assert [json.loads(line)["seed"] for line in output.read_text().splitlines()] == [1, 2]
    assert list(tmp_path.iterdir()) == [output]


# ------------------------------------------------------------------------------------------- data and run in one folder


def test_rows_and_reports_for_a_closed_standard_output_are_refused(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every verb that writes data to it says so before it works."""
    monkeypatch.setattr(sys, "__stdout__", None)
    for words in (["evaluate", "x"], ["reconstruct", "x"], ["inspect", "--health", "--model", NOWHERE, "--data", "x"]):
        refused(run(*words, "-o", "-"), "standard output is closed; give --output FILE")


@pytest.mark.parametrize("name", ["train.jsonl", "mine.jsonl"])
def test_case_a_run_folder_may_be_its_data_folder(tmp_path: Path, name: str) -> None:
    """Case A: run folder = data folder, started again: goes on. Its own config.json is not read as data."""
    data = runs.write_rows(tmp_path / name)
    before = data.read_bytes()
    for _ in range(2):
        lines: list[str] = []
        train(runs.recipe(tmp_path), tmp_path, log=lines.append)
    assert sum("already trained" in line for line in lines) == 3
    assert data.read_bytes() == before and load_parts(tmp_path).diffusion is not None


def test_gzip_is_whole(tmp_path: Path, run: Run, model: Path) -> None:
    """Rows go to a plain file first; the output is packed at the end."""
    assert run("sample", "--model", model, "-n", 3, "-o", tmp_path / "a.jsonl.gz")[0] == 0
    assert len(gzip.decompress((tmp_path / "a.jsonl.gz").read_bytes()).splitlines()) == 3


def test_the_generator_is_not_touched_by_writing(tmp_path: Path) -> None:
    """Names of temporary files are not drawn from the seeds of the samples."""
    state = torch.get_rng_state()
    save_parts(tiny.tiny_parts(), tmp_path / "model")
    assert torch.equal(torch.get_rng_state(), state)


def test_case_a_file_that_ladle_did_not_write_is_no_output(tmp_path: Path) -> None:
    """Case A, of the same kind as "a file of the user's": the name of an output that a file of the user's has."""
    own = tmp_path / "rows.jsonl"
    own.write_text('{"text": "mine", "label": "x"}\n', encoding="utf-8")
    (tmp_path / "thesis.docx").write_bytes(b"PK\x03\x04 forty pages")
    for path in (own, tmp_path / "thesis.docx"):
        with pytest.raises(UserError, match="exists, and Ladle did not write it; give another name"):
            check_writable(path)
    (tmp_path / "link.jsonl").symlink_to(own)
    with pytest.raises(UserError, match="did not write it"):
        check_writable(tmp_path / "link.jsonl")
    for name in ("samples.jsonl", "samples.jsonl.gz"):
        write_rows(tmp_path / name, [{"text": "a", "seed": 1, "model": "0"}])
        check_writable(tmp_path / name)
    (tmp_path / "empty.jsonl").touch()
    check_writable(tmp_path / "empty.jsonl")


@pytest.mark.parametrize(
    ("text", "ours"),
    [
        ("text,seed,label,model\na,1,x,7e358336e14d0125\n", True),
        ('text,seed,model\n"two\nlines, a comma",1,7e358336e14d0125\n', True),
        ("text,reconstruction\na,b\n", True),
        ("text,label,synthetic\na,x,true\n", True),
        ("text,source,seed,amount,similarity,bleu,edit_distance,moved\na,b,1,1,1,1,1,1\n", True),
        ("text,seed,label,model\na,1,x,gpt-4\n", False),
        ("text,seed,label,model\n", False),
        ("text,label\na,x\n", False),
        ("synthetic\n", False),
        ("model,seed,bleu\n7e358336e14d0125,1,7e358336e14d0125\n", False),
    ],
)
def test_tables_of_ladle_may_be_written_over_and_no_others(tmp_path: Path, text: str, ours: bool) -> None:
    """By what is in them: people have tables with such columns too."""
    (tmp_path / "rows.csv").write_text(text, encoding="utf-8")
    if ours:
        check_writable(tmp_path / "rows.csv")
    else:
        with pytest.raises(UserError, match="Ladle did not write it"):
            check_writable(tmp_path / "rows.csv")
