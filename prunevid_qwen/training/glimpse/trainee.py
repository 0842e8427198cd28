"""What is trained, and one forward of it through the frozen model (GlimpsePrune, arXiv 2508.01548, figure 3).

Here the glimpse token stands between prompt and answer, so that the answer sees it and its loss reaches the glimpse
vectors through the whole decoder. At inference nothing sees it, and it runs beside the prompt (`forward.probe`):
by causality its own states are the same.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DynamicCache

from prunevid_qwen.adapters import adapter_for
from prunevid_qwen.adapters.picture_grids import Pictures
from prunevid_qwen.adapters.seams import cache_parameter
from prunevid_qwen.errors import ConfigError, UnsupportedError
from prunevid_qwen.forward.probe import row_sums
from prunevid_qwen.forward.vision_evidence import VisionEvidence, watched_vision
from prunevid_qwen.reducer import VisionQuery
from prunevid_qwen.stage2_select.glimpse import VIP, GlimpseVIP
from prunevid_qwen.stage2_select.glimpse.facts import GlimpseFacts
from prunevid_qwen.stage2_select.glimpse.glimpse import frames_of
from prunevid_qwen.tokens import TokenLayout
from prunevid_qwen.training.glimpse.batches import TrainingBatch

_EMBEDDING_SCALE = 0.02


class Trainee(nn.Module):
    """The VIP and what makes the glimpse vectors, by the names of the published checkpoints.

    A glimpse vector is dropout(RMSNorm(Linear(P_i))), P ~ N(0, 0.02), the projection Xavier-uniform without bias.

    Args:
        facts: which model it is for.
        dropout: share of a vector's channels dropped in training, in [0, 1).
        eps: of the norm, the language model's.
    """

    def __init__(self, facts: GlimpseFacts, dropout: float = 0.1, eps: float = 1e-6) -> None:
        super().__init__()
        self.facts, self.dropout = facts, dropout
        self.vip = VIP(facts.shape)
        width = facts.hidden_size
        self.learnable_embeddings = nn.Parameter(torch.randn(facts.layers, 1, width) * _EMBEDDING_SCALE)
        self.le_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.le_proj.weight)
        nn.init.zeros_(self.le_proj.bias)
        self.le_norm = nn.RMSNorm(width, eps=eps)

    def vectors(self, seeds: tuple[int, ...]) -> Tensor:
        """Make the glimpse vectors of some samples, [B, L, D]; in training each with dropout drawn from its seed."""
        own = self.le_norm(self.le_proj(self.learnable_embeddings[:, 0]))
        every: Tensor = own.expand(len(seeds), -1, -1)
        if not self.training or not self.dropout:
            return every
        drawn = [torch.rand(own.shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        stays = (torch.stack(drawn) >= self.dropout).to(every)
        return every * stays / (1 - self.dropout)

    @torch.no_grad()
    def to_predictor(self) -> GlimpseVIP:
        """Return what inference needs."""
        made = GlimpseVIP(self.facts)
        made.vip.load_state_dict(self.vip.state_dict())
        made.glimpse_vectors.copy_(self.le_norm(self.le_proj(self.learnable_embeddings[:, 0])))
        return made.eval().requires_grad_(False)


@dataclass(frozen=True, eq=False)
class TrainingOutcome:
    """What one forward gives.

    Args:
        lm: mean over samples of the mean cross-entropy of their answers' tokens, a scalar.
        logits: for each sample [N], the VIP's.
        masks: for each sample [N] bool, the tokens that matter.
    """

    lm: Tensor
    logits: tuple[Tensor, ...]
    masks: tuple[Tensor, ...]


class GlimpseTraining(nn.Module):
    """Runs batches through the frozen model and the trainee, which alone is a submodule.

    The prompt sees neither glimpse token nor answer, so it runs first and without gradients; glimpse token and answer
    follow on its cache. These are the published recipe's losses and gradients, and most of its backward pass is spared.

    Args:
        model: a stock model; its parameters are frozen here.
        trainee: what is trained.
    """

    def __init__(self, model: Any, trainee: Trainee) -> None:
        super().__init__()
        self.trainee = trainee
        self._adapter = adapter_for(model)
        self._frozen = (model.requires_grad_(False).eval(),)  # in a tuple, so that it is no submodule

    def forward(self, batch: TrainingBatch) -> TrainingOutcome:
        """Run one batch, which lies on the model's device."""
        adapter, inputs = self._adapter, batch.inputs
        positions, _ = adapter.reference_positions(
            inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            **{name: inputs.get(name) for name in ("image_grid_thw", "video_grid_thw", "second_per_grid_ts")},
        )
        places = [row.nonzero()[:, 0] for row in inputs["attention_mask"]]
        layouts, taps, cache = self._prompt(batch, positions, places)
        for layout, mask in zip(layouts, batch.masks, strict=True):
            if layout.visual.numel() != mask.numel():
                raise UnsupportedError(
                    f"the model shows its decoder {layout.visual.numel()} visual tokens of a picture in "
                    f"{len(layout.blocks)} grids, and the boxes are of one grid of {mask.numel()}: a predictor can be "
                    "trained for LLaVA-1.5 and Qwen-VL"
                )
        visual = [at[layout.visual.to(at.device)] for at, layout in zip(places, layouts, strict=True)]
        vectors = self.trainee.vectors(batch.seeds)
        token = _GlimpseToken(adapter, vectors, self.trainee.facts, cache, visual, places)
        lm = self._answers(batch, positions, cache, token)
        logits = [self._score(layout, token.logits[b], taps[b]) for b, layout in enumerate(layouts)]
        return TrainingOutcome(lm, tuple(logits), batch.masks)

    @torch.no_grad()
    def _prompt(
        self, batch: TrainingBatch, positions: Tensor, places: list[Tensor]
    ) -> tuple[list[TokenLayout], list[Tensor | None], Any]:
        """Run the prompts: layouts, taps of each row, [N, L, C], and the cache of all layers."""
        (model,), adapter, facts, shown = self._frozen, self._adapter, self.trainee.facts, VisionEvidence()
        cache, pictures = DynamicCache(config=adapter.parts.text_config), Pictures(adapter.pictures, adapter.noted)
        with ExitStack() as stack:
            stack.enter_context(pictures.watching(adapter.parts.root))
            stack.enter_context(watched_vision(adapter, VisionQuery(facts.selected_visual_layers, facts.vision_width)))
            stack.enter_context(shown.watching(adapter))
            held = {cache_parameter(model.model.forward): cache}
            model.model(**batch.inputs, position_ids=positions, use_cache=True, **held)
        rows = [ids[at].cpu() for ids, at in zip(batch.inputs["input_ids"], places, strict=True)]
        seen = pictures.deal([adapter.types(row) for row in rows])
        layouts = [
            _seen(adapter.layout(row, positions[..., b, at].cpu(), at.numel(), own))
            for b, (row, at, own) in enumerate(zip(rows, places, seen, strict=True))
        ]
        return layouts, shown.take(layouts), cache

    def _answers(self, batch: TrainingBatch, positions: Tensor, cache: DynamicCache, token: _GlimpseToken) -> Tensor:
        """Run [glimpse token, answer] behind the prompts: the answers' mean cross-entropy, all samples alike."""
        (model,), adapter = self._frozen, self._adapter
        answers = nn.utils.rnn.pad_sequence(list(batch.answers), batch_first=True)  # [B, A], padded on the right
        width = answers.shape[1]
        lengths = torch.tensor([each.numel() for each in batch.answers], device=answers.device)
        valid = torch.arange(1 + width, device=answers.device) <= lengths[:, None]
        embeds = adapter.parts.root.get_input_embeddings()(answers)
        following = positions[..., -1:] + 1 + torch.arange(1 + width, device=positions.device)
        with ExitStack() as stack:
            token.hook(stack)
            held = {cache_parameter(adapter.parts.decoder.forward): cache}
            hidden = adapter.parts.decoder(
                inputs_embeds=torch.cat([token.first(embeds), embeds], dim=1),
                attention_mask=torch.cat([batch.inputs["attention_mask"], valid.long()], dim=1),
                position_ids=following,
                use_cache=True,
                **held,
            ).last_hidden_state
        losses = [
            F.cross_entropy(model.lm_head(hidden[b, : answer.numel()]).float(), answer)
            for b, answer in enumerate(batch.answers)
        ]
        return torch.stack(losses).mean()

    def _score(self, layout: TokenLayout, attention: list[Tensor], taps: Tensor | None) -> Tensor:
        assert taps is not None
        read = torch.cat([part.T for part in attention], dim=1)  # [N, layers read * heads]
        _, rows, columns, images = frames_of(layout.to(read.device))
        scored: Tensor = self.trainee.vip(read, taps.transpose(0, 1), rows, columns, images)
        return scored


def _seen(layout: TokenLayout | None) -> TokenLayout:
    if layout is None:
        raise ConfigError("a sample without picture or video teaches the glimpse nothing: leave it out")
    return layout


class _GlimpseToken:
    """The first token behind each prompt: its vectors go in, its attention logits come out.

    Args:
        adapter: of the model.
        vectors: [B, L, D].
        facts: which layers' attention is read, and as what.
        cache: of the prompts.
        visual: for each row the places of its visual tokens in the padded prompt.
        places: for each row those of all its tokens.
    """

    def __init__(
        self, adapter: Any, vectors: Tensor, facts: GlimpseFacts, cache: DynamicCache, visual: list[Tensor],
        places: list[Tensor],
    ) -> None:  # fmt: skip
        self.adapter, self.vectors, self.layers = adapter, vectors, facts.selected_layers
        self.softmax, self.length = not facts.use_attention_logits, int(cache.get_seq_length())
        self.cache, self.visual, self.places = cache, visual, places
        self.logits: list[list[Tensor]] = [[] for _ in visual]  # [row][layer read] of [H, N]

    def first(self, like: Tensor) -> Tensor:
        """Return its input embeddings, [B, 1, D]."""
        return self.vectors[:, :1].to(like)

    def hook(self, stack: ExitStack) -> None:
        """Let layers add its vectors and say what it attends to, until the stack is closed."""
        parts = self.adapter.parts

        def add(layer: int) -> Any:
            def hook(_module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
                if args:
                    return (self._added(args[0], layer), *args[1:]), kwargs
                return args, {**kwargs, "hidden_states": self._added(kwargs["hidden_states"], layer)}

            return hook

        def look(layer: int) -> Any:
            def hook(_module: Any, args: Any, kwargs: dict[str, Any], _out: Any) -> None:
                hidden = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
                for b in range(len(self.visual)):
                    self.logits[b].append(self._look(layer, b, hidden[b, :1], kwargs["position_embeddings"]))

            return hook

        for layer in range(1, len(parts.layers)):
            stack.callback(parts.layers[layer].register_forward_pre_hook(add(layer), with_kwargs=True).remove)
        for layer in self.layers:
            stack.callback(parts.layers[layer].self_attn.register_forward_hook(look(layer), with_kwargs=True).remove)

    def _added(self, states: Tensor, layer: int) -> Tensor:
        """Add the layer's vectors to the first of [B, S, D]."""
        return torch.cat([states[:, :1] + self.vectors[:, layer, None].to(states), states[:, 1:]], dim=1)

    def _look(self, layer: int, b: int, hidden: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
        """Return what row ``b``'s glimpse token, [1, D] normed, makes of its visual tokens, [H, N] fp32."""
        cos, sin = (angle[..., b, :1, :] for angle in rope)
        q = self.adapter.question_states(layer, hidden, (cos, sin)).float()  # [H, 1, d]
        keys = self.cache.layers[layer].keys[b]
        k = keys.index_select(1, self.visual[b]).float()  # [Hkv, N, d]
        k = k.repeat_interleave(q.shape[0] // k.shape[0], dim=0)
        logits: Tensor = (q @ k.transpose(1, 2))[:, 0] * self.adapter.scale(layer)
        if not self.softmax:
            return logits
        before, own = keys.index_select(1, self.places[b]), keys[:, self.length : self.length + 1]
        return logits - row_sums(q, before, own, self.adapter.scale(layer))[:, 0]
