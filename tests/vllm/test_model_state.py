"""The seat in Model Runner V2, called as that runner calls it: no GPU is needed for that."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from faststeer.vllm.request_checks import CHECKED_KEY
from faststeer.vllm.v032.model_state import steer_model_state


class StockState:
    """A `ModelState` that notes its calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def add_request(self, req_index, new_req_data) -> None:
        self.calls.append(f"add {new_req_data.req_id}")

    def remove_request(self, req_id) -> None:
        self.calls.append(f"remove {req_id}")

    def preprocess_state(
        self, input_batch, block_tables, kv_cache_config, num_computed_tokens
    ) -> None:
        self.calls.append("preprocess")


class Steering:
    """Notes what it is to write, and for which requests."""

    def __init__(self) -> None:
        self.written: list[object] = []
        self.lengths: dict[str, int | None] = {}
        self.changed = False

    def add_request(self, request, extra_args, prompt_length) -> None:
        self.lengths[request] = prompt_length if (extra_args or {}).get(CHECKED_KEY) else None
        self.changed = True

    def remove_request(self, request) -> None:
        self.lengths.pop(request, None)
        self.changed = True

    def write(self, step) -> None:
        lengths = {request: self.lengths[request] for request in step.request_ids}
        counts = step.scheduled.tolist(), step.computed.tolist()
        self.written.append((step.request_ids, *counts, self.changed, lengths))
        self.changed = False


def request(name: str, prompt: int, steered: bool = True, answered: int = 0) -> SimpleNamespace:
    extra_args = {CHECKED_KEY: [["digest", "resid_post", [[1, 1.0]], "add", False, "all"]]}
    return SimpleNamespace(
        req_id=name,
        sampling_params=SimpleNamespace(extra_args=extra_args if steered else None),
        prompt_token_ids=[0] * prompt,
        prefill_token_ids=[0] * (prompt + answered),
        prompt_embeds=None,
    )


def batch(names: list[str], scheduled: list[int], computed: list[int]) -> SimpleNamespace:
    starts = np.concatenate([[0], np.cumsum(scheduled), [9999]])  # what follows is padding
    return SimpleNamespace(
        req_ids=names,
        num_reqs=len(names),
        query_start_loc_np=starts,
        num_computed_tokens_np=np.array([*computed, 7]),
    )


def test_requests_and_steps_reach_the_tables_and_the_stock_state() -> None:
    state, steering = StockState(), Steering()
    steer_model_state(state, steering)
    assert isinstance(state, StockState)
    assert type(state).__name__ == "StockState"
    state.add_request(0, request("a", 5))
    state.add_request(1, request("b", 3, steered=False))
    state.preprocess_state(batch(["a", "b"], [5, 3], [0, 0]), (), None, None)
    state.preprocess_state(batch(["a", "b"], [1, 1], [5, 3]), (), None, None)
    state.remove_request("a")  # preempted
    state.preprocess_state(batch(["b"], [1], [4]), (), None, None)
    state.add_request(0, request("a", 5, answered=2))  # and back with its answer so far
    state.preprocess_state(batch(["b", "a"], [1, 7], [5, 0]), (), None, None)
    assert steering.written == [
        (["a", "b"], [5, 3], [0, 0], True, {"a": 5, "b": None}),
        (["a", "b"], [1, 1], [5, 3], False, {"a": 5, "b": None}),
        (["b"], [1], [4], True, {"b": None}),
        (["b", "a"], [1, 7], [5, 0], True, {"b": None, "a": 5}),
    ]
    assert state.calls.count("preprocess") == 4
    assert state.calls[:2] == ["add a", "add b"]


def test_an_id_that_is_used_again_does_not_keep_the_setting_of_the_one_before() -> None:
    state, steering = StockState(), Steering()
    steer_model_state(state, steering)
    state.add_request(0, request("a", 5))
    state.add_request(0, request("a", 4, steered=False))
    state.preprocess_state(batch(["a"], [4], [0]), (), None, None)
    assert steering.written[-1][-1] == {"a": None}


def test_another_signature_is_refused() -> None:
    class Other(StockState):
        def add_request(self, index, data) -> None:
            """Do nothing."""

    with pytest.raises(RuntimeError, match=r"Other\.add_request of vLLM 0.32 with the parameters"):
        steer_model_state(Other(), Steering())
