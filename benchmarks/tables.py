"""Tables of results, in a README and on a terminal, and the machine that made them."""

import os
import platform
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table


def machine() -> dict[str, Any]:
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        names = [line.split(":")[1].strip() for line in file if "model name" in line]
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(psutil.virtual_memory().total / 2**30),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
    }


def with_tables(readme: str, tables: str, begin: str, end: str) -> str:
    """A README with these tables in the place of those before, between two lines."""
    before, _, rest = readme.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}\n{tables}{end}{after}"


def print_tables(tables: str) -> None:
    """The same for a terminal."""
    console, table = Console(width=120), None
    for line in tables.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|"):
            if table is not None:
                console.print(table)
            table = None
            console.print(line)
        elif table is None:
            table = Table(*cells)
        elif not line.startswith("|--"):
            table.add_row(*cells)
    if table is not None:
        console.print(table)
