"""The page in a real browser: an answer streams, its tree is drawn, the console is free of errors; and as one file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aded.serve.page import page
from support.servers import served

sync_api = pytest.importorskip("playwright.sync_api", reason="the extra dev brings it")
BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="there is no Chromium here")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield opened
        opened.close()


class Tab:
    """A tab, and what was said on its console."""

    def __init__(self, browser: Any, **options: Any) -> None:
        self.page, self.said = browser.new_page(**options), list[str]()
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))

    def text(self, selector: str) -> str:
        return str(self.page.text_content(selector))

    def ask(self, prompt: str, tokens: int) -> None:
        self.page.fill("#prompt", prompt)
        self.page.fill("#tokens", str(tokens))
        self.page.focus("#prompt")
        self.page.keyboard.press("Control+Enter")
        self.page.wait_for_function("document.querySelector('#status').textContent.startsWith('Done')")


@needs_browser
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_an_answer_streams_and_its_trees_are_drawn(address: str, browser: Any, theme: str) -> None:
    tab = Tab(browser, color_scheme=theme)
    tab.page.goto(address)
    tab.page.wait_for_function("document.querySelector('#drafter').options.length > 1")
    tab.page.check("#compare")
    tab.ask("the other nose", 40)
    assert "the same text with and without ADED" in tab.text("#status")
    assert tab.page.locator("#answer .token").count() > 10
    assert tab.page.locator("#answer .drafted").count() > 0
    assert tab.page.locator("#answer .own").count() > 0
    assert float(tab.text("#per-step")) > 1
    assert tab.text("#speedup").endswith("x")
    # A token by keyboard: its step's tree has an accepted path.
    tab.page.locator("#answer .drafted").first.click()
    assert "drafted at depth" in tab.text("#detail")
    assert tab.page.locator("#tree .node.lit").count() > 0
    tab.page.focus("#answer")
    before = tab.text("#detail")
    tab.page.keyboard.press("ArrowRight")
    assert tab.text("#detail") != before
    assert tab.page.locator("#depth .bar").count() > 0
    assert tab.page.locator("#cost .curve").count() == 1
    tab.page.set_viewport_size({"width": 360, "height": 700})
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= 360
    back = tab.page.evaluate("getComputedStyle(document.body).backgroundColor")
    tab.page.click("#theme")
    assert tab.page.evaluate("getComputedStyle(document.body).backgroundColor") != back
    assert not tab.said


@needs_browser
def test_who_drafts_and_how_much_can_be_chosen(address: str, browser: Any) -> None:
    tab = Tab(browser)
    tab.page.goto(address)
    tab.page.wait_for_function("document.querySelector('#drafter').options.length > 1")
    tab.page.select_option("#drafter", "none")
    tab.ask("another one", 20)
    assert tab.text("#accepted") == "none drafted"
    tab.page.select_option("#drafter", "adaptive")
    tab.page.fill("#most", "2")
    tab.ask("another one", 20)
    assert tab.text("#most-shown") == "2"
    assert max(tab.page.evaluate("state.steps.map((step) => step.nodes.length)")) == 2
    assert not tab.said


@needs_browser
def test_a_key_is_asked_for_and_failures_are_told(tiny: Any, browser: Any) -> None:
    with served(*tiny, app={"keys": {"secret": "me"}}) as address:
        tab = Tab(browser)
        tab.page.goto(address)
        tab.page.wait_for_selector("#key", state="visible")
        assert "API key" in tab.text("#status")
        tab.page.fill("#key", "secret")
        tab.page.keyboard.press("Tab")
        tab.page.wait_for_function("document.querySelector('#drafter').options.length > 1")
        tab.page.fill("#prompt", "x" * 600)
        tab.page.click("#send")
        tab.page.wait_for_function("document.querySelector('#status').classList.contains('failed')")
        assert "512 tokens" in tab.text("#status")


def replay() -> dict[str, Any]:
    info = {"model": "m", "facts": {"dtype": "f", "device": "cpu"}, "version": "0", "drafters": ["a"], "drafter": "a"}
    token = {"text": "</script><b>x", "drafted": False, "depth": 0, "drafter_probability": None, "probability": 0.5}
    node = {"text": "y", "parent": -1, "probability": 0.25}
    step = {"tokens": [token], "nodes": [node], "path": [], "seconds": {"draft": 0, "verify": 1, "learn": 0}}
    figures = {"tokens": 1, "steps": 1, "drafted": 1, "accepted": 0, "exact": "none", "seconds": 1.0}
    return {
        "info": info,
        "prompt": "say </script>",
        "steps": [step],
        "figures": figures,
        "plain_tokens_per_second": 0.5,
    }


def test_what_is_put_into_a_file_stays_data() -> None:
    made = page(replay())
    assert made.count("</script>") == 1
    assert json.dumps("say \\u003c/script>").strip('"').replace("\\\\", "\\") in made
    assert "http://" not in made.replace("http://www.w3.org/2000/svg", "")  # it needs nothing else


@needs_browser
def test_a_file_shows_an_answer_without_a_server(browser: Any, tmp_path: Path) -> None:
    (tmp_path / "answer.html").write_text(page(replay()))
    tab = Tab(browser)
    tab.page.goto((tmp_path / "answer.html").as_uri())
    assert tab.text("#answer") == "</script><b>x"
    assert tab.page.locator("#tree .node.faded").count() == 1
    assert tab.text("#speedup") == "2.00x"
    assert tab.page.is_hidden("#asking")
    assert not tab.said
