"""Markers given as text are found while a text is written, whichever tokens hold them."""

import itertools
import random

import pytest
import torch
from explicit_scopes import behind, enclosed_by, require_equal, steered_where, written
from merging_tokenizers import END, TOKENIZERS, byte_level
from plain_hooks import random_vector

import faststeer
from faststeer.steering.automata import TokenAutomaton, enclosed, seen_once
from faststeer.steering.vocabulary import decoder_of

START = "<think>"
V = random_vector("v", [1, 3])


class Neighbours:
    """Tokenizer that writes a dot between neighbours in the alphabet."""

    def __len__(self) -> int:
        return 26

    def decode(self, ids: list[int], **options: object) -> str:
        dots = ["." * (b == a + 1) for a, b in itertools.pairwise(ids)]
        return "".join(chr(97 + token) + dot for token, dot in zip(ids, [*dots, ""], strict=True))


def spans_of(text: str, opening: str, closing: str) -> list[tuple[int, int]]:
    """Return the characters from behind each opening marker to the end of its closing one.

    What is not closed ends behind the text: a part of its last character begins at its end.
    """
    found, at = [], 0
    while (start := text.find(opening, at)) >= 0:
        start += len(opening)
        end = text.find(closing, start)
        at = len(text) + 1 if end < 0 else end + len(closing)
        found.append((start, at))
    return found


@pytest.mark.parametrize(("name", "crossing_texts"), [("byte-level", 20), ("sentencepiece", 0)])
def test_tokens_between_texts_are_those_that_begin_inside_them(name, crossing_texts) -> None:
    """The reference finds the markers in the decoded text, and the tokens by their lengths.

    Tokens of the first tokenizer hold a marker's end and more in many texts.
    """
    tokenizer = TOKENIZERS[name]()
    generator = random.Random(1)
    closed = [END, f"{END}\n\n", f"{END}so", f"{END}at"]
    pieces = [START, START, *closed, ">so", "</", "think", "th", "<", "日本", " it", "k>", "é"]
    crossing = 0
    for _ in range(60):
        text = "".join(generator.choices(pieces, k=25))
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        decoded = decoder_of(tokenizer)(ids)
        starts = [len(decoder_of(tokenizer)(ids[:n])) for n in range(len(ids))]
        spans = spans_of(decoded, START, END)
        cuts = [end for span in spans for end in span]
        crossing += any(
            a < cut < b
            for a, b in zip(starts, [*starts[1:], len(decoded)], strict=True)
            for cut in cuts
        )
        found = inside(faststeer.between(START, END, tokenizer).automaton, ids)
        if no_overlap(decoded, spans, starts):
            expected = [any(a <= max(start, 0) < b for a, b in spans) for start in starts]
            assert found == expected, text
    assert crossing >= crossing_texts


def no_overlap(text: str, spans: list[tuple[int, int]], starts: list[int]) -> bool:
    """Return whether no token holds a marker's end and the beginning of the next marker."""
    bounds = [*starts, len(text)]
    for start, end in spans:
        for cut in (start, end):
            stop = next((bound for bound in bounds if bound >= cut), len(text))
            if "<" in text[cut:stop]:
                return False
    return True


def inside(automaton: TokenAutomaton, ids: list[int]) -> list[bool]:
    given = torch.tensor([ids])
    before, _ = automaton.run(torch.zeros(1, dtype=torch.int64), given)
    found: list[bool] = automaton.on(given.device).inside[before][0].tolist()
    return found


@pytest.mark.parametrize(
    ("rules", "chooses"),
    [
        (enclosed([1, 1, 2], [2, 1]), enclosed_by([1, 1, 2], [2, 1])),
        (enclosed([1], [1]), enclosed_by([1], [1])),
        (seen_once([1, 2, 1]), None),
    ],
)
def test_runs_of_any_length_are_what_single_steps_are(rules, chooses) -> None:
    automaton = TokenAutomaton({1: (1,), 2: (2,)}, rules)
    ids = torch.randint(0, 4, (5, 41), generator=torch.Generator().manual_seed(0))
    state = torch.zeros(5, dtype=torch.int64)
    steps = []
    for token in ids.split(1, 1):
        before, after = automaton.run(state, token)
        steps.append(before)
        state = after[:, -1]
    begin, pieces = torch.zeros(5, dtype=torch.int64), []
    for piece in ids.split([7, 1, 20, 13], 1):
        before, after = automaton.run(begin, piece)
        pieces.append(before)
        begin = after[:, -1]
    whole, _ = automaton.run(torch.zeros(5, dtype=torch.int64), ids)
    assert torch.equal(torch.cat(steps, 1), whole)
    assert torch.equal(torch.cat(pieces, 1), whole)
    expected = [(chooses or behind([1, 2, 1]))(row, 0) for row in ids.tolist()]
    assert automaton.on(ids.device).inside[whole].tolist() == expected
    assert any(map(any, expected))


def test_a_generated_marker_is_found_where_a_token_holds_its_end_and_more(
    tiny_model, plain
) -> None:
    tokenizer = byte_level()
    ids = torch.tensor([tokenizer(f"I see {START}")["input_ids"]])
    mask = torch.ones_like(ids)
    wanted = tokenizer(f"it is{END}\n\nso it is {START}it")["input_ids"]
    text = [tokenizer.decode([token]) for token in wanted]
    assert ">\n\n" in text  # the marker's own ids would not be found
    rows, count = [dict(enumerate(wanted))], len(wanted) + 1
    close = ids.shape[1] + text.index(">\n\n") + 1
    length = ids.shape[1]
    reopened = len(tokenizer(f"it is{END}\n\nso it is {START}")["input_ids"]) + length

    def chooses(ids: list[int], prompt: int) -> list[bool]:
        return [length <= at < close or at >= reopened for at in range(len(ids))]

    with torch.inference_mode(), faststeer.patch(tiny_model) as patched:
        unsteered = written(plain, ids, mask, rows, max_new_tokens=count, use_cache=False)
        with steered_where(plain.model, V, [4.0], chooses, mask):
            expected = written(plain, ids, mask, rows, max_new_tokens=count, use_cache=False)
        patched.steer(V, 4.0, positions=faststeer.between(START, END, tokenizer))
        for how in ({}, {"cache_implementation": "static"}):
            found = written(tiny_model, ids, mask, rows, max_new_tokens=count, **how)
            require_equal(found, expected, unsteered)


def test_the_demo_s_tokenizer_finds_a_marker_that_it_merges(demo_tokenizer) -> None:
    text = "I see.</think>\n\nYes."
    ids = demo_tokenizer(text)["input_ids"]
    found = inside(faststeer.after("</think>", demo_tokenizer).automaton, ids)
    offsets = demo_tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    end = text.index("</think>") + len("</think>")
    assert found == [start >= end for start, _ in offsets]
    special = demo_tokenizer.eos_token
    answer = [*demo_tokenizer("a")["input_ids"], demo_tokenizer.eos_token_id, ids[0]]
    assert inside(faststeer.after(special, demo_tokenizer).automaton, answer)[-2:] == [False, True]


def test_texts_that_no_tokens_write_are_refused(byte_tokenizer) -> None:
    tokenizer = byte_level()
    with pytest.raises(ValueError, match="holds '日', and with this tokenizer no token writes it "):
        faststeer.between("日本", "</", tokenizer)
    with pytest.raises(ValueError, match="a text and token ids"):
        faststeer.between("<", [1], tokenizer)
    with pytest.raises(TypeError, match="neither get_vocab"):
        faststeer.after("a", type("Bare", (), {"decode": byte_tokenizer.decode})())
    with pytest.raises(ValueError, match="depends on the tokens beside it"):
        faststeer.after("c", Neighbours())


def test_tokens_that_are_added_later_are_known() -> None:
    tokenizer = byte_level()
    before = faststeer.between(START, END, tokenizer)
    tokenizer.add_tokens([START])
    after = faststeer.between(START, END, tokenizer)
    [token] = tokenizer(START, add_special_tokens=False)["input_ids"]
    assert after != before
    inside = after.automaton.on(torch.device("cpu")).inside
    for scope, opens in ((before, False), (after, True)):
        zero = torch.zeros(1, dtype=torch.long)
        _, states = scope.automaton.run(zero, torch.tensor([[token]]))
        assert bool(inside[states[0, -1]]) == opens
