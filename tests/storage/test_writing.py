"""Files are written whole or not at all, and read with one clear line when they are bad."""

import errno
import gzip
import io
import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ladle.data.files import read_lines
from ladle.errors import LadleError, UserError
from ladle.storage.folders import atomic_folder, recover_folder
from ladle.storage.kinds import MODEL
from ladle.storage.writing import atomic_json, atomic_text, write_atomically, write_rows


def names_in(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def failing_after(data: bytes, number: int):
    """A writer that gets some bytes out before the system says no."""

    def write(path: Path) -> None:
        path.write_bytes(data)
        raise OSError(number, os.strerror(number))

    return write


# ---------------------------------------------------------------------------------------------------- one file


def test_a_file_appears_whole_under_its_name_and_nothing_else_does(tmp_path):
    """The temporary name keeps the ending, since writers such as numpy.save add theirs when it is missing."""
    seen = []

    def write(temporary: Path) -> None:
        seen.append(temporary)
        temporary.write_text("new")
        assert not (tmp_path / "deep" / "a.jsonl.gz").exists()

    write_atomically(tmp_path / "deep" / "a.jsonl.gz", write)
    assert (tmp_path / "deep" / "a.jsonl.gz").read_text() == "new"
    assert seen[0].parent == tmp_path / "deep" and seen[0].name.endswith(".jsonl.gz")
    assert names_in(tmp_path / "deep") == ["a.jsonl.gz"]


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ENOSPC, "No space left on device"),
        (errno.EACCES, "Permission denied"),
        (errno.EROFS, "Read-only file system"),
    ],
)
def test_a_refusal_of_the_disk_is_one_line_and_leaves_the_earlier_file(tmp_path, number, reason):
    """A save that fails must not cost the save before it."""
    path = tmp_path / "report.json"
    path.write_text("earlier")
    with pytest.raises(LadleError) as caught:
        write_atomically(path, failing_after(b"half", number))
    assert str(caught.value) == f"cannot write {path}: {reason}"
    assert caught.value.exit_code == 1
    assert path.read_text() == "earlier" and names_in(tmp_path) == ["report.json"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("a defect"), UserError("bad row")])
def test_other_failures_pass_through_and_leave_nothing(tmp_path, error):
    def write(path: Path) -> None:
        path.write_bytes(b"half")
        raise error

    with pytest.raises(type(error)) as caught:
        write_atomically(tmp_path / "x", write)
    assert caught.value is error and names_in(tmp_path) == []


def test_a_real_file_size_limit_is_reported_and_leaves_nothing(tmp_path):
    """The kernel itself refuses the bytes here; a raised error would not show that buffers are flushed in time."""
    code = (
        "import resource, sys\n"
        "from ladle.storage.writing import atomic_text\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try:\n    atomic_text(sys.argv[1], 'x' * 100_000)\n"
        "except Exception as error:\n    print(type(error).__name__, error)\n"
    )
    target = tmp_path / "big.txt"
    done = subprocess.run([sys.executable, "-c", code, str(target)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"LadleError cannot write {target}: File too large"
    assert names_in(tmp_path) == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(LadleError, match=r"cannot write .*file/x\.txt: "):
        atomic_text(tmp_path / "file" / "x.txt", "text")
    with pytest.raises(UserError, match="it is a folder"):
        atomic_text(tmp_path, "text")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_no_permission_is_named(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(LadleError, match="Permission denied"):
        atomic_text(tmp_path / "x.txt", "text")


def test_a_link_stays_a_link_and_its_target_is_replaced(tmp_path):
    (tmp_path / "real").write_text("earlier")
    (tmp_path / "link").symlink_to("real")
    atomic_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_text() == "new"


def test_a_pipe_is_written_to_and_never_replaced(tmp_path):
    """As root, renaming a file over /dev/null would break the machine; a named pipe stands in for it here."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert write_rows(path, [{"text": "a"}]) == 1
        assert path.is_fifo() and os.read(reader, 100) == b'{"text": "a"}\n'
    finally:
        os.close(reader)


def test_a_disk_that_safetensors_finds_full_is_a_line_too(tmp_path):
    """It has an error type of its own, and weights are the first thing that does not fit; its other errors stay."""
    target = tmp_path / "w.safetensors"
    done = subprocess.run([sys.executable, "-c", SAVE_WEIGHTS, str(target)], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert lines[0] == f"LadleError cannot write {target}: File too large"
    assert lines[1].startswith("SafetensorError ")
    assert names_in(tmp_path) == []


SAVE_WEIGHTS = """
import resource, sys
import numpy as np
from safetensors import deserialize
from safetensors.numpy import save_file
from ladle.storage.writing import write_atomically
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
for write in (lambda path: save_file({"w": np.zeros(100_000)}, path), lambda path: deserialize(b"no")):
    try:
        write_atomically(sys.argv[1], write)
    except Exception as error:
        print(type(error).__name__, error)
"""


def test_json_is_strict_and_readable(tmp_path):
    """NaN is not JSON: readers in other languages stop at it."""
    atomic_json(tmp_path / "a.json", {"bleu": float("nan"), "x": [1.5, (float("inf"), "é")]})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text, parse_constant=pytest.fail) == {"bleu": None, "x": [1.5, [None, "é"]]}
    assert "é" in text and text.endswith("}\n")
    with pytest.raises(TypeError):
        atomic_json(tmp_path / "b.json", {"x": object()})
    assert names_in(tmp_path) == ["a.json"]


# ---------------------------------------------------------------------------------------------------- a folder


def fill(folder: Path, text: str) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "model.json").write_text(text)


def test_a_folder_is_made_and_replaced_whole(tmp_path):
    path = tmp_path / "run" / "final"
    with atomic_folder(path) as folder:
        fill(folder, "1")
        (folder / "only-in-first").write_text("")
        assert all(name.startswith(".") for name in names_in(path))
    number = path.stat().st_ino
    with atomic_folder(path, old=["only-in-first"]) as folder:
        fill(folder, "2")
        assert (path / "sub" / "model.json").read_text() == "1"
    assert (path / "sub" / "model.json").read_text() == "2"
    assert names_in(path) == ["sub"] and names_in(tmp_path / "run") == ["final"] and path.stat().st_ino == number


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt(), ValueError()])
@pytest.mark.parametrize("had_one", [True, False])
def test_a_folder_that_fails_leaves_the_earlier_one_and_nothing_else(tmp_path, error, had_one):
    path = tmp_path / "final"
    if had_one:
        path.mkdir()
        fill(path, "earlier")
    expected = LadleError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected), atomic_folder(path) as folder:
        fill(folder, "half")
        raise error
    assert names_in(tmp_path) == (["final"] if had_one else [])
    if had_one:
        assert (path / "sub" / "model.json").read_text() == "earlier"


KILLED = """
import os, pathlib, sys
from ladle.storage.folders import atomic_folder
kill_at = sys.argv[2]
count, rename = 0, os.rename
def killing(real):
    def call(*given, **options):
        global count
        count += bool(count) or real is rename  # from the first change on
        if str(count) == kill_at:
            os.kill(os.getpid(), 9)
        return real(*given, **options)
    return call
for name in ("rename", "replace", "unlink"):
    setattr(os, name, killing(getattr(os, name)))
with atomic_folder(sys.argv[1], old=("x", "old/x")) as folder:
    (folder / "x").write_text("new")
    (folder / "y").write_text("new")
os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("kill_at", ["1", "2", "3", "4", "none"])
def test_a_kill_at_any_change_leaves_a_whole_folder_after_recovery(tmp_path, kill_at):
    """Training is killed at any moment. The first change decides: before it all is old, after it all is new."""
    path = tmp_path / "state"
    (path / "old").mkdir(parents=True)
    for name in ("x", "old/x", "mine"):
        (path / name).write_text("earlier")
    done = subprocess.run([sys.executable, "-c", KILLED, str(path), kill_at], check=False)
    assert done.returncode == -signal.SIGKILL
    recover_folder(path)
    found = {file.name: file.read_text() for file in path.iterdir() if file.is_file()}
    assert found == {"mine": "earlier"} | ({"x": "earlier"} if kill_at == "1" else {"x": "new", "y": "new"})
    assert (path / "old").exists() == (kill_at == "1")
    with atomic_folder(path, old=("x", "y", "old/x")) as folder:
        (folder / "x").write_text("newest")
    assert (path / "x").read_text() == "newest" and names_in(path) == ["mine", "x"] and names_in(tmp_path) == ["state"]


def test_a_stranger_cannot_have_files_deleted_elsewhere(tmp_path):
    """A downloaded folder may hold what looks like the rest of a killed run."""
    put = tmp_path / "model" / ".ladle-put"
    put.mkdir(parents=True)
    (tmp_path / "mine").write_text("")
    (put / "commit.json").write_text(json.dumps({"old": ["../mine", str(tmp_path / "mine")]}))
    recover_folder(tmp_path / "model")
    assert names_in(tmp_path) == ["mine", "model"] and names_in(tmp_path / "model") == []


def test_a_folder_of_the_users_own_is_not_replaced(tmp_path):
    """`--output ~` must not delete a home, and not one of its files."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "letters.txt").write_text("dear")
    for number in "12":
        with atomic_folder(home, kind=MODEL) as folder:  # no name that a model has is taken
            (folder / "model.json").write_text(f'{{"ladle": {number}}}')
    assert (home / "model.json").read_text() == '{"ladle": 2}' and (home / "letters.txt").read_text() == "dear"
    (home / "model.json").write_text("{}")
    with pytest.raises(UserError, match="Ladle did not write it"), atomic_folder(home, kind=MODEL):
        pytest.fail("the block must not run")
    with pytest.raises(UserError, match="it is a file"), atomic_folder(home / "letters.txt"):
        pytest.fail("the block must not run")
    (home / "deep").write_text("a file of the user's")
    with pytest.raises(UserError, match=r"deep is in the way"), atomic_folder(home) as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "x").write_text("")
    assert names_in(home) == ["deep", "letters.txt", "model.json"]


# ---------------------------------------------------------------------------------------------------- rows out

ROWS = [{"text": "café\n☕", "seed": 1}, {"text": "", "seed": 2}]


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz"])
def test_rows_come_back_as_they_were_and_the_bytes_are_always_the_same(tmp_path, ending):
    path, again = tmp_path / f"a.{ending}", tmp_path / f"b.{ending}"
    assert write_rows(path, iter(ROWS)) == write_rows(again, ROWS) == 2
    assert [json.loads(line) for line in read_lines(path)] == ROWS
    assert path.read_bytes() == again.read_bytes()
    packed = path.read_bytes()[:2] == b"\x1f\x8b"
    assert packed == ending.endswith("gz")
    assert not packed or path.read_bytes()[4:8] == bytes(4)  # no time of writing in the header


def test_rows_that_fail_on_the_way_leave_no_file(tmp_path):
    def rows():
        yield ROWS[0]
        raise UserError("row 2 is bad")

    with pytest.raises(UserError, match="row 2"):
        write_rows(tmp_path / "a.jsonl", rows())
    assert names_in(tmp_path) == []


def test_dash_is_standard_output_in_utf8_whatever_the_locale():
    code = f"from ladle.storage.writing import write_rows\nwrite_rows('-', {ROWS!r})"
    env = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, env=env)
    assert [json.loads(line) for line in done.stdout.decode("utf-8").splitlines()] == ROWS


def test_rows_reach_standard_output_one_by_one():
    """A reader such as `head` gets its rows while later ones are still being sampled."""
    code = (
        "import sys\nfrom ladle.storage.writing import write_rows\n"
        "def rows():\n    yield {'text': 'first'}\n    sys.stdin.readline()\n    yield {'text': 'second'}\n"
        "write_rows('-', rows())"
    )
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "env": buffered}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as process:
        assert process.stdin is not None and process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], 120)
        if not ready:
            process.kill()
            pytest.fail("the first row did not come before the second was asked for")
        assert process.stdout.readline() == b'{"text": "first"}\n'
        process.stdin.write(b"\n")
        process.stdin.close()
        assert process.stdout.read() == b'{"text": "second"}\n'


def test_a_closed_pipe_is_let_through_and_a_full_disk_is_a_line():
    code = (
        "import sys\nfrom ladle.storage.writing import write_rows\n"
        "try:\n    write_rows('-', ({'text': 'x' * 1000} for _ in range(1000)))\n"
        "except BaseException as error:\n    print(type(error).__name__, error, file=sys.stderr)\n"
        "import os; os._exit(0)"
    )
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-c", code], stdout=writer, stderr=subprocess.PIPE, check=True)
    os.close(writer)
    assert done.stderr.startswith(b"BrokenPipeError")
    if Path("/dev/full").exists():
        with open("/dev/full", "wb") as full:
            done = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, check=True)
        assert done.stderr == b"LadleError cannot write standard output: No space left on device\n"


# ---------------------------------------------------------------------------------------------------- reading


def test_lines_are_read_from_plain_and_packed_files_and_standard_input(tmp_path, monkeypatch):
    """Only a newline ends a line; gzip is known by its content, so a misnamed file still reads."""
    data = "\ufeffone\u2028still one\r\ntwo\x85\n\nlast".encode()
    expected = ["one\u2028still one\r\n", "two\x85\n", "\n", "last"]
    plain, packed, misnamed = tmp_path / "a.txt", tmp_path / "a.txt.gz", tmp_path / "b.txt"
    plain.write_bytes(data)
    packed.write_bytes(gzip.compress(data))
    misnamed.write_bytes(gzip.compress(data))
    for path in (plain, packed, misnamed):
        assert list(read_lines(path)) == expected
    for given in (data, gzip.compress(data)):
        stdin = io.TextIOWrapper(io.BufferedReader(io.BytesIO(given)))
        monkeypatch.setattr(sys, "stdin", stdin)
        assert list(read_lines("-")) == expected
        assert not stdin.buffer.closed


def test_missing_folder_and_misnamed_files_are_user_errors(tmp_path):
    with pytest.raises(UserError, match=r"^no such file: .*absent\.txt$"):
        list(read_lines(tmp_path / "absent.txt"))
    with pytest.raises(UserError, match="is a folder; give a file"):
        list(read_lines(tmp_path))
    (tmp_path / "a.gz").write_text("plain")
    with pytest.raises(UserError, match="is not a gzip file"):
        list(read_lines(tmp_path / "a.gz"))


def test_damaged_gzip_is_a_user_error(tmp_path):
    whole = gzip.compress(os.urandom(1000).hex().encode())
    middle = len(whole) // 2
    damaged = {
        "cut": whole[:middle],
        "header only": whole[:5],
        "flipped": whole[:middle] + bytes(255 - b for b in whole[middle : middle + 40]) + whole[middle + 40 :],
        "checksum": whole[:-8] + bytes(8),
    }
    for name, data in damaged.items():
        path = tmp_path / f"{name}.txt.gz"
        path.write_bytes(data)
        with pytest.raises(UserError, match="damaged or incomplete gzip file"):
            list(read_lines(path))


def test_text_in_another_encoding_is_named_by_file_and_line(tmp_path):
    path = tmp_path / "a.txt"
    for data, line in (("fine\ncafé\n".encode("latin-1"), 2), ("fine\n".encode("utf-16-le"), 1)):
        path.write_bytes(data)
        with pytest.raises(UserError, match=rf"a\.txt:{line}: not UTF-8 text; save it as UTF-8 .*iconv -f"):
            list(read_lines(path))
    path.write_bytes("fine\n".encode("utf-16"))  # its mark says what it is
    assert list(read_lines(path)) == ["fine\n"]
