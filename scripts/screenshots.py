"""Make a picture of every page in every state, and say what is wrong with each.

    python scripts/screenshots.py FOLDER [--python PATH ...] [--only PART]

Each PATH is the Python of an environment with its own version of Datasette; this script's own
one when none is given, which needs Playwright. The pictures are in FOLDER/VERSION-WIDTH/. What
axe, the console, the status or the width of a page say against it is printed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parent.parent
sys.path.insert(0, str(REPOSITORY))

from tests.browser_site import (  # noqa: E402
    DESKTOP,
    PHONE,
    Visit,
    accessibility_faults,
    running,
    sideways_overflow,
    started_browser,
)
from tests.browser_states import State, list_states, states_site  # noqa: E402


def faults_of(visit: Visit, state: State, picture: Path) -> Iterator[str]:
    """Go to a state, make its picture, and yield what is wrong with it."""
    visit.page.goto("about:blank")  # so that no page of the state before asks on
    visit.sign_in(state.actor)
    visit.faults.clear()
    response = visit.page.goto(state.path)
    if response.status != state.status:
        yield f"answers {response.status} in place of {state.status}"
    if state.act is not None:
        state.act(visit.page)
    visit.page.wait_for_load_state()
    visit.page.screenshot(path=picture, full_page=True)
    if overflow := sideways_overflow(visit.page):
        yield f"is {overflow} px too wide"
    yield from accessibility_faults(visit.page, visit.site.version)
    yield from (fault for fault in visit.unexpected_faults() if "status 5" not in fault)


def take_pictures(browser: Any, python: str, out: Path, only: str) -> None:
    """Make all pictures with one version of Datasette."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        site = states_site(folder, python)
        command = [python, "-m", "tests.browser_states", name]
        subprocess.run(command, cwd=REPOSITORY, env=site.environment(), check=True)
        with running(site):
            for viewport in (DESKTOP, PHONE):
                pictures = out / f"{site.version}-{viewport['width']}"
                pictures.mkdir(parents=True, exist_ok=True)
                visit = Visit(browser, site, viewport=viewport)
                for state in list_states(site):
                    if only not in state.name:
                        continue
                    picture = pictures / f"{state.name}.png"
                    try:
                        for fault in faults_of(visit, state, picture):
                            print(f"{pictures.name} {state.name}: {fault}", flush=True)
                    except Exception as error:
                        message = str(error).splitlines()[0]
                        print(f"{pictures.name} {state.name}: FAILED {message}", flush=True)
                visit.context.close()
        (out / f"{site.version}.log").write_text(site.log, "utf-8")


def main() -> None:
    """Read the arguments and make the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the pictures go")
    parser.add_argument("--python", action="append", help="Python with a Datasette")
    parser.add_argument("--only", default="", help="part of the names of the states to show")
    options = parser.parse_args()
    os.environ.setdefault("PYTHONDONTWRITEBYTECODE", "1")
    with started_browser() as browser:
        for python in options.python or [sys.executable]:
            take_pictures(browser, python, options.folder, options.only)


if __name__ == "__main__":
    main()
