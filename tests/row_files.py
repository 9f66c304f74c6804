"""Data files of a test's own, and the one line that bad ones are told of in."""

import gzip
import json
from pathlib import Path

import pytest

from ladle.errors import UserError


def put(path: Path, data: str | bytes) -> Path:
    """Write a file, packed when its name says so."""
    raw = data.encode() if isinstance(data, str) else data
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


def put_rows(path: Path, rows: list[dict]) -> Path:
    return put(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def message_of(call, *args, **kwargs) -> str:
    """The error's one line, without the folder."""
    with pytest.raises(UserError) as caught:
        call(*args, **kwargs)
    message = str(caught.value)
    assert "\n" not in message and caught.value.exit_code == 2
    return message
