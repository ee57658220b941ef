"""What every test may lean on: seeds, one thread a process, MNIST and a browser where they are."""

from __future__ import annotations

import ast
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
from hypothesis import settings

from tests.waiting import patient

ROOT = Path(__file__).resolve().parents[1]
SHARED_DATA = ROOT.parent / "shared" / "data"
SOURCE_FOLDERS = ("modelopt_core", "pages", "benchmarks", "tests")

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is first imported; workers share the cores
if SHARED_DATA.is_dir():  # to test as where there is no data, set MODELOPT_DATA to an empty folder
    os.environ.setdefault("MODELOPT_DATA", str(SHARED_DATA))
settings.register_profile("modelopt", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("modelopt")


def missing(what: str, reason: str) -> NoReturn:
    """Skip and say why; where MODELOPT_REQUIRE_<WHAT>=1 (our own CI), fail instead."""
    if os.environ.get(f"MODELOPT_REQUIRE_{what.upper()}") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def sources(root: Path) -> dict[str, ast.Module]:
    """The syntax tree of every Python file of the project, by its path from the root: `modelopt_core/steps/base.py`."""
    folders = (path for folder in SOURCE_FOLDERS for path in sorted((root / folder).rglob("*.py")))
    files = [*sorted(root.glob("*.py")), *folders]
    return {f.relative_to(root).as_posix(): ast.parse(f.read_text("utf-8"), str(f)) for f in files}


@pytest.fixture(scope="session")
def mnist() -> object:
    """The MNIST workload; tests that need it are skipped where its files are not on this machine."""
    import modelopt_core.workloads  # noqa: F401  registers them
    from modelopt_core.errors import DataMissing
    from modelopt_core.workloads.workload import workload

    try:
        return workload("mnist")
    except DataMissing as error:
        missing("mnist", str(error))


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of an installed chromium; Playwright's own download is not used."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    return path or missing("browser", "no chromium on PATH; install it (Debian: apt-get install chromium)")


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Any]:
    """A headless browser of the test file's own."""
    from benchmarks.browser import CHROMIUM_ARGUMENTS

    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is in the extra `test`")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_ARGUMENTS)
        yield patient(browser)
        browser.close()


@pytest.fixture(scope="module", autouse=True)
def _no_curves_of_others() -> Iterator[None]:
    """A file's pages leave no curve that goes on being measured beside the next file's tests."""
    yield
    if background := sys.modules.get("modelopt_core.studies.background"):
        background.SWEEPER.forget()
        assert background.SWEEPER.idle(), "the background is at the point of a curve for over 30 s"


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Networks that a test makes for itself begin with the same weights each time."""
    import torch

    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _needs(request: pytest.FixtureRequest) -> None:
    """`@pytest.mark.mnist` and `@pytest.mark.browser` ask for the fixtures above."""
    for marker, fixture in (("mnist", "mnist"), ("browser", "chromium")):
        if request.node.get_closest_marker(marker):
            request.getfixturevalue(fixture)


@pytest.fixture(scope="module")
def address(root: Path, chromium: str) -> Iterator[str]:
    """Where the app is served, by a server of the test file's own."""
    from benchmarks.server import served

    with served("--no-browser", launcher=root / "pages" / "server" / "serve.py") as url:
        yield url
