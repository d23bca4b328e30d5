"""A page that is open in a tab of a real browser, and what a user does there."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

PROMPT = "The hotel was"
WAIT = 60.0  # seconds at most, on a machine that is busy
CONTROL, RELEASE, TABULATOR = "\ue009", "\ue000", "\ue004"  # WebDriver's keys


class Tab:
    """A page that is open in a tab of its own."""

    def __init__(self, browser: Any, address: str) -> None:
        self.browser = browser
        browser.switch_to.new_window("tab")
        browser.get(address)
        self.handle = browser.current_window_handle
        self.wait(lambda: self.all("#prompt textarea"))

    def all(self, selector: str) -> list[Any]:
        return list(self.browser.find_elements("css selector", selector))

    def one(self, selector: str) -> Any:
        return self.all(selector)[0]

    def wait(self, holds: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + WAIT
        while not (found := holds()):
            assert time.monotonic() < deadline, self.text
            time.sleep(0.1)
        return found

    @property
    def text(self) -> str:
        return str(self.one("body").text)

    def press(self, selector: str) -> None:
        """Click what is there, once it is seen."""
        self.wait(lambda: self.all(selector) and self.one(selector).is_displayed())
        self.one(selector).click()

    def choose(self, selector: str, option: str) -> None:
        """Choose an option of a dropdown by its text."""
        self.press(f"{selector} input")
        self.wait(lambda: self._options(option))[0].click()
        self.wait(lambda: self.one(f"{selector} input").get_attribute("value") == option)

    def _options(self, text: str) -> list[Any]:
        found = self.all("ul[role=listbox] li[role=option]")
        return [own for own in found if own.get_attribute("aria-label") == text]

    def write(self, selector: str, text: str) -> None:
        """Type text into a field in place of what it holds."""
        self.press(selector)
        self.one(selector).send_keys(f"{CONTROL}a{RELEASE}", text, TABULATOR)

    def number(self, selector: str, value: float) -> None:
        """Type a number into a field."""
        field = self.one(f"{selector} input[type=number]")
        field.send_keys(f"{CONTROL}a{RELEASE}", str(value), TABULATOR)

    def kept(self, selector: str) -> float | None:
        """Return the value of a number field; None where it is not shown."""
        fields = self.all(f"{selector} input[type=number]")
        return float(fields[0].get_attribute("value")) if fields else None

    def move(self, number: int, coefficient: float) -> None:
        """Move a slider by its number field."""
        self.number(f"#slider-{number}", coefficient)

    def send(self, prompt: str = PROMPT) -> None:
        field = self.one("#prompt textarea")
        field.clear()
        field.send_keys(prompt)
        time.sleep(0.3)  # the page takes typed text over a moment later
        self.one("#send").click()

    def answers(self) -> tuple[str, str]:
        """Wait for the end, and return both answers, the last of a chat."""
        ended = ("they part", "equal", "one ends")
        self.wait(
            lambda: (
                any(word in self.one("#status").text for word in ended)
                and "so far" not in self.one("#status").text
                and "48 and 48" in self.text
            )
        )
        found = [self.all(f"#{side} .bot")[-1].text for side in ("unsteered", "steered")]
        return found[0], found[1]
