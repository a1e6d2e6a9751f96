"""A directory: what is written is there whole or not at all, and nothing stays beside it."""

import json
from pathlib import Path

import pytest
from pydantic import BaseModel

from batch_assets.storage import (
    REMOVING,
    JsonLog,
    exclusive,
    fetch,
    has_folder,
    hide_tree,
    is_local,
    local,
    open_bytes,
    put_file,
    put_folder,
    put_new,
    read_versioned,
    readable,
    remove_tree,
    replace_if_unchanged,
    write_whole,
    written_beside,
)


class Line(BaseModel):
    """An entry of a log."""

    number: int


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_path_of_this_machine_stands_for_itself(tmp_path: Path) -> None:
    assert is_local(tmp_path)
    assert local(tmp_path) == tmp_path


def test_a_file_is_replaced_in_one_step(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_whole(path, b"one")

    with written_beside(path) as beside:
        beside.write_bytes(b"two")
        assert path.read_bytes() == b"one"

    assert path.read_bytes() == b"two"
    assert names(tmp_path) == ["file"]


def test_what_fails_on_its_way_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_whole(path, b"one")

    def write_half() -> None:
        with written_beside(path) as beside:
            beside.write_bytes(b"tw")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()

    assert path.read_bytes() == b"one"
    assert names(tmp_path) == ["file"]


def test_a_replacement_holds_only_over_what_was_seen(tmp_path: Path) -> None:
    path = tmp_path / "file"
    nothing = read_versioned(path)

    first = replace_if_unchanged(path, b"1", seen=nothing)

    assert first == read_versioned(path)
    assert replace_if_unchanged(path, b"2", seen=nothing) is None
    assert path.read_bytes() == b"1"


def test_a_new_file_takes_no_name_that_another_has(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(name.encode())

    assert put_new(tmp_path / "a", tmp_path / "file")
    assert not put_new(tmp_path / "b", tmp_path / "file")

    assert (tmp_path / "file").read_bytes() == b"a"
    put_file(tmp_path / "b", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"b"


def test_a_folder_is_put_once_hidden_and_removed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "last").write_text(name, "utf-8")

    assert not has_folder(target, last="last")
    put_folder(tmp_path / "first", target, last="last")
    with pytest.raises(FileExistsError):
        put_folder(tmp_path / "second", target, last="last")

    assert has_folder(target, last="last")
    assert (target / "last").read_text("utf-8") == "first"
    hidden = hide_tree(target, first="last")
    assert hidden.name == f"{REMOVING}target"
    assert not target.exists()
    remove_tree(hidden)
    assert names(tmp_path) == ["second"]
    with pytest.raises(FileNotFoundError):
        remove_tree(hidden)


def test_a_file_is_read_where_it_lies_or_copied_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"some bytes")

    with readable(path) as file, file.open_bytes() as opened:
        assert (file.file, file.size, file.pre_buffer) == (path, 10, False)
        assert opened.read() == b"some bytes"
    with open_bytes(path) as opened:
        assert opened.read() == b"some bytes"
    fetch(path, tmp_path / "copies" / "file")

    assert (tmp_path / "copies" / "file").read_bytes() == b"some bytes"
    assert names(tmp_path / "copies") == ["file"]
    with pytest.raises(FileNotFoundError):
        readable(tmp_path / "none")


def test_a_log_tells_what_it_can_and_ends_a_torn_line_before_the_next(
    tmp_path: Path,
) -> None:
    log = JsonLog(tmp_path / "log.jsonl", Line)
    assert log.read() == ([], {})
    assert not log.is_torn()
    with exclusive(tmp_path):
        log.append(json.dumps({"number": 1}).encode())
        log.path.write_bytes(log.path.read_bytes() + b'\n{"num')
        assert log.is_torn()
        log.append(json.dumps({"number": 2}).encode())

    entries, unreadable = log.read()

    assert [entry.number for entry in entries] == [1, 2]
    assert list(unreadable) == [3]
    assert not log.is_torn()
