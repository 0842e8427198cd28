"""`prunevid tune vision`: what it counts on a real tower, the config that it writes, and every way it may end."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from prunevid_qwen import PrunedVLM, PruneVidConfig, get_fast_config
from prunevid_qwen.adapters import adapter_for
from prunevid_qwen.cli import main
from prunevid_qwen.cli import tune as command
from prunevid_qwen.cli.tune import report_lines
from prunevid_qwen.config import get_config
from prunevid_qwen.errors import ConfigError, MediaError
from prunevid_qwen.evaluation.speed import vision_tuning
from prunevid_qwen.evaluation.speed.vision_candidates import Candidates
from prunevid_qwen.evaluation.speed.vision_tuning import VideoCounts, count_video, figures
from prunevid_qwen.inputs.qwen.media import MediaReader
from prunevid_qwen.needs import VisionQuery
from prunevid_qwen.vision.agreement import Candidate, Counts
from prunevid_qwen.vision.plan import PatchForm, plan_reuse, sources

SMALL = PruneVidConfig(merger="rlt", selector="dpp", max_frames=8, max_pixels=112 * 168)
CANDIDATES = Candidates(thresholds=(2.0, 8.0), taus=(0.9,))
WORDS = ["--max_frames", "8", "--max_pixels", str(112 * 168), "-m", "bundled"]


def folder_of_frames(folder: Path, moving: bool, seed: int = 0) -> str:
    """Eight frames of 112 x 168: a picture with a square that moves, or noise that is never the same."""
    draw, folder = np.random.default_rng(seed), folder / ("moving" if moving else "still")
    folder.mkdir()
    picture = draw.integers(0, 256, (112, 168, 3), dtype=np.uint8)
    for number in range(8):
        frame = draw.integers(0, 256, picture.shape, dtype=np.uint8) if moving else picture.copy()
        if not moving:
            frame[28:56, 14 * number : 14 * number + 28] = (220, 30, 30)
        Image.fromarray(frame).save(folder / f"{number:02}.png")
    return str(folder)


@pytest.fixture(scope="module")
def toy() -> PrunedVLM:
    return PrunedVLM("bundled", device="cpu")


@pytest.fixture
def still(tmp_path: Path) -> str:
    return folder_of_frames(tmp_path, moving=False)


@pytest.fixture
def moving(tmp_path: Path) -> str:
    return folder_of_frames(tmp_path, moving=True)


# ---- what is counted


@pytest.mark.parametrize("name", ["bundled", "bundled-qwen3vl"])
def test_units_and_agreement_are_those_of_the_stock_encoder(name: str, toy: PrunedVLM, still: str) -> None:
    """Against the encoder called once on the whole video, and pixels compared there."""
    model = toy if name == "bundled" else PrunedVLM(name, device="cpu")
    counted = count_video(model, SMALL, still, CANDIDATES, lambda done, frames: None)
    medium = model.preprocessor.media.read_video(still, SMALL)
    with torch.inference_mode():
        tower: Any = adapter_for(model.model).parts.vision
        tokens = tower(medium.pixels, grid_thw=medium.grid).pooler_output
    t, h, w = int(medium.grid[0, 0]), int(medium.grid[0, 1]) // 2, int(medium.grid[0, 2]) // 2
    options = model.preprocessor.media.video
    form = PatchForm(options.patch_size, options.temporal_patch_size, options.image_std)
    tokens, pixels = tokens.view(t, h * w, -1), medium.pixels.view(t, h * w, 4, -1)
    assert counted.positions == t == 4
    for threshold in CANDIDATES.thresholds:
        plan = plan_reuse(pixels, threshold, form=form)
        copies = tokens.gather(0, sources(plan)[..., None].expand_as(tokens))
        alike = torch.nn.functional.cosine_similarity(tokens, copies, dim=2) > SMALL.tau
        own = counted.counts[Candidate(threshold)]
        assert (own.units, own.still, own.still_agreed) == (t * h * w, int((~plan).sum()), int((~plan & alike).sum()))
        assert 0 < own.still < own.units * 3 // 4


def test_states_stand_in_the_places_of_their_units(toy: PrunedVLM, still: str, monkeypatch: Any) -> None:
    """The encoder holds units window by window; their mean over patches is what methods read, in raster order."""
    adapter = adapter_for(toy.model)
    tower: Any = adapter.parts.vision
    medium = toy.preprocessor.media.read_video(still, SMALL)
    held: dict[int, torch.Tensor] = {}
    with torch.inference_mode(), adapter.vision_query(VisionQuery((0,)), lambda b, _, out: held.update({b: out})):
        tower(medium.pixels, grid_thw=medium.grid)
    raster = adapter.raster(held[0], medium.grid)
    given: list[torch.Tensor] = []
    stock = vision_tuning.Agreement.add
    monkeypatch.setattr(
        vision_tuning.Agreement, "add", lambda self, *a: (given.append(a[1][0].clone()), stock(self, *a))[1]
    )
    count_video(toy, SMALL, still, Candidates(taus=(0.9,), blocks=(0,)), lambda done, frames: None)
    (states,) = given
    torch.testing.assert_close(states.view(len(raster), 4, -1).mean(1), raster)
    assert not torch.equal(held[0].view(len(raster), 4, -1).mean(1), raster), "the order of windows is another"


def test_chunks_change_nothing_and_progress_reaches_the_end(toy: PrunedVLM, still: str) -> None:
    told: list[tuple[int, int]] = []
    whole = count_video(toy, SMALL, still, CANDIDATES, lambda *at: told.append(at))
    parts = count_video(toy, SMALL.replace(vision_chunk_tokens=1), still, CANDIDATES, lambda *at: told.append(at))
    assert [each.still for each in parts.counts.values()] == [each.still for each in whole.counts.values()]
    assert parts.positions == whole.positions
    assert told == [(8, 8), (2, 8), (4, 8), (6, 8), (8, 8)]


def test_damage_makes_a_video_begin_anew(toy: PrunedVLM, still: str, monkeypatch: Any) -> None:
    config, stock = SMALL.replace(vision_chunk_tokens=1), MediaReader.open_video
    whole = count_video(toy, config, still, CANDIDATES, lambda done, frames: None)

    class Damaged:
        def __init__(self, feed: Any) -> None:
            self.feed, self.frames = feed, feed.frames

        def __iter__(self) -> Iterator[Any]:
            chunks = list(self.feed)
            yield from (*chunks[:2], None, *chunks)

        def close(self) -> None:
            self.feed.close()

    monkeypatch.setattr(MediaReader, "open_video", lambda self, *a, **named: Damaged(stock(self, *a, **named)))
    told: list[tuple[int, int]] = []
    damaged = count_video(toy, config, still, CANDIDATES, lambda *at: told.append(at))
    assert (damaged.positions, damaged.counts) == (whole.positions, whole.counts)
    assert told == [(2, 8), (4, 8), (2, 8), (4, 8), (6, 8), (8, 8)]


def test_the_encoder_is_left_as_it_was(toy: PrunedVLM, still: str) -> None:
    tower: Any = adapter_for(toy.model).parts.vision
    count_video(toy, SMALL, still, CANDIDATES, lambda done, frames: None)
    assert "forward" not in vars(tower) and not any(block._forward_hooks for block in tower.blocks)


# ---- the command


def test_a_config_is_written_that_says_what_was_chosen(still: str, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "fast.json"
    words = ["tune", "vision", still, *WORDS, "--thresholds", "2,8", "--early_taus", "0.9", "--out", str(out)]
    assert main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    chosen = told["chosen"]
    assert told["out"] == str(out) and not told["interrupted"] and not told["failed"]
    assert {row["reuse_threshold"] for row in told["reuse_threshold"]} == {2.0, 8.0}
    base = get_fast_config().replace(max_frames=8, max_pixels=112 * 168)
    expected = {name: chosen[name] for name in ("reuse_threshold", "early_block", "early_tau")}
    assert get_config(str(out)) == base.replace(**expected)
    agreeing = [row for row in told["reuse_threshold"] if (row["agreement"] or 0) >= told["agreement"]]
    assert chosen["reuse_threshold"] == max((row["reuse_threshold"] for row in agreeing), default=None)
    assert told["videos"][0]["stood_still"] and told["videos"][0]["share"]["8"] > 0
    written = out.read_text()
    assert main(words) == 2 and out.read_text() == written, "it is there"
    assert main([*words, "--force", "--quiet"]) == 0
    capsys.readouterr()


def test_a_video_where_nothing_stands_still_is_said(moving: str, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "fast.json"
    assert main(["tune", "vision", moving, *WORDS, "--thresholds", "2", "--early_taus", "1.0", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert f"{moving}: nothing stood still" in said
    config = get_config(str(out))
    assert config.reading.reuse_threshold is None and config.reading.early_tau is None
    assert config.reading.reuse_identical, "all else is as it was"


def stub(monkeypatch: pytest.MonkeyPatch, *ends: Any) -> list[str]:
    """Measure nothing: each video has counts of its own, or ends as is said of it."""
    asked: list[str] = []

    class Loaded:
        model = None

        @staticmethod
        def from_pretrained(*_given: Any, **_named: Any) -> Loaded:
            return Loaded()

    def counted(_model: Any, _config: Any, source: str, candidates: Candidates, tell: Any) -> VideoCounts:
        asked.append(source)
        end = ends[len(asked) - 1] if len(asked) <= len(ends) else None
        if end is not None:
            raise end
        tell(8, 8)
        return VideoCounts(source, 4, {
            Candidate(2.0): Counts(1000, 300, 300), Candidate(4.0): Counts(1000, 400, 398),
            Candidate(4.0, 1, 0.9): Counts(1000, 400, 398, 100, 100),
        })  # fmt: skip

    monkeypatch.setattr("prunevid_qwen.PrunedVLM", Loaded)
    monkeypatch.setattr(vision_tuning, "tower_form_of", lambda _model: SimpleNamespace(blocks=[None] * 4))
    monkeypatch.setattr(vision_tuning, "count_video", counted)
    return asked


@pytest.fixture
def clips(tmp_path: Path) -> list[str]:
    made = [tmp_path / f"{name}.mp4" for name in "abc"]
    for each in made:
        each.write_bytes(b"not empty; the stub does not look inside")
    return [str(each) for each in made]


def test_ctrl_c_reports_what_is_done_and_how_to_keep_it(
    clips: list[str], tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    out = tmp_path / "o.json"
    words = ["tune", "vision", *clips, "--max_frames", "12", "--keep_ratio", "0.3", "--out", str(out)]
    stub(monkeypatch, None, KeyboardInterrupt())
    assert main([*words, "--json"]) == 130
    told = json.loads(capsys.readouterr().out)
    assert [each["source"] for each in told["videos"]] == clips[:1] and told["interrupted"] and told["out"] is None
    assert not out.exists()
    stub(monkeypatch, None, None, KeyboardInterrupt())
    assert main(words) == 130
    by_hand = next(line for line in capsys.readouterr().out.splitlines() if "prunevid config save" in line)
    assert main(shlex.split(by_hand.partition("prunevid ")[2])) == 0
    fast = get_fast_config().replace(max_frames=12, keep_ratio=0.3)
    assert get_config(str(out)) == fast.replace(reuse_threshold=4.0, early_block=1, early_tau=0.9)


def test_ctrl_c_before_anything_is_done_is_the_usual_one(clips: list[str], monkeypatch: Any, capsys: Any) -> None:
    stub(monkeypatch, KeyboardInterrupt())
    assert main(["tune", "vision", *clips, "--json"]) == 130
    assert json.loads(capsys.readouterr().out)["error"]["exit_code"] == 130


def test_what_cannot_be_read_leaves_the_others(clips: list[str], tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    out = tmp_path / "o.json"
    stub(monkeypatch, MediaError("broken"), None)
    assert main(["tune", "vision", *clips, "none.mp4", "--out", str(out), "--json"]) == 4
    told = json.loads(capsys.readouterr().out)
    assert set(told["failed"]) == {clips[0], "none.mp4"} and told["failed"][clips[0]] == "broken"
    assert [each["source"] for each in told["videos"]] == clips[1:]
    assert PruneVidConfig.from_json(out).reading.reuse_threshold == 4.0
    asked = stub(monkeypatch, *[MediaError("broken")] * 3)
    assert main(["tune", "vision", *clips, "--out", str(out), "--force"]) == 4 and asked == clips
    assert "broken" in capsys.readouterr().out
    assert main(["tune", "vision", "none.mp4", "--out", str(out), "--force"]) == 4
    assert "none.mp4" in capsys.readouterr().err


def test_a_dry_run_loads_no_model_and_writes_nothing(
    clips: list[str], tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.setattr(command, "_measured", None)
    out = tmp_path / "o.json"
    assert main(["tune", "vision", *clips, clips[0], "--dry_run", "--json", "--out", str(out)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["videos"] == clips and told["tau"] == 0.8 and not out.exists()
    assert main(["tune", "vision", *clips, "none.mp4", "--dry_run", "--out", str(out)]) == 4


@pytest.mark.parametrize(
    "words",
    [
        ["--agreement", "1.5"],
        ["--thresholds", "300"], ["--early_taus", "0"], ["--early_blocks", "-1"], ["--out", "here.txt"],
        ["--out", "no/such/folder.json"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_bad_options_end_with_2_before_a_model_is_loaded(
    words: list[str], clips: list[str], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "_measured", None)
    assert main(["tune", "vision", *clips, *words]) == 2


def test_a_model_whose_pixels_are_its_processors_is_refused_before_its_weights(
    clips: list[str], tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llava"}')
    assert main(["tune", "vision", *clips, "-m", str(tmp_path)]) == 2
    assert "llava" in capsys.readouterr().err


def test_too_few_copies_to_tell_are_said() -> None:
    """At 99 % the first copy of a hundred that disagrees would decide."""
    for count, few in ((99, True), (100, False)):
        made = figures([VideoCounts("a.mp4", 4, {Candidate(8.0): Counts(1000, count, count)})], Candidates(), depth=4)
        assert made["chosen"]["reuse_threshold"] == 8.0 and made["chosen"]["judged"] == count
        said = report_lines({**made, "tau": 0.8, "agreement": 0.99})[-1]
        assert (f"only {count} copies" in said) == few


def test_blocks_follow_the_depth_and_the_last_is_refused() -> None:
    assert [Candidates().blocks_of(depth) for depth in (32, 24, 4, 2)] == [(3, 7), (2, 5), (0, 1), (0,)]
    assert Candidates(blocks=(2,)).blocks_of(4) == (2,)
    for block in (3, 9):
        with pytest.raises(ConfigError):
            Candidates(blocks=(block,)).blocks_of(4)


def test_the_report_has_each_candidate_and_the_least_of_a_video() -> None:
    good, bad = Counts(100, 50, 50), Counts(100, 10, 5)
    early = {Candidate(8.0, 0, 0.9): Counts(100, 50, 50, 20, 19)}
    videos = [VideoCounts("a.mp4", 4, {Candidate(8.0): good, **early}), VideoCounts("b.mp4", 4, {Candidate(8.0): bad})]
    made = figures(videos, Candidates(), depth=4)
    (row,) = made["reuse_threshold"]
    assert (row["share"], row["agreement"], row["least_agreement"]) == (60 / 200, 55 / 60, 0.5)
    (row,) = made["early"]
    assert (row["agreement"], row["saved"]) == (0.95, (50 + 20 * 3 / 4) / 100)
    assert made["chosen"]["reuse_threshold"] is None
    said = "\n".join(report_lines({**made, "tau": 0.8, "agreement": 0.99}))
    assert "30.0 %" in said and "91.7 %" in said and "50.0 %" in said
    assert report_lines({**figures([], Candidates(), depth=4), "tau": 0.8, "agreement": 0.99}) == []
