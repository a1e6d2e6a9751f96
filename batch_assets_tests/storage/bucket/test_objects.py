"""One object in a bucket: there whole or not, and replaced over what was seen alone."""

import os
import subprocess
import sys

import pytest

from batch_assets.storage import fetch, put_new, read_seen, replace

pytestmark = pytest.mark.slow

PUT_LARGE = """
import sys
from pathlib import Path

from batch_assets.storage import storage_path, put_file

print("putting", flush=True)
put_file(Path(sys.argv[1]), storage_path(sys.argv[2]))
"""


def test_a_large_object_is_there_whole_or_not_at_all(root, tmp_path):
    """It is put in pieces, which a killed process leaves nobody to see."""
    data = os.urandom(1 << 20) * 64
    seen = set()
    for number, wait in enumerate((0.02, 0.05, 0.1, 30)):
        (here := tmp_path / "large").write_bytes(data)
        place = root / f"large-{number}"
        with subprocess.Popen(
            [sys.executable, "-c", PUT_LARGE, str(here), str(place)],
            stdout=subprocess.PIPE,
        ) as putting:
            putting.stdout.readline()
            try:
                putting.wait(wait)
            except subprocess.TimeoutExpired:
                putting.kill()
        seen.add(place.exists())
        assert not place.exists() or place.stat().st_size == len(data)
    assert seen == {False, True}
    fetch(place, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == data


def test_a_new_object_takes_no_name_that_another_has(root, tmp_path):
    """What attempts of a chunk at once are told apart by."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_bytes(b"1")
    second.write_bytes(b"2")

    assert put_new(first, root / "part")
    assert not put_new(second, root / "part")
    assert (root / "part").read_bytes() == b"1"


def test_a_replacement_holds_only_over_what_was_seen(root):
    place = root / "thing"
    nothing = read_seen(place)
    first = replace(place, b"1", seen=nothing)
    assert first
    assert replace(place, b"2", seen=nothing) is None
    second = replace(place, b"2", seen=first)
    assert replace(place, b"3", seen=first) is None
    assert read_seen(place) == second
    assert place.read_bytes() == b"2"
