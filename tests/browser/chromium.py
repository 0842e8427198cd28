"""The Chromium of the distribution, which the browser tests drive."""

import shutil

NAMES = ("chromium", "chromium-browser", "google-chrome")
HOW = f"no Chromium here ({', '.join(NAMES)}): apt install chromium"


def chromium() -> str | None:
    """Return its path, or None where there is none."""
    return next((found for found in map(shutil.which, NAMES) if found), None)
