"""What `docs/how-to.md` has: a task for each that is asked for, whole and found from its head.

Its commands are typed by `make package`, in an environment that has the wheel alone.
"""

import re
import shlex

import click
import pytest
import yaml
from pydantic import TypeAdapter

from batch_assets.cli.main import main
from batch_assets.spec.engines import AnyEngine, Ray, Spark
from batch_assets_tests import how_to_servers
from batch_assets_tests.projects import FLIGHTS

PAGE = (FLIGHTS / "docs" / "how-to.md").read_text(encoding="utf-8")
PACKAGE = (FLIGHTS / "batch_assets_tests" / "first_night.sh").read_text("utf-8")
TASKS = re.findall(r"^## (.*)$", PAGE, re.M)
TYPED = "".join(re.findall(r"^```bash\n(.*?)^```$", PAGE, re.M | re.S))


def anchor(heading: str) -> str:
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def commands() -> list[list[str]]:
    """The words of each of our commands in the page, without what a shell does with them."""
    text = re.sub(r"<<'(\w+)'\n.*?^\1$", "", TYPED, flags=re.M | re.S)
    text += "\n".join(re.findall(r"^    (batch-assets .*)$", PAGE, re.M))
    text = text.replace("\\\n", " ").replace("$(batch-assets", "\nbatch-assets")
    lines = re.findall(r"^batch-assets (.*?)(?: \|.*|  +#.*)?$", text, re.M)
    return [shlex.split(line) for line in lines]


def test_the_head_of_the_page_leads_to_every_task():
    listed = re.findall(r"^- \[(.*)\]\(#(.*)\)$", PAGE, re.M)

    assert listed == [(task, anchor(task)) for task in TASKS]


@pytest.mark.parametrize(
    "word",
    [
        *("new pipeline", "new version of a model", "days that are over", "at three"),
        *("Go back", "drift gate", "on Ray", "KubeRay", "Spark", "S3", "PostgreSQL"),
        *("several projects", "Kubernetes"),
    ],
)
def test_what_operators_ask_for_is_a_task(word):
    assert [task for task in TASKS if word in task]


@pytest.mark.parametrize("task", TASKS)
def test_a_task_is_typed_or_declared_and_leads_on(task):
    text = how_to_servers.section("how-to.md", task)

    assert re.search(r"\]\([\w-]+\.md(#[\w-]+)?\)", text)
    assert "```" in text or "\n    " in text or "production.md#" in text


@pytest.mark.parametrize("words", commands(), ids=lambda words: " ".join(words[:3]))
def test_a_command_of_the_page_is_one_that_there_is(words):
    command: click.Command = main
    context = click.Context(main)
    while isinstance(command, click.Group):
        found = command.get_command(context, words[0])
        assert found is not None, words
        command, words = found, words[1:]
    known = {option for each in command.params for option in each.opts}

    assert {word for word in words if word.startswith("--")} <= known


def test_an_engine_of_the_page_is_one_that_can_be_declared():
    blocks = [yaml.safe_load(text) for text in re.findall(r"^engine: .*$", PAGE, re.M)]
    engines = [TypeAdapter(AnyEngine).validate_python(one["engine"]) for one in blocks]

    assert [type(one) for one in engines] == [Ray, Ray, Spark]


def test_the_wheel_is_what_types_the_page():
    assert """sed -n '/^```bash$/,/^```$/{/^```/d;p}'""" in PACKAGE
    assert "docs/how-to.md" in PACKAGE
    ends = TYPED.count('|| echo "ended with $?"')
    assert f"grep -c '^ended with 1$' typed.log)\" = {ends}" in PACKAGE
    (why,) = re.findall(r'--override.*?--why "[^"]*?(the model knows)"', TYPED, re.S)
    assert why in PACKAGE


@pytest.mark.parametrize(
    ("heading", "command"),
    [
        ("Score on Ray", "batch-assets run churn --day 2026-01-06 --engine ray"),
        ("Score on Spark", "batch-assets run churn --day 2026-01-07 --engine spark"),
        ("Keep everything in S3", "export BATCH_ASSETS_ROOT=s3://my-bucket/"),
    ],
)
def test_the_wheel_types_what_needs_a_server_too(heading, command):
    # `make package-servers` does.
    assert command in how_to_servers.typed("how-to.md", heading)
