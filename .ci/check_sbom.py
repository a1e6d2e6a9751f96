"""Hold a bill of materials against what is pinned: each package, at its version.

    python .ci/check_sbom.py SBOM.json constraints.txt

A package that nobody pinned can be another one tomorrow, and one that the bill does not
name would be missed by whoever looks for a weakness in it.
"""

import json
import re
import sys
from pathlib import Path

# They install the others, and come with Python or its environment.
INSTALLERS = {"pip", "setuptools", "wheel"}
# Without these there would be no night: a bill that lacks one was made of something else.
NEEDED = {"dagster", "deltalake", "duckdb", "pyarrow", "pydantic", "torch"}


def normal(name: str) -> str:
    """Return a name as registries compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pinned_in(text: str) -> dict[str, str]:
    """Return the version of each package that constraints pin."""
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    pairs = (line.partition("==") for line in lines if "==" in line)
    return {normal(name): version.strip() for name, _, version in pairs}


def problems(bill: dict, pinned: dict[str, str]) -> list[str]:
    """Return what is wrong with a bill, in sentences; nothing if it is right."""
    found = {
        normal(one["name"]): str(one.get("version", "")).partition("+")[0]
        for one in bill.get("components", [])
    }
    said = []
    if bill.get("bomFormat") != "CycloneDX":
        said.append("it is no bill of materials of CycloneDX")
    if lacking := sorted(NEEDED - set(found)):
        said.append(f"it lacks {', '.join(lacking)}: it is of another environment")
    for name, version in sorted(found.items()):
        if name in INSTALLERS:
            continue
        if name not in pinned:
            said.append(
                f"{name} {version} is pinned nowhere: add it to constraints.txt"
            )
        elif pinned[name].partition("+")[0] != version:
            said.append(f"{name} is {version}, pinned is {pinned[name]}: make it again")
    return said


def main(bill: str, constraints: str) -> int:
    """Say what is wrong, or how many packages are right."""
    made = json.loads(Path(bill).read_text(encoding="utf-8"))
    pinned = pinned_in(Path(constraints).read_text(encoding="utf-8"))
    said = problems(made, pinned)
    for one in said:
        sys.stderr.write(f"{bill}: {one}\n")
    if not said:
        count = len(made["components"])
        sys.stdout.write(f"{bill}: {count} packages, each as constraints.txt pins it\n")
    return 1 if said else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
