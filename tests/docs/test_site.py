"""The documentation site builds without a broken link, and is read and searched in a browser."""

import functools
import http.server
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.docs.printed import pages

if TYPE_CHECKING:
    from playwright.sync_api import Browser

PROJECT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "docs/site/build.py", str(folder)],
        cwd=PROJECT, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_every_page_of_docs_is_on_the_site_and_in_its_navigation(site: Path) -> None:
    index = (site / "index.html").read_text()
    for page in pages(PROJECT):
        name = "index" if page.name == "README.md" else page.stem
        assert (site / f"{name}.html").exists(), page
        assert name == "index" or f'href="{name}.html"' in index, page


def test_a_broken_link_fails_the_build(tmp_path: Path) -> None:
    shutil.copytree(PROJECT / "docs", tmp_path / "docs")
    shutil.copy(PROJECT / "README.md", tmp_path)
    with (tmp_path / "docs" / "glossary.md").open("a") as page:
        page.write("\nSee [nothing](no-page.md).\n")
    built = subprocess.run(
        [sys.executable, "docs/site/build.py", "site"],
        cwd=tmp_path, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert built.returncode != 0
    assert "no-page.md" in built.stderr


@pytest.mark.browser
def test_pages_are_read_without_scripts_and_searched_with_them(
    address: str, browser: "Browser"
) -> None:
    plain = browser.new_context(java_script_enabled=False).new_page()
    plain.goto(f"{address}/commands.html")
    assert "--acknowledge" in plain.locator("article").inner_text()
    plain.goto(f"{address}/python.html")
    assert "play_round" in plain.locator("article").inner_text()
    plain.close()
    page = browser.new_page()
    page.goto(f"{address}/search.html?q=fingerprint")
    page.locator("#search-results li a").first.wait_for()
    page.close()
