"""Pairs for vectors made on the page, ranges of sliders, and one maker at a time."""

import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from plain_hooks import random_vector

import faststeer
from faststeer.play.doses import reach
from faststeer.play.library import default_layers, folder_vectors
from faststeer.play.making import OPENINGS, Maker, pairs_of_lists, pairs_of_words

V = random_vector("v", [0, 2])


def test_two_lists_become_pairs_line_by_line() -> None:
    positive = "\n".join(f" good {n}" for n in range(8)) + "\n\n"
    negative = "\n".join(f"bad {n} " for n in range(8))
    assert pairs_of_lists(positive, negative) == [(f"good {n}", f"bad {n}") for n in range(8)]


@pytest.mark.parametrize(
    ("positive", "negative", "message"),
    [
        ("a\n" * 8, "b\n" * 9, "8 and 9 sentences"),
        ("a\n" * 7, "b\n" * 7, "7 sentences; expected 8"),
        ("a\n" * 201, "b\n" * 201, "201 sentences; expected 8 to 200"),
        ("a" * 501 + "\nb" * 7, "b\n" * 8, "more than 500 characters"),
    ],
)
def test_lists_that_make_no_pairs_are_refused_in_words(positive, negative, message) -> None:
    with pytest.raises(ValueError, match=message):
        pairs_of_lists(positive, negative)


def test_two_words_become_pairs_that_differ_in_the_word_alone() -> None:
    found = pairs_of_words(" happy", "sad ")
    assert len(set(found)) == OPENINGS
    assert all(positive.replace("happy", "sad") == negative for positive, negative in found)
    assert all(positive != negative for positive, negative in found)


@pytest.mark.parametrize("words", [("happy", ""), ("same", "same"), ("a" * 501, "b")])
def test_words_that_make_no_pairs_are_refused(words) -> None:
    with pytest.raises(ValueError, match=r"different words|characters"):
        pairs_of_words(*words)


def test_one_vector_is_made_at_a_time_and_the_reports_warnings_are_shown(
    tiny_model, byte_tokenizer, monkeypatch
) -> None:
    started, release = threading.Event(), threading.Event()

    class Found:
        vectors = (V,)

        def __repr__(self) -> str:
            return "what was found"

    def tune(*given, **more):

        started.set()
        assert release.wait(10)
        warnings.warn("the effect is weak", faststeer.FaststeerWarning, stacklevel=1)
        return Found()

    monkeypatch.setattr("faststeer.play.making.tune", tune)
    maker = Maker(tiny_model, byte_tokenizer)
    given = pairs_of_words("happy", "sad")
    first = ThreadPoolExecutor(1).submit(maker.make, "mood", given, whole=False)
    assert started.wait(10)
    with pytest.raises(ValueError, match="another vector is being made"):
        maker.make("mood", given, whole=False)
    release.set()
    assert first.result() == (V, "what was found\nwarning: the effect is weak")
    assert maker.make("again", given, whole=False)[0] is V  # free again
    with pytest.raises(ValueError, match="give the vector a name"):
        maker.make(" ", given, whole=False)


def test_a_vector_is_made_and_tuned_while_the_batcher_answers(tiny_folder) -> None:
    from faststeer.models.loading import load
    from faststeer.play import Batcher, Request

    loaded = load(str(tiny_folder))
    maker = Maker(loaded.model, loaded.tokenizer)
    with Batcher(loaded.model, loaded.tokenizer) as batcher:
        before = batcher.submit(Request("A", max_new_tokens=30)).result()
        making = ThreadPoolExecutor(1).submit(
            maker.make, "mood", pairs_of_words("happy", "sad")[:12], whole=True
        )
        during = [batcher.submit(Request("A", max_new_tokens=30)).result()]
        while not making.done():
            during.append(batcher.submit(Request("A", max_new_tokens=30)).result())
    vector, report = making.result()
    assert all(own == before for own in during)  # what is tried there does not steer here
    assert vector.name == "mood"
    assert vector.metadata["layers"]
    assert "random directions" in report


def test_a_sliders_range_states_where_text_begins_to_break() -> None:
    norms = dict.fromkeys(range(4), 10 * float(V.norms()[2]))
    found = reach(V, [2], "add", norms)
    assert found.words == "from about ±3.3 on text begins to break"
    assert (found.least, found.most) == (-8.0, 8.0)  # 0.7 of the norm is at 7
    twice = reach(V, [0, 2], "add", dict(norms))
    assert twice.most < found.most  # two layers are a stronger dose
    tuned = faststeer.SteeringVector(
        "t", V.directions, V.site, {"tuned": {"dose": 0.1}, "coefficient": 1.25}
    )
    assert reach(tuned, [2], "add", norms).words.startswith("tuned: +1.25; from about")
    assert (reach(V, [2], "project", norms).least, reach(V, [2], "project", norms).most) == (0, 1)
    capped = reach(V.for_use(mode="cap", ceiling=2.5), [2], "cap", norms)
    assert (capped.least, capped.most) == (0, 1)
    assert "the way to its ceiling 2.5" in capped.words
    assert "cannot cap" in reach(V, [2], "cap", norms).words
    zero = faststeer.SteeringVector("z", {2: torch.zeros(64)})
    assert "changes nothing" in reach(zero, [2], "add", norms).words


def test_a_vector_that_states_no_layers_begins_at_its_middle_one() -> None:
    assert default_layers(random_vector("v", [0, 1, 2, 3])) == [2]
    assert default_layers(V.for_use(layers=[0])) == [0]


def test_a_folders_files_that_do_not_fit_are_named(tmp_path) -> None:
    V.save(tmp_path / "a.safetensors")
    random_vector("b", [0], hidden=32).save(tmp_path / "b.safetensors")
    (tmp_path / "c.gguf").write_bytes(b"GGUF")
    (tmp_path / "notes.txt").write_text("no vector")
    found, refused = folder_vectors(tmp_path, 64)
    assert [vector.name for vector in found] == ["v"]
    assert len(refused) == 2
    assert "hidden size 32" in refused[0]
    assert "c.gguf" in refused[1]
    with pytest.raises(NotADirectoryError, match="is not a folder"):
        folder_vectors(tmp_path / "missing", 64)
