"""What `docs/tutorial.md` says to write and to type, from an empty folder on."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from batch_assets.lake.sources import SOURCES
from batch_assets_tests.projects import FLIGHTS

PAGE = (FLIGHTS / "docs" / "tutorial.md").read_text(encoding="utf-8")
ROWS, MINE = re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S)
NUMBERS = {11: "eleven"}


def typed(script: str, folder: Path) -> str:
    """What a shell says to commands, which must all do what they are told."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {
        k: v
        for k, v in os.environ.items()
        if k not in ("DAGSTER_HOME", "BATCH_ASSETS_ROOT")
    }
    done = subprocess.run(
        ["bash", "-euc", script],
        cwd=folder,
        env=env | {"PATH": path, "PYTHONPATH": f"{folder}:{FLIGHTS}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_model_of_ones_own_is_served_by_what_the_page_says(tmp_path):
    typed("batch-assets init shop", tmp_path)
    folder = tmp_path / "shop"
    (folder / "data").mkdir()
    (folder / "shop" / "rows.py").write_text(ROWS, encoding="utf-8")
    (folder / "shop" / "mine.py").write_text(MINE, encoding="utf-8")
    (source,) = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.M | re.S)
    declared = folder / "shop" / "defs" / "churn" / "defs.yaml"
    text = declared.read_text(encoding="utf-8")
    changed = re.sub(r"^  source:\n(    .*\n)+", source, text, flags=re.M)
    assert changed != text
    declared.write_text(changed, encoding="utf-8")

    (script,) = re.findall(r"^```bash\n(.*?)^```$", PAGE, re.M | re.S)
    said = typed(script, folder)

    assert "5,000            0   5,000" in said, said
    assert re.search(r"^risk +0\.\d+$", said, re.M), said


def test_the_page_counts_the_kinds_of_source():
    assert f"{NUMBERS[len(SOURCES)]} kinds of source" in PAGE
