"""What a reader with the wheel and CONTRIBUTING alone wrote: attention, and the later the better."""

from dataclasses import dataclass

import torch

from prunevid_qwen import AttentionQuery, Evidence, Needs, TokenMap, register


@dataclass(frozen=True)
class LateOptions:
    keep_ratio: float = 0.3
    lateness: float = 1.0  # how many times more a token of the last frame counts than one of the first, less one
    layers: tuple[int, ...] | None = (2,)


@register("late", LateOptions)
@dataclass(frozen=True)
class Late(LateOptions):
    needs = Needs(AttentionQuery(heads="mean"))

    def plan(self, seen: Evidence) -> TokenMap:
        kept = []
        for block in seen.layout.blocks:
            own = slice(block.start, block.stop)
            frames, rows, columns = block.grid
            time = seen.layout.cell_of[own] // (rows * columns)  # of merged tokens, too
            score = seen.attention[own] + (1 + self.lateness * time / frames).log()
            best = score.argsort(descending=True, stable=True)
            kept.append(block.start + best[: max(1, int(len(best) * self.keep_ratio))])
        return TokenMap.keep(torch.cat(kept), seen.hidden.shape[0])
