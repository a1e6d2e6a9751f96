"""The page about other frameworks is one program: each of its blocks runs, in order."""

import re
from pathlib import Path
from typing import Any

import pytest

from batch_assets import Snapshot
from batch_assets.models.frameworks.registry import FILES
from batch_assets_tests.test_models_page import REPOSITORY, make_project, run

TEXT = (REPOSITORY / "docs" / "frameworks.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.M | re.S)


@pytest.mark.slow
def test_each_block_of_the_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "page"}
    for kind, block in BLOCKS:
        if kind == "python":
            exec(compile(block, "docs/frameworks.md", "exec"), names)
        elif kind == "yaml":
            path = tmp_path / block.partition("\n")[0].removeprefix("# ")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block)
        else:
            assert kind == "console"
            for line in block.splitlines():
                run(line.replace("DIGEST", names["release"].digest), tmp_path)
    with Snapshot("data/snapshots/churn") as snapshot:
        served = snapshot.get(17).outputs["churn"]
    rows = names["subscribers"]
    want = names["pipeline"].predict_proba(rows)[16, 1]
    assert served == pytest.approx(want, abs=1e-5)


def test_the_page_names_each_file_that_is_stored():
    assert set(re.findall(r"`(model\.\w+)`", TEXT)) == set(FILES.values())
