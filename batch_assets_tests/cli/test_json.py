"""What is printed with --json is what the docs say: `invoke` holds each answer against it."""

import json

import click
import jsonschema
import numpy as np
import pytest

from batch_assets.cli.main import HOMES, main
from batch_assets.cli.schemas import SCHEMAS, page
from batch_assets_tests.commands import invoke, must_be_as_documented
from batch_assets_tests.projects import FLIGHTS
from batch_assets_tests.served import serve

# It prints an address and serves until it is stopped.
WITHOUT = {"serve"}


@pytest.fixture
def shop(root, tmp_path, monkeypatch, registry):
    """A folder in which two versions were served, without any night."""
    monkeypatch.setenv("BATCH_ASSETS_ROOT", str(root))
    monkeypatch.chdir(tmp_path)
    for number in (1, 2):
        serve(root / "snapshots" / "toy", number, np.arange(1, 101))
    return tmp_path


def commands(group: click.Group = main, path: str = "") -> dict[str, click.Command]:
    found = {}
    for name in group.list_commands(click.Context(group)):
        command = group.commands[name]
        if isinstance(command, click.Group):
            found |= commands(command, f"{path}{name} ")
        else:
            found[f"{path}{name}"] = command
    return found


def test_every_command_takes_json_and_says_what_it_prints():
    takes = {
        path
        for path, command in commands().items()
        if any("--json" in param.opts for param in command.params)
    }
    assert (
        takes
        == set(commands()) - WITHOUT
        == set(SCHEMAS) - {"run --from", "plan --check"}
    )
    assert len(HOMES) > 15


def test_the_page_of_the_docs_is_made_of_the_types():
    text = (FLIGHTS / "docs" / "json.md").read_text(encoding="utf-8")
    assert text == "\n".join(page()).rstrip() + "\n"


def test_answers_are_as_the_docs_say(shop):
    """Those of nights are held against the docs by the tests that run nights."""
    for command in (
        "denylist show toy",
        "init new --name fresh",
        "lookup toy 7",
        "release list",
        "sinks follow toy",
        "sinks list toy",
        "sinks verify toy",
        "snapshot history toy",
        "snapshot list toy",
        "snapshot verify toy",
    ):
        out = invoke(*command.split(), "--json")
        assert out.startswith(("{", "["))
    doctor = invoke("doctor", "--json", fails=True)  # There is no project here.
    assert json.loads(doctor)[0]["name"] == "project"


def test_what_an_operator_does_is_as_the_docs_say(shop):
    earlier = json.loads(invoke("snapshot", "list", "toy", "--json"))[0]["version"]
    why = ("--why", "the tests need it", "--json")
    digest = json.loads(invoke("release", "list", "--json"))[0]["digest"]
    invoke("snapshot", "pin", "toy", earlier, *why)
    invoke("snapshot", "unpin", "toy", *why)
    invoke("snapshot", "rollback", "toy", "--to", earlier, *why)
    invoke("snapshot", "unblock", "toy", *why)
    invoke("release", "revoke", "toy", digest, *why)
    invoke("release", "approve", "toy", digest, *why)


@pytest.mark.parametrize("change", [{"more": 1}, {"served": "yes"}, {"day": None}])
def test_another_field_or_type_would_be_noticed(shop, change):
    text = invoke("snapshot", "list", "toy", "--json")
    arguments = ["snapshot", "list", "toy", "--json"]
    must_be_as_documented(arguments, text)
    changed = [one | change for one in json.loads(text)]
    with pytest.raises(jsonschema.ValidationError):
        must_be_as_documented(arguments, json.dumps(changed))
