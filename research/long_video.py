"""Answer a question about an hour of video at one frame a second, and measure what it takes: time and host memory.

``python -m research.long_video --help`` (``make bench-long``) writes a synthetic video (a square
that wanders over pictures that change every ten minutes, 392x280 pixels, so 140 visual tokens for every two frames),
then reads, encodes, merges and answers with the bundled model: the real architecture with small sizes. The answer
itself says nothing; the bundled model has seen eight seconds at most.

With ``--fixed-camera`` the pictures never change, and only the square moves. ``--beside fast`` also answers with the
encoder's options of that preset: the encoder's time and the peak of memory with and without, in turns, in one process.
The reduction of tokens is the same for both, since `dpp` chooses for minutes among an hour's tokens.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

import av
import numpy as np
import torch
import typer

from prunevid_qwen import PruneVidQwen25VL, get_paper_config
from prunevid_qwen.cli import run_script
from prunevid_qwen.config import get_config
from prunevid_qwen.evaluation.report.intervals import Quantiles
from prunevid_qwen.evaluation.speed.speed_run import hardware
from prunevid_qwen.evaluation.speed.timed_run import peak_memory
from prunevid_qwen.evaluation.store import surroundings
from prunevid_qwen.receipt import versions
from prunevid_qwen.vision.options import vision_options
from research.shapes_run import RUNS, command_of

HEIGHT, WIDTH, SQUARE, SCENE = 280, 392, 40, 600
MIB = 2**20


def write_video(path: Path, seconds: int, fixed_camera: bool = False) -> None:
    """Write a video of one frame a second; a fixed camera sees one picture all along."""
    numbers = np.random.default_rng(0)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=1, options={"preset": "ultrafast", "crf": "23"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for i in range(seconds):
            if i == 0 or (i % SCENE == 0 and not fixed_camera):
                cells = numbers.integers(40, 200, (HEIGHT // 14, WIDTH // 14, 3), dtype=np.uint8)
                scene = cells.repeat(14, axis=0).repeat(14, axis=1)
            picture = scene.copy()
            left, top = (7 * i) % (WIDTH - SQUARE), round((HEIGHT - SQUARE) * (0.5 + 0.5 * np.sin(i / 40)))
            picture[top : top + SQUARE, left : left + SQUARE] = (220, 30, 30)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, 1)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))


class Sections:
    """Peak memory of one section of the work after the other."""

    def __init__(self, device: Any) -> None:
        self.device, self.found = device, dict[str, Any]()
        self._open = ExitStack()

    def begin(self, name: str) -> None:
        """End the section before and begin one."""
        self._open.close()
        self.found[name] = self._open.enter_context(peak_memory(self.device))

    def end(self) -> None:
        """End the last section."""
        self._open.close()


def read_alone(model: Any, path: Path) -> float:
    """Seconds that decoding, resizing and cutting take without an encoder beside them."""
    began = time.perf_counter()
    feed = model.preprocessor.media.open_video(path, model.config, dtype=model.model.dtype)
    for _ in feed:
        pass
    return time.perf_counter() - began


def measure(model: Any, path: Path) -> dict[str, Any]:
    """Answer once; return the receipt, the seconds of reading alone and the peaks of memory in MiB."""
    root = model.model.model
    sections = Sections(model.model.device)
    seen = 0

    def progress(done: int, frames: int) -> None:
        nonlocal seen
        if 10 * done // frames > seen or done == frames:
            seen = 10 * done // frames
            typer.echo(f"  {done} of {frames} frames read and encoded")

    def prompt(name: str) -> Any:
        def hook(_module: Any, args: Any, kwargs: Any) -> None:
            hidden = kwargs.get("inputs_embeds", args[0] if args else None)
            if hidden.shape[1] > 1:
                sections.begin(name)

        return hook

    # hooks fire in the order in which they were made: this one before stage 1, which `pruned` hooks later
    root.language_model.register_forward_pre_hook(prompt("stage 1"), with_kwargs=True)
    root.language_model.layers[0].register_forward_pre_hook(prompt("decoder"), with_kwargs=True)
    sections.begin("reading and encoding")
    result = model.generate(path, "what color is the square ?", max_new_tokens=4, eos_token_id=None, progress=progress)
    sections.end()
    start = sections.found["reading and encoding"]["before"]
    above = {name: peak["peak"] - start for name, peak in sections.found.items()}
    return {
        "receipt": result["stats"],
        "answer": result["answer"],
        "memory": {
            "how": sections.found["stage 1"]["how"],
            "with_model_loaded_mib": round(start / MIB, 1),
            "peak_above_weights_mib": round(max(above.values()) / MIB, 1),
            "peak_above_weights_by_section_mib": {name: round(size / MIB, 1) for name, size in above.items()},
            "stage1_own_peak_mib": round(sections.found["stage 1"]["above"] / MIB, 1),
        },
    }


def encoder_options(preset: str) -> dict[str, Any]:
    """Return what a preset says of the vision encoder, by full names."""
    return {f"reading.{name}": value for name, value in asdict(vision_options(get_config(preset).reading)).items()}


def encoders(found: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Summarise what was measured with each encoder, round by round, against the first, which is the stock one."""
    stock, *_ = found
    out = {}
    for name, rounds in found.items():
        took = [each["receipt"]["seconds"] for each in rounds]
        pairs = zip(rounds, found[stock], strict=True)
        shares = [own["receipt"]["seconds"]["vision"] / its["receipt"]["seconds"]["vision"] for own, its in pairs]
        vision = rounds[0]["receipt"].get("vision")
        sections = [each["memory"]["peak_above_weights_by_section_mib"] for each in rounds]
        out[name] = {
            "share": 1.0 if vision is None else vision["share"],
            "vision": vision,
            "seconds": Quantiles.of([each["vision"] for each in took]).to_dict(),
            "of_stock": Quantiles.of(shares).to_dict(),
            "first_token": Quantiles.of([each["first_token"] for each in took]).to_dict(),
            "peak_mib": max(each["memory"]["peak_above_weights_mib"] for each in rounds),
            "encoding_peak_mib": max(each["reading and encoding"] for each in sections),
        }
    return out


def main(
    seconds: Annotated[int, typer.Option(help="Of video, one frame each.")] = 3600,
    cluster_ratio: Annotated[
        float, typer.Option(help="Of stage 1. The decoder's attention takes the square of what is left.")
    ] = 0.02,
    chunk: Annotated[int | None, typer.Option(help="vision_chunk_tokens. Default: the package's.")] = None,
    threads: Annotated[int | None, typer.Option(help="Of torch. Default: torch's.")] = None,
    fixed_camera: Annotated[bool, typer.Option(help="The picture stands still, and the square moves.")] = False,
    beside: Annotated[str | None, typer.Option(help="Also with the encoder of this preset: fast.")] = None,
    rounds: Annotated[int, typer.Option(help="Of each, in turns.", min=1)] = 1,
    out: Annotated[Path, typer.Option(help="The raw figures, JSON.")] = RUNS / "long_video.json",
) -> None:
    """Measure, print and write the figures."""
    if threads:
        torch.set_num_threads(threads)
    load_before = os.getloadavg()[0]
    config = get_paper_config().replace(
        max_frames=seconds,
        max_pixels=HEIGHT * WIDTH,
        cluster_ratio=cluster_ratio,
        video_time_limit=None,
        **({} if chunk is None else {"vision_chunk_tokens": chunk}),
    )
    configs = {"stock": config}
    if beside is not None:
        configs[beside] = config.replace(**encoder_options(beside))
    every: dict[str, list[dict[str, Any]]] = {name: [] for name in configs}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        began = time.perf_counter()
        write_video(path, seconds, fixed_camera)
        written = time.perf_counter() - began
        typer.echo(f"wrote {seconds} frames of {WIDTH}x{HEIGHT} in {written:.1f} s")
        for _ in range(rounds):
            for name, each in configs.items():
                model = PruneVidQwen25VL("bundled", each, device="cpu")  # its own: `measure` leaves hooks on it
                every[name].append(measure(model, path))
                took = every[name][-1]["receipt"]["seconds"]
                typer.echo(f"{name} encoder: {took['vision']:.1f} s, first token after {took['first_token']:.1f} s")
        alone = read_alone(PruneVidQwen25VL("bundled", config, device="cpu"), path)

    found = every["stock"][-1]
    receipt, memory = found["receipt"], found["memory"]
    took, tokens = receipt["seconds"], receipt["tokens"]
    hidden = took["read"] + took["vision"]
    saved = alone + took["vision"] - hidden
    typer.echo(
        f"tokens: {tokens['visual']} -> {tokens['after_stage1']} -> {tokens['after_stage2']}\n"
        f"seconds: {took['total']:.1f} in all; reading and encoding {hidden:.1f} (encoder {took['vision']:.1f}, "
        f"reading it did not hide {took['read']:.1f}); stage 1 {took['merge']:.2f}; decoder over the prompt "
        f"{took['prefill']:.2f}; stage 2 {took['select']:.2f}; a token {took['decode_per_token']:.3f}\n"
        f"reading alone takes {alone:.1f} s: both at once saved {saved:.1f} of {alone + took['vision']:.1f} s\n"
        f"memory above the weights: {memory['peak_above_weights_mib']:.0f} MiB at the peak; "
        f"stage 1's own {memory['stage1_own_peak_mib']:.0f} MiB"
    )
    receipt["input"]["videos"][0].pop("timestamps")
    receipt["input"]["videos"][0].pop("source")
    record = {
        "command": command_of("research.long_video"),
        **surroundings(),
        "versions": versions(),
        "hardware": hardware("cpu"),
        "threads": torch.get_num_threads(),
        "load": [round(load_before, 2), round(os.getloadavg()[0], 2)],  # only an idle machine times fairly
        "frames": seconds,
        "fixed_camera": fixed_camera,
        "write_seconds": round(written, 2),
        "read_alone_seconds": round(alone, 3),
        "overlap_saved_seconds": round(saved, 3),
        **({} if beside is None else {"encoders": encoders(every)}),
        **found,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    typer.echo(f"figures: {out}")


if __name__ == "__main__":
    run_script(main)
