"""Selector "spread": the tokens that the question attends to most, no two nearer than `distance` places."""

from dataclasses import dataclass

import torch

from prunevid_qwen import AttentionQuery, ConfigError, Evidence, Needs, TokenMap, register


@dataclass(frozen=True)
class SpreadOptions:
    keep_ratio: float = 0.4  # share of the tokens of each video and image
    distance: int = 4  # places in visual token order that two kept tokens are apart, while there are such
    layers: tuple[int, ...] | None = None  # None: where the depth's default is

    def __post_init__(self) -> None:
        if isinstance(self.distance, bool) or not isinstance(self.distance, int) or self.distance < 1:
            raise ConfigError(
                f"distance={self.distance!r}: expected a whole number of places, at least 1 (1 spreads nothing)."
            )


@register("spread", SpreadOptions)
@dataclass(frozen=True)
class Spread(SpreadOptions):
    needs = Needs(AttentionQuery())

    def plan(self, seen: Evidence) -> TokenMap:
        scores, places = seen.attention.cpu(), seen.layout.cell_of.tolist()
        kept: list[int] = []
        for block in seen.layout.blocks:
            budget = max(1, int((block.stop - block.start) * self.keep_ratio))
            ranked = torch.argsort(scores[block.start : block.stop], descending=True, stable=True) + block.start
            kept += self.spread(ranked.tolist(), places, budget)
        return TokenMap.keep(torch.tensor(kept, dtype=torch.int64, device=seen.hidden.device), seen.hidden.shape[0])

    def spread(self, ranked: list[int], places: list[int], budget: int) -> list[int]:
        near: set[int] = set()  # places too near to one that is taken
        taken, passed = [], []
        for token in ranked:
            place = places[token]
            if place in near:
                passed.append(token)
                continue
            taken.append(token)
            if place >= 0:  # -1 has no place in the grid, and so no neighbours
                near.update(range(place - self.distance + 1, place + self.distance))
                near.discard(-1)
            if len(taken) == budget:
                return taken
        return taken + passed[: budget - len(taken)]
