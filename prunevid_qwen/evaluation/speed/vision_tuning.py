"""Calibration of the vision encoder's reuse on a model and some of its videos, without labels.

Each video is encoded once by the stock encoder, in chunks. Pixels, states inside the encoder and its tokens say for
every candidate how much it would leave out, and how often stage 1 would have merged what is copied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from prunevid_qwen.adapters import adapter_for
from prunevid_qwen.adapters.tower_form import TowerForm
from prunevid_qwen.adapters.vision import EncodedVideos
from prunevid_qwen.adapters.windows import window_order
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.config.media_reading import STOCK_ENCODER
from prunevid_qwen.errors import UnsupportedError
from prunevid_qwen.evaluation.speed.vision_candidates import Candidates, merge_tau_of
from prunevid_qwen.needs import VisionQuery
from prunevid_qwen.tokens.device import input_device
from prunevid_qwen.vision.agreement import Agreement, Candidate, Counts, total
from prunevid_qwen.vision.plan import PatchForm

_LEAST_GAIN = 0.01  # of the encoder's work: for less no second approximation is switched on


@dataclass
class VideoCounts:
    """What was counted on one video: its path, temporal positions, and counts of every candidate."""

    source: str
    positions: int = 0
    counts: dict[Candidate, Counts] = field(default_factory=dict)

    @property
    def stood_still(self) -> bool:
        """Whether the pixels of any unit changed so little that a threshold leaves it out."""
        return any(each.still for each in self.counts.values())


def tower_form_of(model: Any) -> TowerForm:
    """Return what is known of a `PrunedVLM`'s vision encoder.

    Raises:
        UnsupportedError: it is not known enough to leave units out.
    """
    adapter = adapter_for(model.model)
    if adapter.tower_form is None:
        raise UnsupportedError(
            f"reuse_threshold and early_tau are not built for the vision encoder of {adapter.family}: there is nothing "
            "to calibrate"
        )
    return adapter.tower_form


def count_video(
    model: Any, config: PruneVidConfig, source: str, candidates: Candidates, tell: Callable[[int, int], None]
) -> VideoCounts:
    """Encode a video once with the stock encoder, and count what each candidate would leave out.

    Args:
        model: a `PrunedVLM` whose family's pixels this package makes.
        config: how the video is sampled, and the merger that is asked.
        source: path of the video.
        candidates: what is tried.
        tell: called after each chunk with the frames encoded so far and in all.

    Raises:
        MediaError: the video cannot be read.
        UnsupportedError, ConfigError: as `tower_form_of`, `merge_tau_of` and `Candidates.blocks_of`.
    """
    adapter, reader, form = adapter_for(model.model), model.preprocessor.media, tower_form_of(model)
    blocks, merge_tau = candidates.blocks_of(len(form.blocks)), merge_tau_of(config)
    patch = PatchForm(reader.video.patch_size, reader.video.temporal_patch_size, reader.video.image_std)
    made: dict[int, Tensor] = {}  # by the blocks, of the chunk under way

    def begin() -> Agreement:
        return Agreement(candidates.thresholds, blocks, candidates.taus, merge_tau, patch)

    # in fp32, whatever the encoder takes: pixels are compared before they are cast
    pin = input_device(form.tower).type == "cuda"
    feed = reader.open_video(source, config.replace(**STOCK_ENCODER), dtype=torch.float32, pin=pin)
    counted, positions, frames = begin(), 0, feed.frames
    query, encoded = VisionQuery(blocks), EncodedVideos(form.tower)
    try:
        with torch.inference_mode(), adapter.vision_query(query, lambda block, _kind, out: made.update({block: out})):
            for chunk in feed:
                if chunk is None:  # damage: what came before is void
                    counted, positions = begin(), 0
                    continue
                tokens = encoded.encode(chunk.pixels, chunk.grid).tokens[:, : adapter.hidden_size]
                t, h, w = int(chunk.grid[0, 0]), *(int(each) // reader.merge_size for each in chunk.grid[0, 1:])
                order = None if form.side is None else window_order([(t, h, w)], form.side)
                units = t, h * w
                counted.add(
                    chunk.pixels.view(*units, form.unit, -1),
                    {block: _in_places(states, order, len(tokens)).view(*units, -1) for block, states in made.items()},
                    tokens.view(*units, -1),
                )
                made.clear()
                positions += t
                tell(round(positions / chunk.whole * frames), frames)
    finally:
        feed.close()
    return VideoCounts(source, counted.positions, counted.counts)


def _in_places(states: Tensor, order: Tensor | None, count: int) -> Tensor:
    """Return a block's states [count, P * C], unit by unit in raster order, of patches in the encoder's order."""
    units = states.reshape(count, -1)
    if order is None:
        return units
    out = torch.empty_like(units)
    out[order.to(units.device)] = units
    return out


def hardest(counts: Mapping[Candidate, Counts], agreement: float, depth: int) -> Candidate:
    """Choose the largest threshold that agrees, then the early block and tau that save most behind it and agree.

    A candidate agrees where stage 1 would have merged at least the share ``agreement`` of what it alone leaves out.

    Returns:
        Its parts are None where nothing agrees or nothing is left out. No early block is taken that saves less than
        1 % of the encoder's work, or was judged on too few copies (see `enough`).
    """

    def agrees(share: float | None) -> bool:
        return share is not None and share >= agreement

    alone = [each for each, own in counts.items() if each.block is None and agrees(own.still_agreement)]
    threshold = max((each.threshold for each in alone if each.threshold is not None), default=None)
    chosen = Candidate(threshold)
    saved = counts[chosen].saved(chosen, depth) if threshold is not None else 0.0
    pairs = [
        each
        for each, own in counts.items()
        if each.block is not None and each.threshold == threshold and agrees(own.early_agreement)
        if enough(own.early, agreement)
    ]
    best = max(pairs, key=lambda each: counts[each].saved(each, depth), default=None)
    if best is not None and counts[best].saved(best, depth) >= saved + _LEAST_GAIN:
        return best
    return chosen


def enough(judged: int, agreement: float) -> bool:
    """Tell whether so many copies can show an agreement: so few that one of them would decide cannot."""
    return agreement == 1 or judged * (1 - agreement) >= 1 - 1e-9


def with_candidate(config: PruneVidConfig, candidate: Candidate) -> PruneVidConfig:
    """Return the config with a candidate's reuse of the vision encoder."""
    return config.replace(**{
        "reading.reuse_threshold": candidate.threshold,
        "reading.early_block": candidate.block,
        "reading.early_tau": candidate.tau,
    })  # fmt: skip


def figures(videos: Sequence[VideoCounts], candidates: Candidates, depth: int) -> dict[str, Any]:
    """Return what was measured on some videos, ready for JSON.

    Returns:
        "videos" (each with its share left out at every threshold), "reuse_threshold" and "early" (a row for each
        candidate: ``share`` of all units that are left out, ``saved`` of the encoder's work, ``agreement`` of the
        ``judged`` units that the candidate itself leaves out, and the least of a video's), and "chosen", the hardest
        that agrees; its "few" says that too few copies were judged.
    """
    counts = total(each.counts for each in videos)
    chosen = hardest(counts, candidates.agreement, depth)
    row = None if not counts else _row(chosen, counts.get(chosen, Counts()), depth, videos)
    rows = [_row(candidate, own, depth, videos) for candidate, own in counts.items()]
    return {
        "videos": [
            {
                "source": each.source,
                "positions": each.positions,
                "units": next((own.units for own in each.counts.values()), 0),
                "stood_still": each.stood_still,
                "share": {f"{s.threshold:g}": own.share for s, own in _alone(each)},
            }
            for each in videos
        ],
        "depth": depth,
        "reuse_threshold": [row for row in rows if row["early_block"] is None],
        "early": [row for row in rows if row["early_block"] is not None],
        "chosen": None if row is None else {**row, "few": not enough(row["judged"], candidates.agreement)},
    }


def _alone(video: VideoCounts) -> Iterator[tuple[Candidate, Counts]]:
    return ((candidate, own) for candidate, own in video.counts.items() if candidate.block is None)


def _row(candidate: Candidate, own: Counts, depth: int, videos: Sequence[VideoCounts]) -> dict[str, Any]:
    early = candidate.block is not None

    def agreement(counts: Counts) -> float | None:
        return counts.early_agreement if early else counts.still_agreement

    each = [found for video in videos if (found := agreement(video.counts.get(candidate, Counts()))) is not None]
    return {
        "reuse_threshold": candidate.threshold,
        "early_block": candidate.block,
        "early_tau": candidate.tau,
        "units": own.units,
        "left_out": own.still + own.early,
        "judged": own.early if early else own.still,
        "share": own.share,
        "saved": own.saved(candidate, depth),
        "agreement": agreement(own),
        "least_agreement": min(each, default=None),
    }
