"""The buttons that save a client's setting as a file, and load one again."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from faststeer.play.answering import MOST_TOKENS, chosen
from faststeer.play.escaped_text import as_text
from faststeer.play.playground import Playground
from faststeer.play.setting import read_setting, setting_to_json
from faststeer.play.vector_controls import VectorControls
from faststeer.vectors.steering_vector import SteeringVector


class SettingControls:
    """Below the sliders: all of them, with length and sampling, to a file and back."""

    def __init__(self, playground: Playground, controls: VectorControls) -> None:
        self.playground = playground
        self.controls = controls

    def render(self) -> None:
        """Make the buttons, in the column that is open."""
        with gr.Row():
            self.save = gr.Button(
                "Save the setting", size="sm", min_width=120, elem_id="save-setting"
            )
            self.load = gr.UploadButton(
                "Load a setting",
                file_types=[".json"],
                size="sm",
                min_width=120,
                elem_id="load-setting",
            )

    def connect(self, sampling: Sequence[Any]) -> None:
        """Save and load the controls of the vectors, and those of length and sampling."""
        controls = self.controls
        self.save.click(
            self._save,
            [controls.own, *sampling, *controls.values],
            [controls.saved, controls.message],
            api_visibility="private",
        )
        self.load.upload(
            self._load,
            [self.load, controls.own],
            [controls.message, *sampling, *controls.values],
            api_visibility="private",
        )

    def _save(
        self,
        own: list[SteeringVector],
        tokens: float,
        temperature: float,
        top_p: float,
        seed: float | None,
        *values: Any,
    ) -> list[Any]:
        try:
            text = setting_to_json(
                self.playground.loaded.name,
                self.controls.uses(own, values),
                *chosen(tokens, temperature, top_p, seed),
            )
            path = Path(tempfile.mkdtemp(prefix="faststeer-")) / "setting.json"
            path.write_text(text, encoding="utf-8")
        except (OSError, TypeError, ValueError, OverflowError) as error:
            return [gr.update(), as_text(f"not saved: {error}")]
        words = "setting.json is ready below; it names the vectors, which are saved on their own"
        return [gr.update(value=str(path), visible=True), as_text(words)]

    def _load(self, path: str | None, own: list[SteeringVector]) -> list[Any]:
        vectors = self.controls.vectors(own)
        try:
            if path is None:
                raise ValueError("no file came with the upload")
            found = read_setting(Path(path), vectors)
            for name, value, least, most in (
                ("max_new_tokens", found.max_new_tokens, 1, MOST_TOKENS),
                ("temperature", found.sampling.temperature, 0, 2),
                ("top_p", found.sampling.top_p, 0.05, 1),
            ):
                if not least <= value <= most:
                    raise ValueError(f"{name} is {value}; the page has {least} to {most}")
            values = self.controls.show_uses(own, found.uses)
        except (OSError, TypeError, ValueError, OverflowError) as error:
            unchanged = [gr.update() for _ in range(4 + len(self.controls.values))]
            return [as_text(f"not loaded: {error}"), *unchanged]
        sampling = [
            found.max_new_tokens,
            found.sampling.temperature,
            found.sampling.top_p,
            found.sampling.seed,
        ]
        words, here = "the setting is loaded", self.playground.loaded.name
        if found.model != here:
            words += f"; it was saved with {found.model}, and this page has {here}"
        return [as_text(words), *sampling, *values]
