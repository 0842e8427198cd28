"""The page: what one asks on the left, the answers and what was kept on the right. Gradio is loaded here alone."""

from __future__ import annotations

import contextlib
import html
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr

from prunevid_qwen.app.controls import method_controls
from prunevid_qwen.app.method_controls import Choices
from prunevid_qwen.app.receipt_tables import TOKENS_HEAD, reused_line, times_head, times_rows, tokens_rows
from prunevid_qwen.app.side_by_side import PRUNED, UNPRUNED, Asked, Seen, SideBySide
from prunevid_qwen.app.uploads import UploadLimits, check_image, check_video, example_clips, uploaded
from prunevid_qwen.errors import PruneVidError
from prunevid_qwen.pictures.html import InNotebook

TITLE = "prunevid"
HISTORY = ["question", PRUNED, UNPRUNED, "kept", "s, pruned", "s, unpruned"]
_VIDEO, _IMAGES = "video", "images"
_HEIGHT = 620  # of the frame that shows what was kept


@dataclass
class Desk:
    """What the page's events share: who answers, what may be opened, and the questions under way, one of each tab.

    Args:
        answering: with the model.
        choices: presets and options.
        limits: of uploads.
        folder: of uploads.
        drawn: of videos that were drawn, until Gradio has copied them.
    """

    answering: SideBySide
    choices: Choices
    limits: UploadLimits
    folder: Path
    drawn: Path
    under_way: dict[str, threading.Event] = field(default_factory=dict)

    def stop(self, request: gr.Request) -> None:
        """Stop the question of a tab, if there is one."""
        event = self.under_way.get(str(request.session_hash))
        if event is not None:
            event.set()

    def begun(self, tab: str) -> threading.Event:
        """Return what stops a tab's next question; one that is still under way is stopped."""
        before, event = self.under_way.get(tab), threading.Event()
        if before is not None:
            before.set()
        self.under_way[tab] = event
        return event

    def asked(self, what: str, video: str | None, images: Any, question: str, config: Any, more: Any) -> Asked:
        """Return the question, about files that were uploaded and are within the limits.

        Raises:
            PruneVidError: why it cannot be asked.
        """
        film: Path | None = None
        pictures: tuple[Path, ...] = ()
        if what == _VIDEO and video:
            film = uploaded(video, self.folder)
            check_video(film, self.limits)
        elif what == _IMAGES and images:
            pictures = tuple(uploaded(each[0] if isinstance(each, (tuple, list)) else each, self.folder)
                             for each in images)  # fmt: skip
            self.limits.check_images(len(pictures))
            for each in pictures:
                check_image(each, self.limits)
        compare, longest, preset = more
        return Asked(question or "", config, film, pictures, bool(compare), int(longest), preset)


def build(desk: Desk, model_name: str, toy: bool) -> gr.Blocks:
    """Return the page.

    Args:
        desk: of its events.
        model_name: who answers.
        toy: that is a toy, which knows moving shapes alone.
    """
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(600, 3600)) as blocks:
        gr.HTML(_head(model_name, toy))
        films = "video" in desk.answering.kinds
        what, history = gr.State(_VIDEO if films else _IMAGES), gr.State([])
        with gr.Row(elem_id="areas"):
            with gr.Column(elem_id="area-ask"):
                with gr.Tab("Video", visible=films, elem_id="tab-video") as video_tab:
                    video = gr.Video(label="Video", sources=["upload"], height=260, buttons=[], elem_id="video")
                with gr.Tab("Images", visible="image" in desk.answering.kinds, elem_id="tab-images") as images_tab:
                    images = gr.Gallery(
                        label="Images", type="filepath", height=260, columns=4, sources=["upload"], buttons=[],
                        interactive=True, elem_id="images",
                    )  # fmt: skip
                question = gr.Textbox(label="Question", placeholder="What happens?", max_lines=4, max_length=4000,
                                      elem_id="question")  # fmt: skip
                with gr.Row():
                    ask = gr.Button("Ask", variant="primary", elem_id="ask")
                    stop = gr.Button("Stop", elem_id="stop")
                if films:
                    gr.Examples([list(each) for each in example_clips()], [video, question], label="Example clips")
            with gr.Column(elem_id="area-answers"):
                status = gr.HTML(_said("status", "Upload a video or take an example, and ask."), elem_id="status")
                with gr.Row():
                    pruned = gr.Textbox(label="Pruned answer", lines=3, max_lines=12, elem_id="pruned")
                    unpruned = gr.Textbox(label="Unpruned answer", lines=3, max_lines=12, elem_id="unpruned")
                times = gr.Dataframe(label="Where the time went", interactive=False, wrap=True,
                                     column_widths=["50%", "25%", "25%"], elem_id="times")  # fmt: skip
                overlay = gr.Video(label="Tokens that were kept, on the video", interactive=False, autoplay=False,
                                   loop=True, height=380, buttons=["download"], elem_id="overlay")  # fmt: skip
                kept = gr.HTML("", elem_id="kept")
                with gr.Tab("Receipt"):
                    receipt = gr.Dataframe(headers=TOKENS_HEAD, label="Tokens", interactive=False, wrap=True,
                                           column_widths=["34%", "22%", "18%", "26%"], elem_id="receipt")  # fmt: skip
                with gr.Tab("Receipt as JSON"):
                    whole = gr.JSON(label="Receipt", elem_id="receipt-json")
                with gr.Tab("Questions so far"):
                    past = gr.Dataframe(headers=HISTORY, interactive=False, wrap=True, elem_id="history")
            with gr.Column(elem_id="area-method"):
                compare = gr.Checkbox(True, label="Also answer without pruning", elem_id="compare")
                longest = gr.Slider(1, 512, 64, step=1, label="Longest answer, in tokens", elem_id="longest")
                preset, merger, selector, changes = method_controls(desk.choices)
        video_tab.select(lambda: _VIDEO, None, what, queue=False, api_visibility="private")
        images_tab.select(lambda: _IMAGES, None, what, queue=False, api_visibility="private")
        shown = _Components(status, pruned, unpruned, times, overlay, kept, receipt, whole, past, history)

        def answered(
            what: str, video: Any, images: Any, question: str, compare: bool, longest: int, preset: str, merger: str,
            selector: str, changes: Any, history: Any, request: gr.Request,
        ) -> Iterator[dict[Any, Any]]:  # fmt: skip
            tab = str(request.session_hash)
            stop = desk.begun(tab)
            yield shown.cleared()
            try:
                config = desk.choices.chosen(preset, merger, selector, changes)
                asked = desk.asked(what, video, images, question, config, (compare, longest, preset))
                with contextlib.closing(desk.answering.ask(asked, stop)) as answers:
                    yield from shown.each(answers, asked, history, desk.drawn)
            except PruneVidError as error:
                yield {status: _said("error", str(error))}
            finally:
                stop.set()
                if desk.under_way.get(tab) is stop:
                    del desk.under_way[tab]

        given = [what, video, images, question, compare, longest, preset, merger, selector, changes, history]
        for trigger in (ask.click, question.submit):
            trigger(answered, given, shown.all, api_visibility="private", show_progress="hidden",
                    trigger_mode="once", concurrency_id="answers")  # fmt: skip
        stop.click(desk.stop, None, None, queue=False, api_visibility="private")
        blocks.unload(desk.stop)
    return blocks


@dataclass(frozen=True)
class _Components:
    """The components that an answer fills."""

    status: Any
    pruned: Any
    unpruned: Any
    times: Any
    overlay: Any
    kept: Any
    receipt: Any
    whole: Any
    past: Any
    history: Any

    @property
    def all(self) -> list[Any]:
        return list(vars(self).values())

    def cleared(self) -> dict[Any, Any]:
        return {
            self.status: _said("status", "waiting for the model"), self.pruned: "", self.unpruned: "",
            self.times: None, self.overlay: None, self.kept: "", self.receipt: None, self.whole: None,
        }  # fmt: skip

    def each(self, answers: Iterator[Seen], asked: Asked, history: list[Any], folder: Path) -> Iterator[dict[Any, Any]]:
        """Yield what changes on the page, answer and pictures each once."""
        done, overlay = Seen(), None
        for seen in answers:
            new = {self.status: _status(seen), self.pruned: seen.texts.get(PRUNED, ""),
                   self.unpruned: seen.texts.get(UNPRUNED, "")}  # fmt: skip
            if len(seen.answers) > len(done.answers):
                stats = seen.answers[PRUNED]["stats"]
                new |= {self.receipt: tokens_rows(stats), self.whole: stats}
                new |= {self.times: {"headers": times_head(seen.answers), "data": times_rows(seen.answers)}}
            if seen.page is not None and done.page is None:
                new[self.kept] = InNotebook(seen.page, _HEIGHT)._repr_html_()
            if seen.overlay is not None and done.overlay is None:
                overlay = folder / f"kept-{uuid.uuid4().hex}.mp4"
                overlay.write_bytes(seen.overlay)
                new[self.overlay] = str(overlay)
            if seen.ended and not seen.stopped:
                rows = [_history_row(asked, seen), *history][:100]
                new |= {self.history: rows, self.past: {"headers": HISTORY, "data": rows}}
            done = seen
            yield new
            if overlay is not None:  # Gradio has a copy of its own by now
                overlay.unlink(missing_ok=True)
                overlay = None


def _history_row(asked: Asked, seen: Seen) -> list[str]:
    sides = [seen.answers.get(side) for side in (PRUNED, UNPRUNED)]
    tokens = seen.answers[PRUNED]["stats"]["tokens"]
    kept = f"{tokens['layer_average'] / tokens['visual']:.0%}" if tokens["visual"] else ""
    seconds = ["" if each is None else f"{each['stats']['seconds']['total']:.2f}" for each in sides]
    return [asked.question, *("" if each is None else each["answer"] for each in sides), kept, *seconds]


def _status(seen: Seen) -> str:
    if seen.stopped:
        return _said("status", "Stopped: it is as if this question had not been asked.")
    if not seen.ended:
        return _said("status", f"{seen.doing or 'beginning'} ...")
    stats = seen.answers[PRUNED]["stats"]
    tokens = stats["tokens"]
    said = ["Done."]
    if tokens["visual"]:
        share = tokens["layer_average"] / tokens["visual"]
        said.append(f"A layer saw {share:.0%} of the {tokens['visual']:,} visual tokens, on average.")
    if len(seen.answers) > 1:
        same = seen.answers[PRUNED]["answer"] == seen.answers[UNPRUNED]["answer"]
        said.append("Same answer." if same else "The answers differ.")
    reused = reused_line(stats)
    said += [reused] if reused else []
    return _said("status", " ".join([*said, *seen.notes]))


def _said(kind: str, words: str) -> str:
    """Return words for a line of the page; nothing in them is taken as HTML."""
    role = "alert" if kind == "error" else "status"
    said = f"error: {words}" if kind == "error" else words
    return f'<p class="prunevid-{kind}" role="{role}">{html.escape(said)}</p>'


def _head(model_name: str, toy: bool) -> str:
    note = "a toy that has only ever seen moving shapes: its answers about other videos are confident nonsense"
    said = (
        f"<h1>{TITLE}</h1><p>{html.escape(model_name)} answers with a part of the visual tokens, and without pruning."
    )
    return f'{said}</p><p class="prunevid-toy">{html.escape(f"{model_name} is {note}.")}</p>' if toy else f"{said}</p>"


def theme() -> Any:
    """Return the look of the page. Its letters are the system's, so that nothing is fetched."""
    return gr.themes.Soft(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
