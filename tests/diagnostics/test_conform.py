"""`faststeer conform` finds the one fault of a stand-in server, and nothing else."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from steering_server import SETTINGS, Announced, StandIn, steering_server

from faststeer.diagnostics.conform import PROBES, Report, Verdict, examine
from faststeer.diagnostics.conform.http_answers import events, reply_of

# Of each fault, the probes that have to fail.
FAULTS = {
    "first token unsteered": {"first token"},
    "last prompt token unsteered": {"every token"},
    "generated tokens unsteered": {"every token"},
    "last layer ignored": {"last layer"},
    "cache without settings": {"prompt cache"},
    "steered prompts cached": {"prompt cache"},  # by requests that do not read the cache
    "chat unsteered": {"chat"},
    "chat half steered": {"chat"},
    "streams unsteered": {"streaming"},
    "only the first answer": {"several answers"},
    "first coefficient stays": {"coefficient"},
    "table full": {"many coefficients"},
    "rows exchanged": {"load"},
    "batchmates steered": {"neighbours"},
    "stays on": {"neighbours"},
    "unknown vector ignored": {"refusal"},
    "all ignored": {"refusal"},
}


def examined(stand_in: StandIn, **given: Any) -> Report:
    with steering_server(stand_in), Announced(stand_in, **given) as subject:
        return examine(subject, 2.0)


def having(report: Report, verdict: Verdict) -> set[str]:
    return {own.probe for own in report.findings if own.verdict is verdict}


@pytest.mark.parametrize("noise", [0.0, 0.003])
def test_an_honest_server_passes_every_probe(noise: float) -> None:
    report = examined(StandIn(noise=noise))
    assert having(report, Verdict.PASSED) == set(PROBES)
    assert report.passed
    assert (report.noise > 0) == (noise > 0)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_fails_its_probe_and_no_other(fault: str) -> None:
    report = examined(StandIn(fault))
    assert having(report, Verdict.FAILED) == FAULTS[fault]
    assert not report.passed


def test_a_coefficient_that_is_one_request_late_is_found() -> None:
    report = examined(StandIn("coefficient one late"))
    assert {"coefficient", "load"} <= having(report, Verdict.FAILED)


def test_nothing_passes_without_a_visible_effect() -> None:
    report = examined(StandIn("all ignored"))
    assert having(report, Verdict.INCONCLUSIVE) == set(PROBES) - {"refusal"}


def test_nothing_fails_where_answers_are_as_far_apart_as_by_steering() -> None:
    report = examined(StandIn(noise=1.0))
    assert having(report, Verdict.FAILED) == set()
    assert not report.passed


def test_text_without_tokens_shows_less_and_nothing_wrong() -> None:
    report = examined(StandIn(tokens=False))
    assert having(report, Verdict.FAILED) == set()
    unseen = {"first token", "every token", "several answers"}
    assert having(report, Verdict.INCONCLUSIVE) == unseen
    assert having(examined(StandIn("chat unsteered", tokens=False)), Verdict.FAILED) == {"chat"}


def test_probes_without_their_setting_do_not_apply() -> None:
    report = examined(StandIn(), settings={"steered": SETTINGS["steered"]}, fresh=None)
    missing = {"last layer", "prompt cache", "refusal"}
    assert having(report, Verdict.NOT_APPLICABLE) == missing
    assert having(report, Verdict.PASSED) == set(PROBES) - missing


@pytest.mark.parametrize("fault", ["", "streams unsteered"])
def test_servers_that_always_steer_are_compared_with_one_that_does_not(fault: str) -> None:
    always = {"vector": "one", "coefficient": 2.0}
    with steering_server(StandIn(fault, always=always)) as steering:
        settings = {"steered": steering.address}
        report = examined(StandIn(), settings=settings, others=[steering])
    assert having(report, Verdict.FAILED) == ({"streaming"} if fault else set())
    passed = {"effect", "first token", "every token", "chat", "streaming", "several answers"}
    assert having(report, Verdict.PASSED) == passed - having(report, Verdict.FAILED)
    assert "fixed when a server starts" in report.findings[-1].reason


def test_requests_of_a_failure_repeat_it() -> None:
    stand_in = StandIn("streams unsteered")
    with steering_server(stand_in), Announced(stand_in) as subject:
        report = examine(subject, 2.0)
        [failure] = [own for own in report.as_json()["findings"] if own["verdict"] == "failed"]
        stand_in.expected = 1
        for exchange in failure["exchanges"]:
            sent = exchange["request"]
            again = httpx.post(sent["url"], json=sent["body"], trust_env=False)
            lines = events(again.text.splitlines()) if "stream" in sent["body"] else [again.json()]
            texts = [own.text for own in reply_of(lines, sent).answers]
            assert texts == [own["text"] for own in exchange["answers"]]
    streamed = [own for own in failure["exchanges"] if "stream" in own["request"]["body"]]
    [plain] = [own for own in failure["exchanges"] if own["steering"] is None][:1]
    assert streamed[0]["steering"] == "steered at 2"
    assert streamed[0]["answers"][0]["text"] == plain["answers"][0]["text"]
