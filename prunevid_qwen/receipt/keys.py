"""The keys of a receipt: `result["stats"]` of one answer. docs/receipt.md is made from this file.

Keys are added and never renamed. A receipt without "schema" is of 0.1: it lacks "schema", "steps", "plan" and
"methods", and may lack what else came later.
"""

from __future__ import annotations

from typing import Annotated, Any, TypedDict

from prunevid_qwen.receipt.session_keys import Key as Key
from prunevid_qwen.receipt.session_keys import LookedAt as LookedAt
from prunevid_qwen.receipt.session_keys import Session as Session
from prunevid_qwen.receipt.session_keys import VideoCacheFacts as VideoCacheFacts

SCHEMA = 2
"""What ``stats["schema"]`` is. It grows when a key changes its meaning, not when one is added."""


class _Shown(TypedDict):
    source: Annotated[str, Key("path, address, or type of what was passed")]
    size: Annotated[list[int], Key("height and width as stored", "pixels")]
    resized: Annotated[list[int], Key("height and width as the vision encoder saw it", "pixels")]
    grid: Annotated[
        list[int], Key("temporal positions, rows and columns; of an image in tiles those of the whole", "visual tokens")
    ]
    warnings: Annotated[list[str], Key("of reading it")]


class Image(_Shown, total=False):
    """An image that was shown."""

    square: Annotated[
        list[int], Key("only of an image that was padded to a square: its top and left in it, and its side", "pixels")
    ]


class Video(_Shown):
    """A video that was shown."""

    backend: Annotated[str, Key("which library read it")]
    frames: Annotated[int, Key("that the model saw", "frames")]
    padded: Annotated[int, Key("of these, repetitions of the last one that fill a temporal position", "frames")]
    timestamps: Annotated[list[float], Key("when each frame is shown", "seconds")]
    seconds_per_grid: Annotated[float, Key("between temporal positions", "seconds")]
    duration: Annotated[float | None, Key("of the whole video, where it is known", "seconds")]


class Input(TypedDict):
    """What was shown and asked."""

    videos: Annotated[list[Video], Key("in order")]
    images: Annotated[list[Image], Key("in order")]
    prompt_tokens: Annotated[int, Key("of the prompt, text and visual, before stage 1", "tokens")]
    cached_tokens: Annotated[int, Key("of the prompt that a cache of earlier turns held", "tokens")]


class Stage1(TypedDict):
    """Stage 1: the step at the decoder's door."""

    enabled: Annotated[bool, Key("it was asked for")]
    applied: Annotated[bool, Key("fewer tokens left it than came")]
    note: Annotated[str | None, Key("why nothing changed though it was asked for")]
    merger: Annotated[str | None, Key("the method")]
    tau: Annotated[float | None, Key("its threshold of similarity, if it has one", "cosine")]
    original_tokens: Annotated[int, Key("that came", "visual tokens")]
    compressed_tokens: Annotated[int, Key("that were left", "visual tokens")]
    static_ratio: Annotated[float, Key("of the tokens that came: those merged over time", "share")]
    requested_ratio: Annotated[float | None, Key("asked for; None: a count, or the method has no such option", "share")]
    requested_tokens: Annotated[int | None, Key("asked for, of each video and image", "visual tokens")]
    achieved_ratio: Annotated[float, Key("left of what came", "share")]
    reduction_percentage: Annotated[float, Key("gone of what came", "per cent")]


class Stage2(TypedDict):
    """Stage 2: the last step between the layers. All of them stand under ``steps``."""

    enabled: Annotated[bool, Key("it was asked for")]
    applied: Annotated[bool, Key("fewer tokens left it than came")]
    note: Annotated[str | None, Key("why nothing changed though it was asked for")]
    selector: Annotated[str | None, Key("the method")]
    layer: Annotated[int | None, Key("after which it stands, from 0")]
    original_tokens: Annotated[int, Key("that came", "visual tokens")]
    kept_tokens: Annotated[int, Key("that were left", "visual tokens")]
    compressed_tokens: Annotated[int, Key("the same under stage 1's name", "visual tokens")]
    requested_ratio: Annotated[
        float | None,
        Key("asked for; None: a count, an average over layers, a schedule, or what is seen decides", "share"),
    ]
    requested_tokens: Annotated[int | None, Key("asked for, of each video and image", "visual tokens")]
    threshold: Annotated[float | None, Key("above which tokens are kept, where that decides", "probability")]
    max_ratio: Annotated[float | None, Key("that the threshold may keep at most", "share")]
    achieved_ratio: Annotated[float, Key("left of what came", "share")]


class Stage3(TypedDict):
    """Stage 3: the cache after the prompt."""

    enabled: Annotated[bool, Key("it was asked for")]
    applied: Annotated[bool, Key("entries were taken out of the layers before a step")]
    partial: Annotated[bool, Key("applied, but not to layers of linear attention: their states keep what was dropped")]
    note: Annotated[str | None, Key("why nothing changed though it was asked for")]
    original_length: Annotated[int, Key("of each layer without pruning", "entries")]
    compressed_length: Annotated[int, Key("of the first layer that holds entries", "entries")]
    reduction_ratio: Annotated[float, Key("gone of all layers' entries", "share")]
    cache_lengths: Annotated[list[int], Key("of each layer, padding left out", "entries")]
    cache_bytes: Annotated[int, Key("of keys and values", "bytes")]
    cache_bytes_unpruned: Annotated[int, Key("of keys and values without pruning", "bytes")]


class StepRow(TypedDict):
    """One step that acted, in order."""

    name: Annotated[str, Key("of its method")]
    where: Annotated[str, Key('"door", or "layer M": on whose output it acted')]
    tokens_in: Annotated[int, Key("that came", "visual tokens")]
    tokens_out: Annotated[int, Key("that were left", "visual tokens")]
    frames_dropped: Annotated[int, Key("of videos, left without a token, whose text went too", "frames")]
    text_dropped: Annotated[int, Key("with them: their timestamps and brackets (drop_empty_frames)", "tokens")]
    seconds: Annotated[float, Key("its evidence, its decision and the cache, of the whole batch", "seconds")]


class Tokens(TypedDict):
    """Visual tokens of this prompt."""

    visual: Annotated[int, Key("before any step", "visual tokens")]
    after_stage1: Annotated[int, Key("that entered the decoder", "visual tokens")]
    after_stage2: Annotated[int, Key("after the last step", "visual tokens")]
    layer_average: Annotated[float, Key("that a layer saw, the mean over layers", "visual tokens")]


class Seconds(TypedDict):
    """Where the time went: of the whole batch."""

    read: Annotated[float, Key("reading and resizing, as far as the vision encoder waited for it", "seconds")]
    vision: Annotated[float, Key("the vision encoder", "seconds")]
    merge: Annotated[float, Key("the step at the door", "seconds")]
    select: Annotated[float, Key("the steps between the layers", "seconds")]
    compact: Annotated[float, Key("cutting the cache", "seconds")]
    prefill: Annotated[float, Key("the decoder over the prompt, without these three", "seconds")]
    first_token: Annotated[float, Key("the sum of all above", "seconds")]
    decode_per_token: Annotated[float, Key("the mean over decoding steps", "seconds")]
    decode: Annotated[float, Key("all decoding steps", "seconds")]
    total: Annotated[float, Key("the whole call", "seconds")]
    rows_in_batch: Annotated[int, Key("prompts, or beams, that ran together", "rows")]


class Method(TypedDict):
    """The method of a stage."""

    name: Annotated[str, Key("as it is registered")]
    options: Annotated[dict[str, Any], Key("all that it has, by its own names")]


class Methods(TypedDict):
    """The methods of a config; options that none of them has stand in ``config`` alone, and nothing read them."""

    merger: Annotated[Method | None, Key("stage 1; None where it was off")]
    selector: Annotated[Method | None, Key("stage 2; None where it was off")]


class PlanStep(TypedDict):
    """One step of a plan."""

    name: Annotated[str, Key("of its method")]
    at: Annotated[int, Key("on whose output it acts, from 0; -1 is the decoder's door")]
    options: Annotated[dict[str, Any] | None, Key("of its method; None where it has none that can be read")]


class VisionFacts(TypedDict):
    """The vision encoder's work, where places of a video may be copies."""

    units: Annotated[int, Key("of this prompt's videos", "visual tokens")]
    encoded: Annotated[int | None, Key("of these, encoded to the end; the others are copies", "visual tokens")]
    share: Annotated[
        float | None, Key("of the units that a block of the encoder ran on, the mean over its blocks", "share")
    ]
    reuse_threshold: Annotated[float | None, Key("asked for", "grey levels")]
    early_tau: Annotated[float | None, Key("asked for", "cosine")]
    early_block: Annotated[int | float | None, Key("asked for: an index from 0, or a share of the depth")]
    seconds: Annotated[float, Key("of the encoder, of the whole batch", "seconds")]
    note: Annotated[str | None, Key("why there are no copies, or why that is unknown")]


class PlanFacts(TypedDict):
    """A plan that was asked for."""

    steps: Annotated[list[PlanStep], Key("in order")]
    compress: Annotated[bool, Key("stage 3")]
    places: Annotated[str, Key('"kept" or "packed": the positions of what is left')]
    vision_chunk_tokens: Annotated[int | None, Key("that the vision encoder takes at once", "visual tokens")]
    drop_empty_frames: Annotated[bool, Key("frames without a token lose their text")]
    vision: Annotated[dict[str, Any], Key("options that save work of the vision encoder, see `VisionOptions`")]


class Versions(TypedDict):
    """What an answer depends on."""

    prunevid_qwen: Annotated[str, Key("version")]
    transformers: Annotated[str, Key("version")]
    torch: Annotated[str, Key("version")]
    python: Annotated[str, Key("version")]


class _Asked(TypedDict, total=False):
    vision: Annotated[VisionFacts, Key("the vision encoder's work; there where copies were asked for")]
    video_cache: Annotated[VideoCacheFacts, Key("the cache of encoded videos; there where video_cache_bytes was set")]
    session: Annotated[Session, Key("what an open video saved; there where `PrunedVLM.open` was used")]
    looked_at: Annotated[
        list[LookedAt],
        Key("of each video, when the question looked; there where a step between the layers read its attention"),
    ]


class Receipt(_Asked):
    """The receipt of one answer."""

    schema: Annotated[int, Key(f"of this list: {SCHEMA}; receipts of 0.1 have none")]
    input: Annotated[Input, Key("what was shown and asked")]
    stage1: Annotated[Stage1, Key("the step at the decoder's door")]
    stage2: Annotated[Stage2, Key("the last step between the layers")]
    stage3: Annotated[Stage3, Key("the cache")]
    steps: Annotated[list[StepRow], Key("every step that acted")]
    warnings: Annotated[list[str], Key("after which stages hardly any visual tokens were left")]
    tokens: Annotated[Tokens, Key("visual tokens at each stage")]
    seconds: Annotated[Seconds, Key("where the time went")]
    generated_tokens: Annotated[int, Key("of the answer", "tokens")]
    position_scheme: Annotated[str, Key('"reference" or "hf"')]
    config: Annotated[
        dict[str, Any] | None,
        Key(
            "every option by its flat name; the default of one that the chosen methods lack. What has no flat name "
            "stands by its full name, such as selector.layers; where both stand it holds. None under a plan"
        ),
    ]
    methods: Annotated[Methods | None, Key("the config's methods and their own options; None under a plan")]
    plan: Annotated[PlanFacts | None, Key("the plan, where one was given instead of a config")]
    versions: Annotated[Versions, Key("what the answer depends on")]
    model: Annotated[str, Key("hub id, folder, or class of the model")]
    device: Annotated[str, Key("where the prompt was put")]
    dtype: Annotated[str, Key("of the weights")]
    attn_implementation: Annotated[str, Key("of the decoder")]


TABLES = (
    Receipt,
    Input,
    Image,
    Video,
    Stage1,
    Stage2,
    Stage3,
    StepRow,
    Tokens,
    Seconds,
    VisionFacts,
    Session,
    VideoCacheFacts,
    LookedAt,
    Methods,
    Method,
    PlanFacts,
    PlanStep,
    Versions,
)
"""Every table, in the order of the page."""
