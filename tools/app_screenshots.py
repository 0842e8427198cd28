"""Photograph the page of `prunevid app` for the documentation: ``.venv-app/bin/python tools/app_screenshots.py``.

The page answers about the bundled clip, at the width of a desktop and of a phone, light and dark; the pictures go to
``docs/pictures``. Run it after ``make test-app``, which makes the environment with Playwright.
"""

from __future__ import annotations

import io
import itertools
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # a script is started with its own folder alone

from tests.browser.chromium import HOW, chromium  # noqa: E402
from tests.browser.conftest import EXAMPLE  # noqa: E402

FOLDER = ROOT / "docs" / "pictures"
WIDTHS: dict[str, dict[str, Any]] = {
    "desktop": {"viewport": {"width": 1280, "height": 1000}},
    "phone": {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 1.5, "is_mobile": True},
}
TALLEST = 3200  # pixels of a picture: on a phone, down to the video with what was kept
COLORS = 128  # of a picture: the page is flat


def photograph(browser: Any, url: str, width: str, scheme: str) -> bytes:
    """Ask about the example clip and return the whole page as a PNG."""
    context = browser.new_context(color_scheme=scheme, **WIDTHS[width])
    tab = context.new_page()
    tab.goto(url)
    tab.get_by_text(EXAMPLE).first.click()
    tab.locator("#video video").wait_for()
    tab.locator("#ask").click()
    tab.locator("#status").get_by_text("Done").wait_for()
    tab.locator("#overlay video").wait_for()
    tab.locator("#kept iframe").scroll_into_view_if_needed()  # a frame that was never in view is not drawn
    tab.frame_locator("#kept iframe").locator("canvas, img, svg").first.wait_for()
    for film in ("video", "overlay"):  # its first frame is there
        tab.wait_for_function(f"document.querySelector('#{film} video').readyState >= 2")
    taken: bytes = tab.screenshot(full_page=True)
    context.close()
    return taken


@contextmanager
def served() -> Iterator[str]:
    """Serve the page inside the block, for one photograph: nobody has asked before. Yield its address."""
    command = [sys.executable, "-m", "prunevid_qwen.cli", "app", "--json", "--quiet"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        yield json.loads(server.stdout.readline())["url"]
    finally:
        server.send_signal(signal.SIGINT)
        server.wait()


def main() -> int:
    """Write all of them."""
    path = chromium()
    if path is None:
        raise SystemExit(HOW)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        for width, scheme in itertools.product(WIDTHS, ("light", "dark")):
            with served() as url:
                image = Image.open(io.BytesIO(photograph(browser, url, width, scheme))).convert("RGB")
            image = image.crop((0, 0, image.width, min(image.height, TALLEST)))
            file = FOLDER / f"app_{width}_{scheme}.png"
            image.quantize(COLORS).save(file, optimize=True)
            print(f"{file.relative_to(ROOT)}: {image.width} x {image.height}, {file.stat().st_size // 1000} kB")
        browser.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
