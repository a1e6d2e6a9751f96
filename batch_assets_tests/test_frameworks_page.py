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
    said: dict[str, str] = {}
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
                line = line.replace("DIGEST", names["release"].digest)
                said[line.split()[3]] = run(line, tmp_path)
    of_each = {"churn": ("pipeline", "subscribers"), "trees": ("boosted", "known")}
    for pipeline, (model, frame) in of_each.items():
        with Snapshot(f"data/snapshots/{pipeline}") as snapshot:
            served = snapshot.get(17).outputs["churn"]
        want = names[model].predict_proba(names[frame])[16, 1]
        assert served == pytest.approx(want, abs=1e-5)
        # What was looked up last of each is printed, too.
        shown = said[pipeline].split()[1]
        assert float(shown) == pytest.approx(served, rel=1e-4, abs=1e-6)


def test_the_page_names_each_file_that_is_stored():
    assert set(re.findall(r"`(model\.\w+)`", TEXT)) == set(FILES.values())
