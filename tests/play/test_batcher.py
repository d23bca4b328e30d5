"""Many clients on one model: each answer is that of a single run with its own setting."""

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from single_answers import PROMPTS, SOME, C, V, W, ids_of, single

import faststeer
from faststeer.play import Batcher, Request, RequestError, Sampling, Use
from faststeer.play.decoding import generate_rows

OTHERS = faststeer.when(C, layer=0, below=0.09)
CAPPED = W.for_use(mode="cap", floor=2.0)
PLACES = [
    (V, None, None, None, None),
    (V, (2,), "generated", None, None),
    (W, (1,), "all", "project", None),
    (W, None, "prompt", "add", None),
    (V, (0,), None, "clamp", None),
    (V, (2,), "all", "add", SOME),
    (W, (2,), None, None, OTHERS),
    (CAPPED, (2,), None, None, None),
    (V, (2,), "first(3)", None, None),
]


def requests(count: int) -> list[Request]:
    """Return requests of many prompts, lengths, vectors, layers, positions and modes."""
    draw = random.Random(0)
    found = []
    for _ in range(count):
        uses = [
            Use(vector, draw.choice([-3.0, -1.5, 0.5, 2.0]), *place)
            for vector, *place in draw.sample(PLACES, draw.randint(0, 2))
        ]
        found.append(Request(draw.choice(PROMPTS), uses, max_new_tokens=draw.randint(3, 12)))
    return found


def test_a_hundred_requests_of_eight_clients_get_the_answers_of_single_runs(
    batcher, plain, byte_tokenizer
) -> None:
    asked = requests(100)
    expected = [single(plain, byte_tokenizer, request) for request in asked]
    steered = [(own, pair) for own, pair in zip(asked, expected, strict=True) if own.uses]
    # A row that got another's setting would be seen: the settings' answers differ.
    differing = sum(unsteered != own for _, (unsteered, own) in steered)
    assert differing > 0.6 * len(steered)
    by_setting = {tuple(own[1]) for request, own in steered if request.prompt == PROMPTS[0]}
    assert len(by_setting) > 10

    with ThreadPoolExecutor(8) as clients:
        found = list(clients.map(lambda one: ids_of(batcher.submit(one).result()), asked))
    assert found == expected


def test_a_condition_decides_for_its_own_request_and_is_reported(
    batcher, plain, byte_tokenizer
) -> None:
    def asked(prompt: str, condition=None) -> Request:
        return Request(prompt, [Use(V, 2.0, (2,), None, None, condition)], 8)

    again = faststeer.when(C, layer=0, above=0.09)  # as SOME, made by another client
    all_asked = [asked(prompt, own) for prompt in PROMPTS for own in (SOME, OTHERS, None, again)]
    release = threading.Event()
    ThreadPoolExecutor(1).submit(batcher.run, lambda patched: release.wait(10))
    streams = [batcher.submit(request) for request in all_asked]
    release.set()
    found = [ids_of(stream.result()) for stream in streams]
    assert found == [single(plain, byte_tokenizer, request) for request in all_asked]
    seen = set()
    for number in range(0, len(found), 4):
        unsteered = found[number][0]
        some, others, always, equal = (own[1] for own in found[number : number + 4])
        notes = [[note.partition(" cosine")[0] for note in own.notes] for own in streams[number:]]
        met = notes[0] == ["v steers: the prompt meets"]
        wanted = (always, unsteered) if met else (unsteered, always)
        assert (some, others) == wanted
        assert equal == some
        assert notes[1] == [
            f"v {'does not steer: it fails' if met else 'steers: the prompt meets'}"
        ]
        assert notes[2] == []
        if always != unsteered:
            seen.add(met)
    assert seen == {True, False}


def test_requests_that_arrive_together_run_as_rows_of_one_batch(
    batcher, plain, byte_tokenizer, monkeypatch
) -> None:
    batches = []

    def counted(model, pad, streams, prompts_ran):
        batches.append(len(streams))
        generate_rows(model, pad, streams, prompts_ran)

    monkeypatch.setattr("faststeer.play.batcher.generate_rows", counted)
    asked = requests(9)
    release = threading.Event()
    holding = ThreadPoolExecutor(1).submit(batcher.run, lambda patched: release.wait(10))
    streams = [batcher.submit(request) for request in asked]
    release.set()
    found = [ids_of(stream.result()) for stream in streams]
    assert holding.result()
    assert batches == [9]
    assert found == [single(plain, byte_tokenizer, request) for request in asked]


def test_answers_are_streamed_while_they_grow(batcher) -> None:
    lengths = []
    for unsteered, _ in batcher.submit(Request(PROMPTS[0], max_new_tokens=100)):
        lengths.append(len(unsteered.ids))
        time.sleep(0.001)
    assert lengths == sorted(lengths)
    assert len(lengths) > 3
    assert lengths[-1] == 100


def test_a_row_ends_at_its_own_end_of_text(make_tiny, byte_tokenizer, plain) -> None:
    steering = Use(V, 2.0)
    whole = single(plain, byte_tokenizer, Request(PROMPTS[0], [steering], 12))
    end = next(token for token in whole[1] if token not in whole[0])
    model = make_tiny()
    model.generation_config.eos_token_id = end
    with Batcher(model, byte_tokenizer) as batcher:
        unsteered, steered = batcher.submit(Request(PROMPTS[0], [steering], 12)).result()
    assert unsteered.ended == "length"
    assert list(unsteered.ids) == whole[0]
    assert steered.ended == "end"
    assert list(steered.ids) == whole[1][: whole[1].index(end)]


def test_a_client_that_goes_away_leaves_the_others_as_they_are(
    batcher, plain, byte_tokenizer
) -> None:
    staying = Request(PROMPTS[1], [Use(V, 2.0)], max_new_tokens=60)
    release = threading.Event()
    ThreadPoolExecutor(1).submit(batcher.run, lambda patched: release.wait(10))
    gone = batcher.submit(Request(PROMPTS[0], [Use(W, -2.0)], max_new_tokens=900))
    stays = batcher.submit(staying)
    release.set()
    updates = iter(gone)
    next(updates)
    updates.close()
    assert ids_of(stays.result()) == single(plain, byte_tokenizer, staying)
    # The batch has ended with the request that stayed: 900 tokens have not been generated.
    batcher.run(lambda patched: None)
    assert all(len(row.ids) < 900 for row in gone.rows)


def test_a_seed_gives_the_same_answer_in_every_batch(batcher, plain, byte_tokenizer) -> None:
    def drawn(seed: int) -> Request:
        return Request(PROMPTS[0], [Use(V, 1.0)], 12, Sampling(1.5, 0.9, seed))

    alone = ids_of(batcher.submit(drawn(3)).result())
    streams = [batcher.submit(drawn(seed)) for seed in (1, 2, 3)]
    first, second, third = (ids_of(stream.result()) for stream in streams)
    assert alone == third
    assert alone != first != second
    greedy = single(plain, byte_tokenizer, Request(PROMPTS[0], [Use(V, 1.0)], 12))
    assert alone[1] != greedy[1]


def test_requests_that_do_not_fit_the_context_together_run_in_two_batches(
    make_tiny, byte_tokenizer
) -> None:
    model = make_tiny(max_position_embeddings=64)
    with Batcher(model, byte_tokenizer) as batcher:
        release = threading.Event()
        ThreadPoolExecutor(1).submit(batcher.run, lambda patched: release.wait(10))
        asked = [Request("A" * 50, max_new_tokens=5), Request("A", max_new_tokens=50)]
        streams = [batcher.submit(request) for request in asked]
        batch = batcher._next_batch
        sizes = []

        def recorded():
            found = batch()
            sizes.append(len(found))
            return found

        batcher._next_batch = recorded
        release.set()
        lengths = [[len(answer.ids) for answer in stream.result()] for stream in streams]
    assert lengths == [[5, 5], [50, 50]]
    assert sizes == [1, 1]


def test_a_batch_that_fails_is_reported_and_the_next_one_runs(batcher, monkeypatch) -> None:
    def fails(*given):
        raise RuntimeError("no memory left")

    with monkeypatch.context() as patch:
        patch.setattr("faststeer.play.batcher.generate_rows", fails)
        with pytest.raises(RequestError, match="the batch failed: RuntimeError: no memory left"):
            batcher.submit(Request("A", max_new_tokens=2)).result()
    unsteered, _ = batcher.submit(Request("A", max_new_tokens=2)).result()
    assert len(unsteered.ids) == 2


def test_a_job_runs_between_batches_and_leaves_no_vectors(batcher) -> None:
    thread = batcher.run(lambda patched: (patched.steer(V), threading.current_thread())[1])
    assert thread is not threading.current_thread()
    assert batcher.run(lambda patched: patched.handles) == []
    with pytest.raises(ZeroDivisionError):
        batcher.run(lambda patched: 1 / 0)


def test_closing_ends_what_runs_and_what_waits_and_unpatches(tiny_model, byte_tokenizer) -> None:
    batcher = Batcher(tiny_model, byte_tokenizer)
    running = batcher.submit(Request("A", max_new_tokens=900))
    next(iter(running))
    batcher.close()
    for act in (running.result, lambda: batcher.submit(Request("A"))):
        with pytest.raises(ValueError, match="clos"):
            act()
    assert type(tiny_model.model.layers[0]).__module__.startswith("transformers")


def test_warnings_about_a_vector_become_notes_of_its_request(batcher) -> None:
    stated = faststeer.SteeringVector("m", V.directions, V.site, {"mode": "project"})
    stream = batcher.submit(Request("A", [Use(stated, 1.0, mode="add")], max_new_tokens=2))
    other = batcher.submit(Request("A", max_new_tokens=2))
    stream.result()
    other.result()
    assert "states mode 'project'" in stream.notes[0]
    assert other.notes == []
