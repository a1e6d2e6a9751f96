"""What the page of the command line says is so."""

import json
import re

from batch_assets.cli import exits
from batch_assets.cli.exits import Exit, JsonError
from batch_assets.cli.main import main
from batch_assets.launch.doctor import examine
from batch_assets.launch.new_project import HARMLESS
from batch_assets_tests.projects import FLIGHTS

PAGE = (FLIGHTS / "docs" / "cli.md").read_text(encoding="utf-8")
README = (FLIGHTS / "README.md").read_text(encoding="utf-8")


def test_the_codes_are_those_of_the_code():
    rows = re.findall(r"^\| (\d+) \|", PAGE, re.MULTILINE)
    assert [int(row) for row in rows] == [code.value for code in Exit]
    assert set(Exit) == {0, 1, 2, 130}


def test_the_error_of_the_page_is_written_like_that(capsys):
    (text,) = re.findall(r"```json\n(.*)\n```", PAGE)
    error = json.loads(text)["error"]

    JsonError(error["kind"], error["message"], error["exit"]).show()

    assert capsys.readouterr().err == f"{text}\n"
    assert exits.BatchAssetsError.__module__ == "batch_assets.errors"


def test_each_look_of_the_doctor_is_a_row():
    rows = re.findall(r"^\| `([a-z]+)[^|]* \|", PAGE, re.MULTILINE)
    # A sink and a receiver are called by their pipeline.
    names = {"permissions": "storage", "replacing": "replacing", "room": "disk"}
    names |= {"sinks": "sink", "receivers": "alerts"}
    looks = [look.__name__ for look in examine.LOOKS]
    assert ["project", *(names.get(look, look) for look in looks)] == rows[:13]


def test_what_a_folder_may_hold_is_named():
    assert all(f"`{name}`" in PAGE for name in HARMLESS)


def test_the_page_is_linked_and_every_command_of_its_blocks_is_one():
    assert "(docs/cli.md" in README
    assert "(docs/json.md)" in README
    for name in re.findall(r"batch-assets ([a-z][a-z-]+)", PAGE):
        assert name in main.commands, name
