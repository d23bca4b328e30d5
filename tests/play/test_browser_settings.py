"""Chats, conditions and saved settings, in a real browser."""

from __future__ import annotations

import json
import time
import urllib.request
from typing import Any

import torch
from browser_tab import PROMPT, Tab

import faststeer
from faststeer.play import Request, Use


def alnum(text: str) -> str:
    """Return letters and digits only: browsers show control characters in their own way."""
    return "".join(letter for letter in text if letter.isalnum())


def test_a_chat_has_a_history_on_either_side(tab, page) -> None:
    vector, batcher = page.playground.vectors[0], page.playground.batcher
    use = Use(vector, 3.0, (2,), "all", "add")
    histories: list[list[dict[str, str]]] = [[], []]
    expected = []
    for text in ("Hello", "And then?"):
        histories = [[*own, {"role": "user", "content": text}] for own in histories]
        request = Request(histories[1], [use], 48, unsteered_prompt=histories[0])
        expected.append([answer.text for answer in batcher.submit(request).result()])
        histories = [
            [*own, {"role": "assistant", "content": answer}]
            for own, answer in zip(histories, expected[-1], strict=True)
        ]
    alone = Request([{"role": "user", "content": "And then?"}], [use], 48)
    assert batcher.submit(alone).result()[1].text != expected[1][1]  # the history matters

    chat = [own for own in tab.all("#kind label") if own.text == "a chat"]
    chat[0].click()
    tab.wait(
        lambda: tab.one("#prompt textarea").get_attribute("placeholder") == "How was the hotel?"
    )
    tab.move(0, 3.0)
    for turn, text in enumerate(("Hello", "And then?")):
        tab.send(text)
        tab.wait(lambda text=text: text in tab.one("#steered").text)
        assert [alnum(own) for own in tab.answers()] == [alnum(own) for own in expected[turn]]
    assert tab.one("#prompt textarea").get_attribute("value") == ""
    for side in ("unsteered", "steered"):
        assert all(text in tab.one(f"#{side}").text for text in ("Hello", "And then?"))


def clear(tab: Tab) -> None:
    """Clear what is there: a clear of nothing would be seen by nothing, and cancel what follows."""
    if tab.all("#steered .bot") or tab.one("#status").text:
        tab.press("#clear")
        tab.wait(lambda: not tab.all("#steered .bot") and not tab.one("#status").text)


def answered(tab: Tab) -> tuple[str, str]:
    clear(tab)
    tab.send()
    tab.wait(lambda: tab.all("#steered .bot"))
    return tab.answers()


def test_a_condition_decides_whether_a_prompt_is_steered(tab) -> None:
    tab.move(0, 3.0)
    tab.press("#how-0 button")
    tab.choose("#condition-0", "w")
    tab.wait(lambda: tab.kept("#condition-layer-0") == 1)  # the last before layer 2
    tab.number("#condition-threshold-0", 0.999)
    unsteered, steered = answered(tab)
    assert unsteered == steered
    status = tab.one("#status").text
    assert "v does not steer: it fails cosine with 'w' at layer 1" in status
    assert "cosine with w at layer 1 is" in status
    tab.number("#condition-threshold-0", -0.999)
    assert answered(tab) != (unsteered, steered)
    assert "v steers: the prompt meets" in tab.one("#status").text
    tab.press("#code button")
    tab.wait(lambda: "when = faststeer.when(condition, layer=1, above=-0.999)" in tab.text)
    assert "the command has no conditions" in tab.text


def test_tokens_that_a_text_names_are_steered(tab) -> None:
    tab.move(0, 3.0)
    tab.press("#how-0 button")
    tab.write("#tokens-0 input", 'after("never written")')
    unsteered, steered = answered(tab)
    assert unsteered == steered
    absent = "v steers nothing after the text 'never written': it is not in the text"
    tab.wait(lambda: absent in tab.one("#status").text)
    tab.write("#tokens-0 input", '~after("never written")')
    assert answered(tab) != (unsteered, steered)
    tab.press("#code button")
    tab.wait(lambda: "~faststeer.after('never written', tokenizer)" in tab.text)
    tab.write("#tokens-0 input", "after(")
    clear(tab)
    tab.send()
    tab.wait(lambda: "not answered: positions 'after(' are unknown" in tab.one("#status").text)


def test_tokens_meet_a_condition_one_by_one(tab) -> None:
    tab.move(0, 3.0)
    tab.press("#how-0 button")
    tab.choose("#condition-0", "w")
    tab.wait(lambda: tab.kept("#condition-layer-0") == 1)
    tab.choose("#condition-each-0", "token")
    tab.number("#condition-threshold-0", 0.999)
    unsteered, steered = answered(tab)
    assert unsteered == steered
    found = "cosines of the unsteered prompt's tokens with w at layer 1 are"
    tab.wait(lambda: found in tab.one("#status").text)
    tab.number("#condition-threshold-0", -0.999)
    assert answered(tab) != (unsteered, steered)
    tab.press("#code button")
    tab.wait(lambda: 'above=-0.999, each="token", hysteresis=0)' in tab.text)


def downloaded(tab: Tab) -> bytes:
    """Return the file that the page offers, fetched as the browser would."""
    link = tab.wait(lambda: tab.all("#saved a[href]"))[0].get_attribute("href")
    with urllib.request.urlopen(link, timeout=20) as answer:
        return bytes(answer.read())


def test_a_vector_is_saved_with_what_the_page_says(tab, page, tmp_path) -> None:
    tab.move(0, -1.5)
    tab.press("#how-0 button")
    save = "Save this vector with its setting"
    tab.wait(lambda: [own for own in tab.all("button") if own.text == save])[0].click()
    tab.wait(lambda: "v.safetensors is ready" in tab.one("#vector-message").text)
    path = tmp_path / "v.safetensors"
    path.write_bytes(downloaded(tab))
    found = faststeer.SteeringVector.load(path)
    assert torch.equal(found[2], page.playground.vectors[0][2])
    stated = {key: found.metadata[key] for key in ("layers", "coefficient", "positions", "mode")}
    assert stated == {"layers": [2], "coefficient": -1.5, "positions": "all", "mode": "add"}


def load_setting(tab: Tab, path: Any, message: str) -> None:
    field = tab.wait(lambda: tab.all("*:has(> #load-setting) > input[type=file]"))[0]
    field.send_keys(str(path))
    tab.wait(lambda: message in tab.one("#vector-message").text)


def test_a_setting_is_saved_and_loaded_in_another_tab(tab, page, tmp_path) -> None:
    tab.move(0, 0.0)
    tab.move(1, -2.0)
    tab.press("#how-1 button")
    tab.choose("#condition-1", "v")
    tab.wait(lambda: tab.kept("#condition-layer-1") == 1)
    tab.number("#condition-threshold-1", -0.9)
    tab.press("#save-setting")
    tab.wait(lambda: "setting.json is ready" in tab.one("#vector-message").text)
    path = tmp_path / "setting.json"
    path.write_bytes(downloaded(tab))
    [saved] = json.loads(path.read_bytes())["vectors"]
    assert (saved["vector"], saved["coefficient"], saved["layers"]) == ("w", -2.0, [2])
    expected = answered(tab)
    assert expected[0] != expected[1]

    other = Tab(tab.browser, page.address)
    other.move(0, 1.0)  # a setting is all of it: the other sliders go to 0
    foreign = path.read_bytes().replace(b'"w"', b'"x"').replace(saved["digest"].encode(), b"0")
    for name, content, message in (
        ("broken", b"no JSON", "not loaded: broken.json: is not a setting"),
        ("foreign", foreign, "'x'"),
    ):
        wrong = tmp_path / f"{name}.json"
        wrong.write_bytes(content)
        load_setting(other, wrong, message)
        assert other.kept("#slider-0") == 1
    load_setting(other, path, "the setting is loaded")
    other.wait(lambda: other.kept("#slider-1") == -2)
    assert other.kept("#slider-0") == 0
    time.sleep(0.5)  # events that the new values start
    assert answered(other) == expected
    assert "w steers: the prompt meets" in other.one("#status").text
    found = page.playground.batcher.submit(Request(PROMPT, max_new_tokens=48)).result()
    assert alnum(found[0].text) == alnum(expected[0])
