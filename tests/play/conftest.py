"""A page on a tiny model, served for the tests of a module, and a browser that opens it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from browser_tab import Tab
from plain_hooks import random_vector

from faststeer.models.loading import load
from faststeer.play import Batcher, serve

TEMPLATE = "{% for m in messages %}<{{ m.role }}> {{ m.content }}\n{% endfor %}<assistant>"


@dataclass
class Page:
    """The address of a page, and what it works on."""

    address: str
    playground: Any
    app: Any


@pytest.fixture(scope="module")
def page(tiny_folder: Path) -> Iterator[Page]:
    pytest.importorskip("gradio", reason="the page needs Gradio, the extra [play]")
    serve.require_gradio()
    from faststeer.play.page import build
    from faststeer.play.playground import Playground

    vectors = [random_vector(name, [1, 2], seed=seed) for seed, name in enumerate("vw")]
    loaded = load(str(tiny_folder))
    loaded.tokenizer.chat_template = TEMPLATE
    playground = Playground(loaded, vectors)
    app = build(playground)
    try:
        yield Page(serve.launch(app, "127.0.0.1", None, None), playground, app)
    finally:
        app.close()
        playground.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
    driver = shutil.which("chromedriver")
    if driver is None or shutil.which("chromium") is None:
        pytest.skip("needs chromium and chromedriver: apt-get install chromium chromium-driver")
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "disable-gpu"):
        options.add_argument(f"--{argument}")
    opened = webdriver.Chrome(options=options, service=Service(driver))
    try:
        yield opened
    finally:
        opened.quit()


@pytest.fixture
def tab(page, browser) -> Iterator[Tab]:
    before = browser.window_handles
    browser.switch_to.window(before[0])
    browser.set_window_size(1400, 1200)
    yield Tab(browser, page.address)
    for handle in set(browser.window_handles) - set(before):
        browser.switch_to.window(handle)
        browser.close()
    browser.switch_to.window(before[0])


@pytest.fixture
def batcher(tiny_model, byte_tokenizer):
    with Batcher(tiny_model, byte_tokenizer) as opened:
        yield opened
