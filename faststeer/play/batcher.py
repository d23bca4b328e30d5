"""`Batcher`: one thread that answers the requests of many clients, a batch at a time."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from time import monotonic
from typing import Any, TypeVar

from torch import nn

from faststeer.patching.patch import patch
from faststeer.patching.patched import Patched
from faststeer.play.active import ActiveVectors
from faststeer.play.asking import Request
from faststeer.play.decoding import generate_rows
from faststeer.play.stream import Stream

_log = logging.getLogger(__name__)
T = TypeVar("T")
_Job = tuple["Future[Any]", Callable[[Patched], Any]]


class Batcher:
    """Answers requests on one model, those that arrive together as rows of one batch.

    Each request is two rows, unsteered and steered. What arrives while a batch runs forms the next
    one. The model is patched while the batcher is open, and used by its thread alone.

    Args:
        model: a causal model that `faststeer.patch` accepts, without active vectors.
        tokenizer: its tokenizer.
        max_requests: the most requests in one batch.
        gather: seconds that a batch waits for others after its first request has arrived.

    Raises:
        ValueError: the model has active vectors, or as `faststeer.patch`.
    """

    def __init__(
        self, model: nn.Module, tokenizer: Any, *, max_requests: int = 16, gather: float = 0.02
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.max_requests = max_requests
        self.gather = gather
        self.context: int | None = getattr(model.config, "max_position_embeddings", None)
        self.patched = patch(model)
        if self.patched.handles:
            raise ValueError(f"the model is steered already, by {self.patched.handles}")
        self.patched.plan.doses.judged = False  # clients are shown the doses before they steer
        self._waiting: deque[tuple[float, Stream] | _Job] = deque()
        self._arrived = threading.Condition()
        self._running: list[Stream] = []
        self._open = True
        self._thread = threading.Thread(target=self._work, name="faststeer-batcher", daemon=True)
        self._thread.start()

    def submit(self, request: Request) -> Stream:
        """Queue a request and return its growing answers; from any thread.

        Raises:
            TypeError, ValueError: the request is invalid in itself, does not fit the model's
                context, or the batcher is closed. What only steering finds out, such as a vector
                of another model, the stream raises.
        """
        request.require_valid()
        prompts = request.prompts(self.tokenizer, self.context)
        stream = Stream(request, prompts, self.tokenizer.decode)
        self._put((monotonic(), stream))
        return stream

    def run(self, job: Callable[[Patched], T]) -> T:
        """Call `job` between batches, in the thread that owns the model, and return its result.

        The model is patched and unsteered then; vectors that `job` adds are removed after it.

        Raises:
            ValueError: the batcher is closed; and whatever `job` raises.
        """
        future: Future[T] = Future()
        self._put((future, job))
        return future.result()

    def close(self) -> None:
        """End the running batch, fail what waits, and unpatch the model. Idempotent."""
        with self._arrived:
            self._open = False
            for stream in self._running:
                stream.fail("the server is closing")
            self._arrived.notify_all()
        self._thread.join()

    def __enter__(self) -> Batcher:
        """Return itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Close it."""
        self.close()

    def _put(self, item: tuple[float, Stream] | _Job) -> None:
        with self._arrived:
            if not self._open:
                raise ValueError("the batcher is closed")
            self._waiting.append(item)
            self._arrived.notify_all()

    def _work(self) -> None:
        while True:
            with self._arrived:
                self._arrived.wait_for(lambda: self._waiting or not self._open)
                if not self._open:
                    break
                job = self._next_job()
                self._running = [] if job else self._next_batch()
            if job:
                self._do(*job)
            elif self._running:
                self._answer(self._running)
        for item in self._waiting:
            if isinstance(item[0], Future):
                item[0].set_exception(ValueError("the batcher is closed"))
            elif isinstance(item[1], Stream):
                item[1].fail("the server is closing")
        self.patched.unpatch()

    def _next_job(self) -> _Job | None:
        future, job = self._waiting[0]
        if not isinstance(future, Future) or isinstance(job, Stream):
            return None
        self._waiting.popleft()
        return future, job

    def _next_batch(self) -> list[Stream]:
        """Wait for the others of a batch, and take those that fit together, in their order."""
        arrival = self._waiting[0][0]
        assert isinstance(arrival, float)

        def full() -> bool:
            return len(self._waiting) >= self.max_requests or not self._open

        self._arrived.wait_for(full, timeout=max(0.0, arrival + self.gather - monotonic()))
        taken: list[Stream] = []
        prompt = new = 0
        while self._waiting and len(taken) < self.max_requests:
            stream = self._waiting[0][1]
            if not isinstance(stream, Stream):
                break  # a job: it keeps its place in the queue
            prompt = max(prompt, stream.prompt_tokens)
            new = max(new, stream.request.max_new_tokens)
            # A row whose answer has ended is padded up to the longest of the batch.
            if taken and self.context is not None and prompt + new > self.context:
                break
            self._waiting.popleft()
            if stream.wanted:
                taken.append(stream)
        return taken

    def _do(self, future: Future[Any], job: Callable[[Patched], Any]) -> None:
        try:
            future.set_result(job(self.patched))
        except Exception as error:  # it is raised in the thread that waits for the result
            future.set_exception(error)
        finally:
            self.patched.clear()

    def _answer(self, streams: list[Stream]) -> None:
        try:
            with ActiveVectors(self.patched, self.tokenizer) as active:
                ready = [stream for stream in streams if active.prepare(stream)]
                if not ready:
                    return
                rows = [row.coefficients for stream in ready for row in stream.rows]
                with self.patched.rows(rows):
                    generate_rows(
                        self.model,
                        self.tokenizer.pad_token_id,
                        ready,
                        partial(active.note_decisions, ready),
                    )
        except Exception as error:  # such as no memory left; the next batch may fit
            _log.exception("a batch of %d requests failed", len(streams))
            for stream in streams:
                if stream.wanted:
                    stream.fail(f"the batch failed: {type(error).__name__}: {error}")
