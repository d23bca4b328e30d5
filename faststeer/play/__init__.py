"""Many clients on one steered model: `Batcher`, and the page of `faststeer play` on top of it."""

from faststeer.play.asking import Request, Sampling, Use
from faststeer.play.batcher import Batcher
from faststeer.play.stream import Answer, RequestError, Stream

__all__ = ["Answer", "Batcher", "Request", "RequestError", "Sampling", "Stream", "Use"]
