"""python -m website reference | stage FOLDER."""

import sys
from pathlib import Path

from website.pages import PAGES, page
from website.staged import ROOT, stage


def main() -> None:
    match sys.argv[1:]:
        case ["reference"]:
            folder = ROOT / "docs" / "reference"
            folder.mkdir(exist_ok=True)
            for name in PAGES:
                (folder / name).write_text(page(name), encoding="utf-8")
        case ["stage", folder]:
            stage(Path(folder))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
