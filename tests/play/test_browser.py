"""The page in a real browser: headless Chromium, controlled by Selenium."""

from __future__ import annotations

import time
from typing import Any

from browser_tab import PROMPT, Tab
from plain_hooks import random_vector
from selenium.webdriver import ActionChains

from faststeer.play import Request, Use


def expected(page: Any, coefficients: dict[str, float]) -> tuple[str, str]:
    """Return both answers by the batcher, which other tests compare with single runs."""
    known = {vector.name: vector for vector in page.playground.vectors}
    uses = [Use(known[name], c, (2,), "all", "add") for name, c in coefficients.items()]
    found = page.playground.batcher.submit(Request(PROMPT, uses, 48)).result()
    return found[0].text, found[1].text


def shown(found: tuple[str, str]) -> list[str]:
    """Return letters and digits only: browsers show control characters in their own way."""
    return ["".join(letter for letter in text if letter.isalnum()) for text in found]


def test_a_slider_is_moved_and_both_answers_are_seen(tab, page) -> None:
    limit = float(tab.one("#slider-0 input[type=range]").get_attribute("max"))
    answers = {}
    for coefficient in (limit / 2, -limit / 2):
        tab.move(0, coefficient)
        tab.send()
        tab.wait(lambda: tab.all("#steered .bot"))
        answers[coefficient] = tab.answers()
        assert shown(answers[coefficient]) == shown(expected(page, {"v": coefficient}))
        assert "begins to break" in tab.one("#slider-0").text
        tab.one("#clear").click()
        tab.wait(lambda: not tab.all("#steered .bot") and not tab.one("#status").text)
    first, second = answers.values()
    assert first[0] == second[0]
    assert len({first[0], first[1], second[1]}) == 3


def test_where_steering_acted_is_shown_in_colours(tab) -> None:
    def of_tab(title: str) -> None:
        tab.wait(lambda: [own for own in tab.all("button[role=tab]") if own.text == title])[
            0
        ].click()

    of_tab("where steering acted")
    tab.wait(lambda: tab.one("#acted").is_displayed())
    tab.one("#acted").click()
    tab.wait(lambda: "send a prompt in the first tab" in tab.text)
    of_tab("steer")
    tab.move(0, float(tab.one("#slider-0 input[type=range]").get_attribute("max")) / 2)
    tab.send()
    tab.answers()
    of_tab("where steering acted")
    tab.one("#acted-text textarea").send_keys("More text")
    tab.one("#acted-layer input, #acted-layer textarea").send_keys("first")
    time.sleep(0.3)
    tab.one("#acted").click()
    tab.wait(lambda: "layer is 'first'; expected a number" in tab.text)
    tab.one("#acted-layer input, #acted-layer textarea").send_keys("\ue009a\ue000\ue003")
    time.sleep(0.3)
    tab.one("#acted").click()
    tokens = tab.wait(lambda: tab.all("#acted-result .fs-token"))
    colours = {own.value_of_css_property("background-color") for own in tokens}
    assert len(colours) > 3
    assert len(tab.all("#acted-result .fs-parting")) == 2
    tip = tokens[2].find_element("css selector", ".fs-tip")
    assert not tip.is_displayed()
    ActionChains(tab.browser).move_to_element(tokens[2]).perform()
    tab.wait(tip.is_displayed)
    likeliest = tip.find_elements("css selector", ".fs-next")
    assert [len(own.find_elements("css selector", "span")) for own in likeliest] == [10, 10]
    tab.one('#acted-result input[value="change"]').click()
    changed = {own.value_of_css_property("background-color") for own in tokens}
    assert changed != colours


def test_a_broken_upload_gives_a_message_and_the_page_continues(tab, tmp_path) -> None:
    broken, good = tmp_path / "broken.safetensors", tmp_path / "own.safetensors"
    broken.write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{not JSON, sad")
    random_vector("own", [1, 2]).save(good)
    upload = tab.one("input[type=file]")
    upload.send_keys(str(broken))
    tab.wait(lambda: "not added: broken.safetensors" in tab.one("#vector-message").text)
    assert not tab.all("#slider-2 input[type=number]")
    tab.one("input[type=file]").send_keys(str(good))
    tab.wait(lambda: "added own" in tab.one("#vector-message").text)
    tab.wait(lambda: tab.all("#slider-2 input[type=number]"))
    assert "own" in tab.one("#slider-2").text
    tab.send()
    unsteered, steered = tab.answers()
    assert unsteered != steered


def test_two_tabs_have_settings_of_their_own(tab, page) -> None:
    other = Tab(tab.browser, page.address)
    settings = {tab: {"v": 3.0, "w": 0.0}, other: {"v": 0.0, "w": -3.0}}
    for one, setting in settings.items():
        one.browser.switch_to.window(one.handle)
        for number, coefficient in enumerate(setting.values()):
            one.move(number, coefficient)
    for one in settings:
        one.browser.switch_to.window(one.handle)
        one.send()
    found = []
    for one, setting in settings.items():
        one.browser.switch_to.window(one.handle)
        found.append(shown(one.answers()))
        assert found[-1] == shown(expected(page, setting))
    assert found[0] != found[1]


def test_a_page_that_is_opened_starts_at_the_vectors_own_values(tab, page) -> None:
    """A value of one client is never the start of another's."""
    before = tab.one("#slider-1 input[type=number]").get_attribute("value")
    tab.move(1, 2.5)
    other = Tab(tab.browser, page.address)
    assert other.one("#slider-1 input[type=number]").get_attribute("value") == before != "2.5"


def test_an_empty_prompt_is_answered_with_a_message(tab) -> None:
    tab.send("")
    tab.wait(lambda: "not answered: the prompt is empty" in tab.one("#status").text)


def test_a_narrow_window_has_everything_in_one_column(tab) -> None:
    tab.browser.set_window_size(500, 1200)
    tab.wait(lambda: tab.browser.execute_script("return window.innerWidth") <= 520)
    width, seen = tab.browser.execute_script(
        "return [document.documentElement.scrollWidth, window.innerWidth]"
    )
    assert width <= seen
    left = [tab.one(f"#{name}").location["x"] for name in ("slider-0", "unsteered", "steered")]
    assert max(left) < 100
    tab.browser.set_window_size(1400, 1200)
    tab.wait(lambda: tab.one("#steered").location["x"] > 700)


def test_the_page_loads_nothing_from_elsewhere(tab) -> None:
    loaded = tab.browser.execute_script(
        "return performance.getEntriesByType('resource').map(entry => entry.name)"
    )
    assert len(loaded) > 5
    assert [name for name in loaded if "//127.0.0.1" not in name] == []
