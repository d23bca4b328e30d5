"""A text begins with one BOS where its model needs one; a warning reports where it is missing."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from tiny import ByteTokenizer, MakeTiny
from torch import Tensor
from unusual_decoders import strange

import faststeer
from faststeer import diagnostics, evaluate
from faststeer.models.loading import Loaded

BOS = 256
LETTERS = ["abcdefghij", "klmnopqrst"]
PAIRS = [("abcdefghij", "klmnopqrst"), ("bcdefgh", "mnopqrst")]

pytestmark = pytest.mark.filterwarnings("ignore:.*is not of a family that faststeer fuses")


class NeedsBos(transformers.GPT2Model):
    """Model that predicts the alphabet after a BOS and a uniform distribution without one."""

    def forward(self, input_ids: Tensor, **given: Any) -> Any:
        output = super().forward(input_ids, **given)
        begins_with_bos = (input_ids[:, :1] == BOS)[..., None]
        follows = 30 * self.wte((input_ids + 1) % 300)
        output.last_hidden_state = torch.where(
            begins_with_bos, follows, 0 * output.last_hidden_state
        )
        return output


class Tokenizer(ByteTokenizer):
    """Tokenizer that adds a BOS by default if `adds`; one in the text is kept."""

    bos_token: str | None = "<s>"
    eos_token_id: int | None = 2
    padding_side = "left"

    def __init__(self, adds: bool) -> None:
        super().__init__()
        self.adds = adds

    def __call__(self, text: str, add_special_tokens: bool = True, **given: Any) -> Any:
        front = text.startswith("<s>")
        ids = [BOS] * front + list(text.removeprefix("<s>").encode())
        ids = [BOS] * (self.adds and add_special_tokens) + ids
        return {"input_ids": ids[: given["max_length"]] if given.get("truncation") else ids}


@pytest.fixture
def model() -> Any:
    made = strange("GPT2LMHeadModel")
    made.transformer.__class__ = NeedsBos
    return made


def bos_warnings(call: Callable[[], Any]) -> list[str]:
    """Return the warnings about a BOS."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [str(one.message) for one in caught if "do not begin with" in str(one.message)]


def extract(model: Any, tokenizer: Any, **options: Any) -> faststeer.SteeringVector:
    return faststeer.extract(model, tokenizer, PAIRS, progress=False, **options)


def vector() -> faststeer.SteeringVector:
    direction = torch.randn(64, generator=torch.Generator().manual_seed(0))
    return faststeer.SteeringVector("v", {1: direction})


def token_scores_under_steering(model: Any, tokenizer: Any) -> None:
    with faststeer.patch(model) as patched:
        patched.steer(vector())
        settings: list[Any] = [{"v": 1.0}, {}]
        evaluate.token_scores_by_setting(patched, model, tokenizer, LETTERS, settings)


EVERYWHERE: dict[str, Callable[[Any, Any], Any]] = {
    "extract": extract,
    "activations": lambda m, t: faststeer.activations(m, t, LETTERS, progress=False),
    "act_add": lambda m, t: faststeer.act_add(m, t, *LETTERS, layer=1),
    "token_scores": lambda m, t: evaluate.token_scores(m, t, LETTERS),
    "token_scores_by_setting": token_scores_under_steering,
    "matching_scores": lambda m, t: evaluate.matching_scores(
        m, t, [evaluate.Choice(LETTERS[0], "k", "z")]
    ),
    "perplexity": lambda m, t: evaluate.perplexity(m, t, LETTERS),
    "continuation_logprobs": lambda m, t: evaluate.continuation_logprobs(
        m, t, [("abcdefgh", "ij"), ("klmn", "op")]
    ),
    "residual_norms": lambda m, t: diagnostics.residual_norms(m, t, LETTERS),
    "project_tokens": lambda m, t: diagnostics.project_tokens(m, t, vector(), LETTERS),
    "separability": lambda m, t: diagnostics.separability(m, t, vector(), PAIRS, progress=False),
    "inspect": lambda m, t: diagnostics.inspect(
        vector(), m, t, texts=LETTERS, pairs=PAIRS * 2, progress=False
    ),
}


@pytest.mark.parametrize("name", EVERYWHERE)
def test_a_missing_bos_is_reported_once_with_perplexities_by(name: str, model: Any) -> None:
    call = EVERYWHERE[name]
    [message] = bos_warnings(lambda: call(model, Tokenizer(adds=False)))
    assert message.startswith("texts do not begin with '<s>', and this model needs it")
    assert "their perplexity is 300 without and 1" in message
    assert message.endswith("begin each text with '<s>'")
    assert bos_warnings(lambda: call(model, Tokenizer(adds=False))) == []


@pytest.mark.parametrize("name", EVERYWHERE)
def test_nothing_is_reported_if_the_tokenizer_adds_it_by(name: str, model: Any) -> None:
    assert bos_warnings(lambda: EVERYWHERE[name](model, Tokenizer(adds=True))) == []


def test_calibration_reports_it_once_although_it_measures_many_times(model: Any) -> None:
    def calibrate() -> None:
        diagnostics.calibrate(
            model, Tokenizer(adds=False), vector(), 0.1, texts=LETTERS, tolerance=0.5, layers=1
        )

    class Steerable(NeedsBos):
        def forward(self, input_ids: Tensor, **given: Any) -> Any:
            stream = transformers.GPT2Model.forward(self, input_ids, **given).last_hidden_state
            output = super().forward(input_ids, **given)
            output.last_hidden_state = output.last_hidden_state + stream
            return output

    model.transformer.__class__ = Steerable
    assert len(bos_warnings(calibrate)) == 1


def test_the_suggested_fix_is_the_callers_own_option(model: Any) -> None:
    adds = Tokenizer(adds=True)
    [message] = bos_warnings(lambda: extract(model, adds, add_special_tokens=False))
    assert message.endswith("add_special_tokens=True adds it")
    may = Tokenizer(adds=False)
    may.add_bos_token = False
    [message] = bos_warnings(lambda: evaluate.perplexity(model, may, LETTERS))
    assert message.endswith("tokenizer.add_bos_token = True adds it")


def test_the_warning_points_to_the_callers_line(model: Any) -> None:
    for call in (extract, EVERYWHERE["token_scores"], EVERYWHERE["perplexity"]):
        with pytest.warns(faststeer.FaststeerWarning, match="do not begin with") as caught:
            call(strange_like(model), Tokenizer(adds=False))
        [own] = [one for one in caught if "do not begin" in str(one.message)]
        assert own.filename == __file__


def strange_like(model: Any) -> Any:
    made = strange("GPT2LMHeadModel")
    made.transformer.__class__ = type(model.transformer)
    return made


@pytest.mark.parametrize(
    ("bos", "eos"),
    [(None, 2), (BOS, BOS)],
    ids=["Qwen has no BOS", "GPT-2's BOS is its end of text"],
)
def test_a_tokenizer_without_a_bos_is_not_reported(bos: int | None, eos: int, model: Any) -> None:
    tokenizer = Tokenizer(adds=False)
    tokenizer.bos_token_id, tokenizer.eos_token_id = bos, eos
    assert bos_warnings(lambda: extract(model, tokenizer)) == []
    assert bos_warnings(lambda: evaluate.perplexity(model, tokenizer, LETTERS)) == []


def test_a_model_that_predicts_as_well_without_a_bos_is_not_reported(
    tiny_model: Any, demo: Loaded
) -> None:
    assert bos_warnings(lambda: extract(tiny_model, Tokenizer(adds=False))) == []
    assert demo.tokenizer.bos_token_id not in (None, demo.tokenizer.eos_token_id)
    texts = ["The hotel was clean and the staff were kind.", "Rain fell on the town all night."]
    assert (
        bos_warnings(lambda: faststeer.activations(demo.model, demo.tokenizer, texts, layers=0))
        == []
    )


def test_without_a_head_the_tokenizer_shows_what_the_model_needs(make_tiny: MakeTiny) -> None:
    adds, plain, chat = Tokenizer(adds=True), Tokenizer(adds=False), Tokenizer(adds=False)
    chat.chat_template = "{{ bos_token }}{{ messages }}"
    [message] = bos_warnings(lambda: extract(make_tiny().model, adds, add_special_tokens=False))
    assert "the tokenizer adds it by default" in message
    [message] = bos_warnings(lambda: extract(make_tiny().model, chat))
    assert "its chat template has it" in message
    assert bos_warnings(lambda: extract(make_tiny().model, plain)) == []


def test_a_text_with_a_bos_gets_no_second_one(model: Any) -> None:
    adds, not_again = Tokenizer(adds=True), {"add_special_tokens": False}
    texts = ["<s>abcdefgh", "<s>klmno"]
    assert adds(texts[0])["input_ids"][:2] == [BOS, BOS]
    once = faststeer.activations(model, adds, texts, progress=False, **not_again)
    assert torch.equal(faststeer.activations(model, adds, texts, progress=False), once)
    cut = {"max_length": 4}
    shorter = faststeer.activations(model, adds, texts, progress=False, **not_again, **cut)
    assert torch.equal(faststeer.activations(model, adds, texts, progress=False, **cut), shorter)
    assert not torch.equal(shorter, once)
    plain = [text.removeprefix("<s>") for text in texts]
    assert evaluate.perplexity(model, adds, texts) == evaluate.perplexity(model, adds, plain)
    items = [(text, "p") for text in texts], [(text, "p") for text in plain]
    twice, one = (evaluate.continuation_logprobs(model, adds, own) for own in items)
    assert torch.equal(twice, one)
    choices = [[evaluate.Choice(text, "p", "q")] for text in (texts[1], plain[1])]
    first, second = (evaluate.matching_scores(model, adds, own) for own in choices)
    assert torch.equal(first.log_matching, second.log_matching)
