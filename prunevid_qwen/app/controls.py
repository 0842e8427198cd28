"""The controls of method, preset and budget, as Gradio draws them."""

from __future__ import annotations

from typing import Any

import gradio as gr

from prunevid_qwen.app.method_controls import AS_PRESET, Choices, Control, controls_of, methods_of
from prunevid_qwen.errors import PruneVidError


def method_controls(choices: Choices) -> tuple[gr.Dropdown, gr.Dropdown, gr.Dropdown, gr.State]:
    """Draw them; return the preset, the merger, the selector, and the values that were changed, by full name."""
    changes = gr.State({})
    with gr.Accordion("Method and budget", open=True):
        presets = choices.presets
        preset = gr.Dropdown(presets, value=presets[0], label="Preset", elem_id="preset")
        with gr.Row():
            merger = gr.Dropdown(
                methods_of("merger"), value=AS_PRESET, label="Merges before the decoder", elem_id="merger"
            )
            selector = gr.Dropdown(
                methods_of("selector"), value=AS_PRESET, label="Selects inside it", elem_id="selector"
            )
        for each in (preset, merger, selector):
            each.change(lambda: {}, None, changes, queue=False, api_visibility="private")

        @gr.render([preset, merger, selector])
        def draw(preset: str, merger: str, selector: str) -> None:
            try:
                controls = controls_of(choices.chosen(preset, merger, selector))
            except PruneVidError as error:
                gr.Textbox(str(error), label="This cannot be chosen", interactive=False)
                return
            for control in controls:
                if control.budget or control.name == "max_frames":
                    _drawn(control, changes)
            with gr.Accordion("All options of these methods", open=False):
                for control in controls:
                    if not (control.budget or control.name == "max_frames"):
                        _drawn(control, changes)

    return preset, merger, selector, changes


def _drawn(control: Control, changes: gr.State) -> None:
    label = f"{control.label} (share kept)" if control.kind == "share" else control.label
    common: dict[str, Any] = {"label": label, "info": control.help, "interactive": True}
    common["elem_id"] = control.name.replace(".", "-")
    if control.kind == "share":
        made: Any = gr.Slider(0.01, 1, control.value, step=0.01, **common)
    elif control.kind == "switch":
        made = gr.Checkbox(control.value, **common)
    elif control.kind == "choice":
        made = gr.Dropdown(list(control.choices), value=str(control.value), **common)
    elif control.kind == "whole":
        made = gr.Number(control.value, precision=0, **common)
    else:
        made = gr.Textbox(control.value, max_lines=1, **common)
    made.change(
        lambda value, held, name=control.name: {**held, name: value}, [made, changes], changes, queue=False,
        api_visibility="private", show_progress="hidden",
    )  # fmt: skip
