"""A page in a real browser without a screen: how wide it is, and what it looks like.

    python -m batch_assets_tests.browser ROOT    takes the pictures of docs/reports.md

It needs Debian's package `chromium`. ROOT holds the demo `flights` and its night of
2013-02-12, which no gate lets through.
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
from html import escape
from pathlib import Path

import pytest
from PIL import Image

from batch_assets_tests.projects import FLIGHTS

BROWSER = shutil.which("chromium")
needs_browser = pytest.mark.skipif(
    BROWSER is None, reason="apt-get install chromium, to look at pages"
)
# What a page is asked for, in a frame as wide as a telephone: a window can't be so narrow.
FRAME = """\
<iframe id="page" src="{url}" style="width: {width}px; height: 900px; border: 0"></iframe>
<pre id="found"></pre>
<script>
document.getElementById("page").onload = (event) => {{
  const page = event.target.contentDocument;
  const inside = [...page.querySelectorAll("body *:not(svg *)")].filter(
    (one) => !one.closest(".scroll") || one.classList.contains("scroll"));
  const wide = inside.filter((one) => one.getBoundingClientRect().right > {width} + 1);
  const texts = [...page.querySelectorAll("svg text")];
  const tall = texts.map((one) => parseFloat(getComputedStyle(one).fontSize)
    * one.ownerSVGElement.getBoundingClientRect().width
    / one.ownerSVGElement.viewBox.baseVal.width);
  const cut = texts.filter((one) => {{
    const box = one.getBoundingClientRect();
    const around = one.ownerSVGElement.getBoundingClientRect();
    return box.left < around.left - 2 || box.right > around.right + 2
      || box.top < around.top - 2 || box.bottom > around.bottom + 2;
  }});
  document.getElementById("found").textContent = JSON.stringify({{
    width: page.documentElement.scrollWidth,
    wide: wide.map((one) => one.tagName + " " + one.textContent.slice(0, 60)),
    smallest: Math.min(...tall),
    cut: cut.map((one) => one.textContent),
    errors: page.querySelectorAll("parsererror").length,
  }});
}};
</script>
"""


def chromium(*arguments: str, profile: Path) -> str:
    """Run the browser to its end; what it printed."""
    assert BROWSER
    done = subprocess.run(
        [
            BROWSER,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--allow-file-access-from-files",
            f"--user-data-dir={profile}",
            *arguments,
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout


def measured(page: Path, width: int, folder: Path) -> dict:
    """What a browser makes of a page in so many pixels."""
    frame = folder / "frame.html"
    frame.write_text(FRAME.format(url=escape(page.as_uri()), width=width), "utf-8")
    dom = chromium(
        "--virtual-time-budget=5000", "--dump-dom", frame.as_uri(), profile=folder / "p"
    )
    (found,) = re.findall(r'<pre id="found">(.*?)</pre>', dom, re.DOTALL)
    return json.loads(found)


def take(page: Path, picture: Path, *, height: int, dark: bool = False) -> None:
    """Take a picture of the top of a page, as few colours as it needs."""
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole.png"
        chromium(
            f"--screenshot={whole}",
            f"--window-size=1240,{height}",
            f"--blink-settings=preferredColorScheme={int(not dark)}",
            page.as_uri(),
            profile=Path(folder) / "p",
        )
        with Image.open(whole) as drawn:
            few = drawn.convert("RGB").quantize(256)
            few.save(picture, format="png", optimize=True)


def main(root: Path) -> None:
    """Take the pictures of the page of reports."""
    reports, images = root / "reports" / "flights", FLIGHTS / "docs" / "images"
    images.mkdir(exist_ok=True)
    take(reports / "2013-07-28.html", images / "good-night.png", height=1180)
    take(
        reports / "2013-02-12.html", images / "stopped-night.png", height=960, dark=True
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
