"""The bill of materials names what is installed, and all of it is pinned."""

import json
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import pytest

from batch_assets_tests.projects import FLIGHTS

CHECK, CONSTRAINTS = FLIGHTS / ".ci" / "check_sbom.py", FLIGHTS / "constraints.txt"


def bill_of_here() -> dict[str, Any]:
    """A bill of this very environment, but for the project itself."""
    components = [
        {"name": one.metadata["Name"], "version": one.version}
        for one in distributions()
        if one.metadata["Name"] != "batch-assets"
    ]
    return {"bomFormat": "CycloneDX", "components": components}


def checked(
    bill: dict[str, Any], folder: Path, constraints: Path = CONSTRAINTS
) -> subprocess.CompletedProcess[str]:
    path = folder / "sbom.json"
    path.write_text(json.dumps(bill), encoding="utf-8")
    command = [sys.executable, str(CHECK), str(path), str(constraints)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_what_is_installed_here_is_pinned(tmp_path: Path) -> None:
    done = checked(bill_of_here(), tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "packages, each as constraints.txt pins it" in done.stdout


@pytest.mark.parametrize(
    ("name", "version", "said"),
    [
        ("left-pad", "1.0", "left-pad 1.0 is pinned nowhere"),
        ("PyArrow", "1.0", "pyarrow is 1.0, pinned is"),
    ],
)
def test_a_package_that_nobody_pinned_is_named(
    tmp_path: Path, name: str, version: str, said: str
) -> None:
    bill = bill_of_here()
    bill["components"].append({"name": name, "version": version})
    done = checked(bill, tmp_path)
    assert done.returncode == 1
    assert said in done.stderr


@pytest.mark.parametrize("bill", [{}, {"bomFormat": "CycloneDX", "components": []}])
def test_an_empty_bill_is_none(tmp_path: Path, bill: dict[str, Any]) -> None:
    done = checked(bill, tmp_path)
    assert done.returncode == 1
    assert "lacks dagster, deltalake" in done.stderr


def test_ci_makes_the_bill_and_an_audit_that_was_not_made_fails() -> None:
    run = (FLIGHTS / ".ci" / "run").read_text(encoding="utf-8")
    makefile = (FLIGHTS / "Makefile").read_text(encoding="utf-8")
    assert "\nmake sbom\n" in run
    # Without it a package that the feed does not know passes for a safe one.
    assert "pip-audit --strict" in makefile
