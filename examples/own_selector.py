"""A selector of one's own: of every video, keep the tokens that are farthest from their mean.

    python examples/own_selector.py                                                        # does it keep its promises?
    prunevid ask --plugin examples/own_selector.py --selector farthest --selector.keep_ratio 0.2 \\
        --video_path video.mp4 --question "What happens?"
"""

from dataclasses import dataclass

import torch

from prunevid_qwen import Evidence, Needs, TokenMap, check_reducer, register


@dataclass(frozen=True)
class FarthestOptions:
    """Options of the method: how much it keeps, and the first layer that sees what is kept."""

    keep_ratio: float = 0.25
    layers: tuple[int | float, ...] | None = (3,)


@register("farthest", FarthestOptions)
@dataclass(frozen=True)
class Farthest(FarthestOptions):
    """Drops the tokens that look like the rest of their video."""

    needs = Needs()  # the tokens' states alone; Needs(AttentionQuery()) shows the question's attention too

    def plan(self, seen: Evidence) -> TokenMap:
        """Decide for each video and image by itself."""
        kept = []
        for block in seen.layout.blocks:
            states = seen.hidden[block.start : block.stop].float()  # [N, D]
            count = max(1, int(len(states) * self.keep_ratio))
            distance = (states - states.mean(dim=0)).norm(dim=1)
            kept.append(block.start + distance.topk(count).indices.sort().values)
        return TokenMap.keep(torch.cat(kept), seen.hidden.shape[0])


if __name__ == "__main__":
    check_reducer(Farthest)
    print("farthest keeps the promises of a method")
