"""What the documents say is there, is there."""

import ast
import asyncio
import re
import time
from typing import get_args

import httpx
import numpy as np
import pytest
import yaml

from batch_assets.assets.shadow_predictions import CHECK
from batch_assets.cli.main import main
from batch_assets.component import starter_attributes
from batch_assets.lake.metrics import ESTIMATE, STAGE
from batch_assets.lake.shards import hash_key
from batch_assets.models.comparisons import Agreement
from batch_assets.online.metrics import PREFIX, Metrics
from batch_assets.planner.status import Kind
from batch_assets.quality.judges.performance import outcome_gates
from batch_assets.quality.performance.history import BETTER
from batch_assets.spec import (
    ENGINES,
    SINKS,
    SOURCES,
    GateLimits,
    OutcomesSpec,
    PipelineSpec,
    Serving,
    Shadow,
)
from batch_assets_tests import conftest
from batch_assets_tests.projects import FLIGHTS
from batch_assets_tests.served import serve
from batch_assets_tests.toys import make_spec

README = (FLIGHTS / "README.md").read_text(encoding="utf-8")
PIPELINE = (FLIGHTS / "docs" / "pipeline.md").read_text(encoding="utf-8")
ENGINES_PAGE = (FLIGHTS / "docs" / "engines.md").read_text(encoding="utf-8")
REMOTE = (FLIGHTS / "docs" / "sinks.md").read_text(encoding="utf-8")
ONLINE = (FLIGHTS / "docs" / "online.md").read_text(encoding="utf-8")
MAKEFILE = (FLIGHTS / "Makefile").read_text(encoding="utf-8")


def test_the_file_map_names_every_module_and_no_other():
    block = README.partition("    batch_assets/\n")[2]
    named: set[str] = set()
    room = ""
    for line in block.partition("    batch_assets_tests/")[0].splitlines():
        words = line.split()
        if line.startswith(" " * 10):
            named |= {f"{room}{name}.py" for name in words}
        elif words[0].endswith(".py"):
            named.add(words[0])
        else:
            room = words[0]
    package = FLIGHTS / "batch_assets"
    modules = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if path.name != "__init__.py"
    }
    assert named == modules


def test_no_file_has_over_400_lines_and_no_function_over_60():
    """Of the package; a test may tell a longer story."""
    long = []
    for path in sorted((FLIGHTS / "batch_assets").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if (lines := text.count("\n")) > 400:
            long.append(f"{path.name}: {lines} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                if lines > 60:
                    long.append(f"{path.name}: {node.name} has {lines} lines")
    assert long == []


def test_every_make_target_of_the_readme_exists():
    for target in re.findall(r"make ([a-z]+)", README):
        assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE), target


def test_the_guide_has_every_field_of_the_yaml():
    models = (PipelineSpec, GateLimits, Serving, *SOURCES.values())
    for field in {name for model in models for name in model.model_fields}:
        assert f"`{field}" in PIPELINE or f"{field}:" in PIPELINE, field
    for kind in SOURCES:
        assert f"| `{kind}` |" in PIPELINE, kind


def test_the_page_of_outcomes_has_every_field_task_metric_and_check():
    text = (FLIGHTS / "docs" / "outcomes.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    spec = OutcomesSpec.model_validate(yaml.safe_load(block)["outcomes"])
    for field in OutcomesSpec.model_fields:
        assert f"| `{field}` |" in text, field
    for task, metrics in BETTER.items():
        assert f"| `{task}` |" in text, task
        assert all(f"`{metric}`" in text for metric in metrics), task
    for gate in outcome_gates(spec):
        name = re.sub(f"^({'|'.join(BETTER[spec.task])})_", "<metric>_", gate.name)
        assert f"| `{name}` |" in text, name
        assert "<metric>" in name or gate.description in text, name


def test_the_page_of_challengers_has_every_field_and_a_valid_yaml():
    text = (FLIGHTS / "docs" / "challengers.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    make_spec(**yaml.safe_load(block))
    for field in Shadow.model_fields:
        assert f"| `{field}` |" in text, field
    for number in set(Agreement.model_fields) - {"output", "rows"}:
        assert f"| `<output>_{number}` |" in text, number
    assert f"`{CHECK}`" in text


def test_the_page_of_deadlines_has_every_kind_column_and_number_and_a_valid_yaml():
    text = (FLIGHTS / "docs" / "deadlines.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    spec = make_spec(**yaml.safe_load(block)["attributes"])
    assert (spec.ready_by, spec.cost_per_hour) == ("06:00", 3.2)
    for kind in get_args(Kind):
        assert f"| `{kind}` |" in text, kind
    for column in set(STAGE.names + ESTIMATE.names) - {"day", "stage"}:
        assert f"`{column}`" in text, column
    assert "deadline" in main.commands


def test_the_guide_of_engines_has_every_setting():
    for field in {name for model in ENGINES.values() for name in model.model_fields}:
        assert f"`{field}`" in ENGINES_PAGE or f"{field}:" in ENGINES_PAGE, field
    blocks = re.findall(r"```yaml\n(.*?)```", ENGINES_PAGE, re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        make_spec(**yaml.safe_load(block))


def test_the_plan_of_the_guide_of_engines_is_what_its_arithmetic_gives(capsys):
    (code,) = re.findall(r"```python\n(ROWS, .*?)```", ENGINES_PAGE, flags=re.DOTALL)
    exec(code, {})
    printed = capsys.readouterr().out
    assert printed.count("\n") == 4
    assert printed in ENGINES_PAGE


def test_the_page_of_the_remote_stores_has_every_field_and_a_valid_yaml():
    for field in {name for model in SINKS.values() for name in model.model_fields}:
        assert f"`{field}`" in REMOTE or f"{field}:" in REMOTE, field
    block = re.search(r"```yaml\n(.*?)```", REMOTE, re.DOTALL)
    sinks = yaml.safe_load(block.group(1))["sinks"]
    spec = PipelineSpec.model_validate(starter_attributes("churn") | {"sinks": sinks})
    assert [sink.kind for sink in spec.sinks] == list(SINKS)


def test_the_hash_on_the_page_of_the_remote_stores_is_ours():
    """A service in another language finds its rows by this text alone."""
    (block,) = re.findall(r"```python\n(M = .*?)```", REMOTE, re.DOTALL)
    names: dict[str, object] = {}
    exec(block, names)
    for key in (0, 42, -1, 2**63 - 1, -(2**63), "", "a" * 8, "naïve", "user-1" * 9):
        assert names["hash_key"](key) == hash_key(key)


def test_the_guides_yaml_and_the_starter_are_valid():
    block = re.search(r"```yaml\n(.*?)```", PIPELINE, re.DOTALL)
    PipelineSpec.model_validate(yaml.safe_load(block.group(1))["attributes"])
    PipelineSpec.model_validate(starter_attributes("churn"))


def test_the_service_of_the_guide_answers(tmp_path, monkeypatch):
    serve(tmp_path / "data" / "snapshots" / "churn", 1, np.arange(1, 11))
    monkeypatch.chdir(tmp_path)
    text = (FLIGHTS / "docs" / "serving.md").read_text(encoding="utf-8")
    block = re.search(r"```python\n(.*?)```", text, re.DOTALL).group(1)
    assert len([line for line in block.splitlines() if line]) <= 10
    service: dict = {}
    exec(block, service)

    async def ask():
        to_it = httpx.ASGITransport(service["app"])
        async with httpx.AsyncClient(transport=to_it, base_url="http://it") as client:
            return [await client.get(f"/churn/{user}") for user in (7, 70)]

    with service["snapshot"]:
        known, absent = asyncio.run(ask())
    assert (known.status_code, known.json()["outputs"]["number"]) == (200, 1)
    assert absent.status_code == 404


def test_workspace_and_dg_name_the_same_location():
    workspace = yaml.safe_load((FLIGHTS / "workspace.yaml").read_text(encoding="utf-8"))
    location = workspace["load_from"][0]["python_module"]
    pyproject = (FLIGHTS / "pyproject.toml").read_text(encoding="utf-8")
    assert f'code_location_name = "{location["location_name"]}"' in pyproject


def test_ci_runs_the_checks_and_the_readmes_test_command():
    script = (FLIGHTS / ".ci" / "run").read_text(encoding="utf-8")
    steps = re.findall(r"^(?:make|step) (.*)$", script, re.MULTILINE)
    assert steps[0] == "check"
    # What `make test` is made of, its fast part first and whatever the time.
    halves = re.findall(r"^test: (.*) ##", MAKEFILE, re.MULTILINE)[0].split()
    assert [step for step in steps if step in halves] == halves
    assert f"\nmake {halves[0]}\n" in script
    assert {"docs", "test-ui", "test-engines", "test-dagster"} < set(steps)


def test_a_test_that_has_no_time_left_says_so_and_one_that_has_is_run(monkeypatch):
    monkeypatch.setenv("TESTS_END", "1")
    with pytest.raises(pytest.skip.Exception, match="NOT RUN"):
        conftest.pytest_runtest_setup()

    monkeypatch.setenv("TESTS_END", str(time.time() + 3_600))
    conftest.pytest_runtest_setup()


def test_what_runs_before_a_commit_is_what_make_check_runs():
    text = (FLIGHTS / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    (local,) = yaml.safe_load(text)["repos"]
    recipe = MAKEFILE.partition("\ncheck:")[2].partition("\n\n")[0]
    commands = re.findall(r"^\t\$\(BIN\)/(.*)$", recipe, re.MULTILINE)
    assert len(commands) > 3
    assert [hook["entry"] for hook in local["hooks"]] == [
        f".venv/bin/{command}" for command in commands
    ]


def test_the_workflow_runs_what_ci_runs():
    text = (FLIGHTS / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    steps = yaml.safe_load(text)["jobs"]["ci"]["steps"]
    assert steps[-1] == {"run": ".ci/run"}


def test_the_guide_to_the_service_has_every_option_and_metric():
    options = {opt for param in main.commands["serve"].params for opt in param.opts}
    metrics = {
        metric.name.removeprefix(PREFIX)
        for metric in vars(Metrics()).values()
        if hasattr(metric, "labels")
        for metric in metric.describe()
    }
    assert len(metrics) > 10
    for name in (options - {"pipelines"}) | metrics:
        assert f"`{name}" in ONLINE, name
