"""One object in a bucket: there whole or not, and replaced over what was seen alone."""

import os
import subprocess
import sys

import pytest

from batch_assets.storage import (
    ObjectPath,
    fetch,
    has_folder,
    hide_tree,
    open_bytes,
    put_folder,
    put_new,
    read_versioned,
    remove_tree,
    replace_if_unchanged,
)

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
    nothing = read_versioned(place)
    first = replace_if_unchanged(place, b"1", seen=nothing)
    assert first
    assert replace_if_unchanged(place, b"2", seen=nothing) is None
    second = replace_if_unchanged(place, b"2", seen=first)
    assert replace_if_unchanged(place, b"3", seen=first) is None
    assert read_versioned(place) == second
    assert place.read_bytes() == b"2"


def test_a_folder_counts_from_its_last_file_to_its_first_removal(root, tmp_path):
    (folder := tmp_path / "folder").mkdir()
    for name in ("a", "b", "last"):
        (folder / name).write_text(name, "utf-8")
    proved = []

    def prove(path: ObjectPath) -> None:
        assert not has_folder(root / "there", last="last")
        with open_bytes(path) as file:
            assert file.read() == path.name.encode()
        proved.append(path.name)

    put_folder(folder, root / "there", last="last", prove=prove)

    assert sorted(proved) == ["a", "b"]
    assert not folder.exists()
    assert has_folder(root / "there", last="last")
    hidden = hide_tree(root / "there", first="last")
    assert not has_folder(root / "there", last="last")
    remove_tree(hidden)
    assert not (root / "there").is_dir()
