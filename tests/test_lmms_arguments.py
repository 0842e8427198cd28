"""The lmms-eval plug-in without lmms-eval: arguments, requests, the order of answers. `make test-lmms` has the rest."""

from __future__ import annotations

import dataclasses
import enum
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from prunevid_qwen.config import PruneVidConfig, get_config, option_types
from prunevid_qwen.errors import ConfigError, MediaError, PruningNotApplied, SetupError
from prunevid_qwen.evaluation.datasets.record import Media
from prunevid_qwen.evaluation.engine.reading import read_media
from prunevid_qwen.evaluation.lmms_eval_plugin.answers import TOGETHER, tasks_of
from prunevid_qwen.evaluation.lmms_eval_plugin.arguments import BY_PROTOCOL, KINDS, READING, placed, read_arguments
from prunevid_qwen.evaluation.lmms_eval_plugin.chat import ByRequest, ChatQuestion, HeldImage, chat_question
from prunevid_qwen.evaluation.lmms_eval_plugin.generation import LONGEST, Generation, read_generation
from prunevid_qwen.evaluation.protocol.presets import protocol_named
from prunevid_qwen.evaluation.protocol.protocol import Protocol
from prunevid_qwen.inputs.qwen.pixels import PixelOptions
from tests.media import encode, frame

PLAIN = Generation((("max_new_tokens", 4),))


# ---- arguments


def test_nothing_given_is_the_paper_under_lmms_evals_own_protocol() -> None:
    found = read_arguments({})
    assert found.pretrained == "bundled" and found.config == get_config("paper") and found.loading == {}
    assert found.protocol == protocol_named("lmms", "mvbench")
    assert (found.workers, found.system, found.prefill, found.max_new_tokens) == (1, None, "", None)


def test_every_option_is_an_argument_under_one_name() -> None:
    options = set(option_types()) - set(BY_PROTOCOL)
    assert options | set(READING) <= set(KINDS)
    assert {"verbose", "collect_stats"}.isdisjoint(KINDS)  # they say nothing of a run
    texts = {"dataset", "prompt", "subtitles", "max_new_tokens"}  # the task's
    assert {field.name for field in dataclasses.fields(Protocol)} - texts == set(READING)


@pytest.mark.parametrize(
    ("given", "option", "value"),
    [
        ({"keep_ratio": 0.2}, "keep_ratio", 0.2),
        ({"pruning_rate": 0.75}, "keep_ratio", 0.25),
        ({"config": "aggressive", "pruning_rate": 0.5}, "keep_ratio", 0.5),  # the rate replaces the preset's ratio
        ({"config": "aggressive", "tau": "0.7"}, "tau", 0.7),
        ({"enable_stage1": False}, "enable_stage1", False),
        ({"enable_stage1": "off"}, "enable_stage1", False),
        ({"enable_stage1": 0}, "enable_stage1", False),
        ({"pruning_layer": 3}, "pruning_layer", 3),
        ({"pruning_layer": 0.5}, "pruning_layer", 0.5),
        ({"config": "recommended", "pruning_layer": "None"}, "pruning_layer", None),
        ({"vision_chunk_tokens": "none"}, "vision_chunk_tokens", None),
        ({"vision_chunk_tokens": 1e3}, "vision_chunk_tokens", 1000),
        ({"selector": '"uniform"'}, "selector_name", "uniform"),
        ({"position_scheme": "hf"}, "position_scheme", "hf"),
    ],
)
def test_options_of_pruning(given: dict[str, Any], option: str, value: Any) -> None:
    assert getattr(read_arguments(given).config, option) == value


def test_choices_of_reading() -> None:
    given = {"sampler": "fps", "frames": 64, "min_frames": 4, "fps": 1, "min_pixels": 784, "max_pixels": 1568.0}
    found = read_arguments({**given, "total_pixels": "none", "seconds_per_grid": "range", "position_scheme": "hf"})
    assert found.protocol == protocol_named(
        "lmms", "mvbench", sampler="fps", frames=64, min_frames=4, fps=1.0, min_pixels=784, max_pixels=1568,
        total_pixels=None, seconds_per_grid="range", position_scheme="hf",
    )  # fmt: skip


def test_texts_lose_their_quotes_and_gain_line_breaks() -> None:
    found = read_arguments({"system": '"Watch, carefully.\\n"', "prefill": "Best option:(", "revision": 1234})
    assert found.system == "Watch, carefully.\n" and found.prefill == "Best option:("
    assert found.loading == {"revision": "1234"}
    assert read_arguments({"system": "none", "max_new_tokens": 7}).max_new_tokens == 7


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"keep_ration": 0.4}, "got 'keep_ration'; did you mean 'keep_ratio'"),
        ({"max_frames": 16}, "takes 'frames' for what you call 'max_frames'"),
        ({"video_sampling": "fps"}, "takes 'sampler'"),
        ({"model_path": "x"}, "takes 'pretrained'"),
        ({"config": "papr"}, "did you mean 'paper'"),
        ({"keep_ratio": "much"}, "keep_ratio is a number, got 'much'"),
        ({"frames": 16.5}, "frames is a whole number, got 16.5"),
        ({"frames": 15}, "frames is even"),
        ({"enable_stage1": "perhaps"}, "enable_stage1 is true or false, got 'perhaps'"),
        ({"enable_stage1": 2}, "enable_stage1 is true or false, got 2"),
        ({"keep_ratio": True}, "keep_ratio is a number, got True"),
        ({"revision": 1e5}, 'put it into quotes (revision="...")'),
        ({"workers": -1}, "workers is a whole number of at least 0"),
        ({"max_new_tokens": 0}, "max_new_tokens is a whole number of at least 1"),
        ({"keep_ratio": 0.4, "pruning_rate": 0.6}, "say the same thing twice"),
        ({"device": "cpu", "device_map": "auto"}, "device and device_map say the same thing twice"),
        ({"min_pixels": 1000000, "max_pixels": 784}, "max_pixels=784 is below min_pixels=1000000"),
    ],
)
def test_what_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        read_arguments(given)
    assert said in str(error.value)


def test_a_config_file_says_nothing_of_reading(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    PruneVidConfig(tau=0.5, max_frames=8).to_json(path)
    with pytest.raises(ConfigError, match=r"sets max_frames=8, but how media are read .* pass frames beside it"):
        read_arguments({"config": str(path)})
    PruneVidConfig(tau=0.5).to_json(path)
    assert read_arguments({"config": str(path), "keep_ratio": 0.3}).config == PruneVidConfig(tau=0.5, keep_ratio=0.3)


def test_each_process_has_a_device_of_its_own() -> None:
    assert placed({"device": "cuda:1"}, 1, "cuda") == {"device": "cuda:1"}
    assert placed({"device_map": "auto"}, 1, "cuda") == {"device_map": "auto"}
    assert placed({"dtype": "bfloat16"}, 8, "cuda:3") == {"dtype": "bfloat16", "device": "cuda:3"}
    assert placed({"device": "cuda"}, 8, "cuda:3") == {"device": "cuda:3"}
    for asked, own in (("cuda:0", "cuda:3"), ("cpu", "cuda:3"), ("cuda", "cpu")):
        with pytest.raises(ConfigError, match="in each of 8 processes"):
            placed({"device": asked}, 8, own)
    with pytest.raises(ConfigError, match="device_map='auto' spreads one model"):
        placed({"device_map": "auto"}, 8, "cuda:3")


# ---- generation arguments

MVBENCH = {
    "max_new_tokens": 16, "temperature": 0.0, "top_p": 1.0, "num_beams": 1, "do_sample": False, "until": ["\n\n"],
}  # fmt: skip


def test_what_mvbench_asks_for_is_greedy() -> None:
    found = read_generation(MVBENCH)
    assert dict(found.arguments) == {"max_new_tokens": 16, "num_beams": 1, "do_sample": False}
    assert found.until == ("\n\n",)
    assert dict(read_generation(MVBENCH, 3).arguments)["max_new_tokens"] == 3
    assert found == read_generation(dict(reversed(MVBENCH.items()))) and hash(found) == hash(read_generation(MVBENCH))


@pytest.mark.parametrize(
    ("given", "sampling"),
    [
        (None, {"do_sample": False}),
        ({"do_sample": True, "temperature": 0}, {"do_sample": False}),
        ({"do_sample": False, "temperature": 0.7}, {"do_sample": False}),
        ({"temperature": 0.2, "top_p": 0.9, "top_k": 5},
         {"do_sample": True, "temperature": 0.2, "top_p": 0.9, "top_k": 5}),
        ({"do_sample": True}, {"do_sample": True, "temperature": 1.0}),
        ({"num_beams": 3, "repetition_penalty": 1.2, "image_aspect_ratio": "original", "n": 1},
         {"num_beams": 3, "repetition_penalty": 1.2, "do_sample": False}),
        ({"max_gen_toks": 9}, {"max_new_tokens": 9, "do_sample": False}),
    ],
)  # fmt: skip
def test_what_else_tasks_ask_for(given: dict[str, Any] | None, sampling: dict[str, Any]) -> None:
    assert dict(read_generation(given).arguments) == {"max_new_tokens": LONGEST, "num_beams": 1, **sampling}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"temperatur": 1}, "did you mean 'temperature'"),
        ({"seed": 0}, "got 'seed'"),
        ({"n": 4}, "generation argument n is 1 here, got 4"),
        ({"temperature": -1}, "temperature is a number of at least 0"),
        ({"until": [3]}, "until is a text or a list of texts"),
        ({"max_new_tokens": 1.5}, "max_new_tokens is a whole number"),
    ],
)
def test_what_cannot_be_honoured_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read_generation(given)


@pytest.mark.parametrize(
    ("until", "text", "cut"),
    [
        ("\n\n", "C\n\nbecause", "C"),
        (["x", "b"], "abcx", "a"),  # the first in the text, not in the list
        (["", "z"], "abc", "abc"),
        (None, "abc", "abc"),
        ("a", "abc", ""),
    ],
)
def test_until_cuts(until: Any, text: str, cut: str) -> None:
    assert read_generation({"until": until}).cut(text) == cut


# ---- messages


def turn(*content: dict[str, Any], role: str = "user") -> dict[str, Any]:
    return {"role": role, "content": list(content)}


def text(said: str = "What?") -> dict[str, Any]:
    return {"type": "text", "text": said}


def test_messages_become_media_and_a_question(tmp_path: Path) -> None:
    (tmp_path / "frames").mkdir()
    picture = Image.fromarray(frame(3))
    asked = chat_question(
        "task/7",
        PLAIN,
        [
            turn(text("Be brief."), role="system"),
            turn(
                {"type": "video", "url": "a.mp4", "start_time": 1.5, "end_time": 2.0},
                {"type": "video", "url": str(tmp_path / "frames")},
                {"type": "video", "url": {"path": "file:///b.mp4", "video_start": 3, "video_end": 4}},
                text("{0} <image>"),
                {"type": "image", "url": "c.png"},
                {"type": "image", "url": picture},
            ),
        ],
        None,
        "",
    )
    held = asked.media[4]
    assert asked.media[:4] == (
        Media("video", "a.mp4", 1.5, 2.0),
        Media("frames", str(tmp_path / "frames")),
        Media("video", "/b.mp4", 3, 4),
        Media("image", "c.png"),
    )
    assert isinstance(held, HeldImage) and held.path == "task/7, image 4"
    assert held.image is not None and np.array_equal(held.image, frame(3))
    items = [{"type": "video", "video": number} for number in range(5)]
    assert asked.messages(items, ()) == [
        {"role": "system", "content": [text("Be brief.")]},
        {"role": "user", "content": [items[0], items[1], items[2], text("{0} <image>"), items[3], items[4]]},
    ]


def test_system_and_prefill_are_ours() -> None:
    given = [turn(text("Theirs."), role="system"), turn(text())]
    assert chat_question("a", PLAIN, given, "Ours.", "(").turns == (
        ("system", ("Ours.",)), ("user", ("What?",)), ("assistant", ("(",)),
    )  # fmt: skip
    assert chat_question("a", PLAIN, given, None, "").turns == (("system", ("Theirs.",)), ("user", ("What?",)))
    with pytest.raises(ConfigError, match="begins the assistant's answer itself"):
        chat_question("a", PLAIN, [turn(text()), turn(text("It"), role="assistant")], None, "(")


@pytest.mark.parametrize(
    ("item", "error", "said"),
    [
        ({"type": "audio", "url": "a.wav"}, ConfigError, "content of type 'audio'"),
        ({"type": "video", "url": "https://example.org/a.mp4"}, MediaError, "nothing is downloaded"),
        ({"type": "image", "url": "data:image/png;base64,AAAA"}, MediaError, "no image"),
        ({"type": "text", "text": None}, ConfigError, "text"),
        ({"type": "video", "url": [frame(1)]}, MediaError, "is a path, got list"),
        ({"type": "image", "url": 3}, MediaError, "got int"),
        ({"type": "video", "url": "a.mp4", "fps": 2}, ConfigError, "'fps'"),
        ({"type": "image", "url": "a.png", "max_pixels": 784}, ConfigError, "'max_pixels'"),
        ({"type": "video", "url": {"path": "a.mp4", "nframes": 2}}, ConfigError, "'nframes'"),
        ({"type": "text", "text": "What?", "cache_control": {}}, ConfigError, "'cache_control'"),
        ("What?", ConfigError, "What?"),
    ],
)
def test_content_that_cannot_be_asked(item: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error) as raised:
        chat_question("a", PLAIN, [turn(item, text())], None, "")
    assert said in str(raised.value)


def test_none_says_nothing_in_a_description_of_a_video_either() -> None:
    none = dict.fromkeys(("video_start", "video_end", "video", "fps"))
    item = {"type": "video", "url": {"path": "a.mp4", **none}, "start_time": 1.0, "end_time": 2.0, "text": None}
    assert chat_question("a", PLAIN, [turn(item, text())], None, "").media == (Media("video", "a.mp4", 1.0, 2.0),)


@pytest.mark.parametrize("message", ["What?", {"content": "What?"}, {"role": None, "content": "What?"}])
def test_what_is_no_message(message: Any) -> None:
    with pytest.raises(ConfigError, match="role"):
        chat_question("a", PLAIN, [message], None, "")


def test_what_was_done_to_the_colours_of_a_held_image_is_said() -> None:
    item = {"type": "image", "url": Image.new("RGBA", (56, 56))}
    [held] = chat_question("a", PLAIN, [turn(item, text())], None, "").media
    facts = ByRequest(protocol_named("lmms", "mvbench"), PixelOptions(), PixelOptions()).read(held).facts
    assert len(facts["warnings"]) == 1 and "white" in facts["warnings"][0]


@pytest.mark.parametrize("content", [None, 3])
def test_a_message_of_the_user_without_content(content: Any) -> None:
    silent = {"role": "assistant", "content": None}  # it called a tool
    assert chat_question("a", PLAIN, [turn(text()), silent, turn(text())], None, "").turns[1] == ("assistant", ())
    with pytest.raises(ConfigError, match="content"):
        chat_question("a", PLAIN, [{"role": "user", "content": content}], None, "")


def test_any_fault_of_a_file_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reading = ByRequest(protocol_named("lmms", "mvbench"), PixelOptions(), PixelOptions())
    held = HeldImage("image", "task/1, image 0", image=frame(5))
    found = reading.read(held)
    assert found.frames.shape[0] == 1 and found.frames.shape[1] * found.frames.shape[2] >= 256 * 784
    missing = read_media(reading, (Media("video", str(tmp_path / "gone.mp4")),))
    assert missing.error is not None and "gone.mp4" in missing.error
    monkeypatch.setattr("prunevid_qwen.evaluation.lmms_eval_plugin.chat.fitted_frame", lambda *_: 1 / 0)
    broken = read_media(reading, (dataclasses.replace(held, path="task/2, image 0"),))
    assert broken.error == "task/2, image 0 cannot be read: ZeroDivisionError: division by zero"


def test_the_pyav_that_lmms_eval_wants_says_flags_that_are_no_numbers() -> None:
    from prunevid_qwen.video.streams import _is_picture as _is_picture

    flags = enum.Flag("Disposition", {"default": 1, "attached_pic": 0x400})  # PyAV 13 to 15
    for disposition in (flags["attached_pic"], 0x400, 0x401):
        assert _is_picture(types.SimpleNamespace(disposition=disposition))
    for stream in (types.SimpleNamespace(disposition=flags["default"]), types.SimpleNamespace()):
        assert not _is_picture(stream)


def test_neighbours_about_one_video_are_one_task() -> None:
    def question(number: int, path: str, generation: Generation = PLAIN, error: str | None = None) -> ChatQuestion:
        return ChatQuestion(str(number), generation, media=(Media("video", path),), error=error)

    other = Generation((("max_new_tokens", 5),))
    asked = [question(0, "a"), question(1, "a"), question(2, "b"), question(3, "a"), question(4, "a", other)]
    asked += [question(5, "a", other, "gone"), *(question(6 + number, "c") for number in range(TOGETHER + 1))]
    found = [[each.id for each, _ in task.questions] for task in tasks_of(iter(asked))]
    long = [str(6 + number) for number in range(TOGETHER)]
    assert found == [["0", "1"], ["2"], ["3"], ["4"], ["5"], long, [str(6 + TOGETHER)]]


# ---- the class, with just enough of lmms-eval around it


@dataclasses.dataclass
class Request:
    args: tuple[Any, ...]
    metadata: dict[str, Any] | None = None


@dataclasses.dataclass
class Result:
    text: str
    token_counts: Any = None


class Base:
    def __init__(self) -> None:
        self._rank, self._world_size, self.task_dict = 0, 1, {}

    def clean(self) -> None:
        self.cleaned = True


class Log(list[str]):
    def opt(self, **_: Any) -> Log:
        return self

    error = info = warning = list.append


@pytest.fixture
def stubbed(monkeypatch: pytest.MonkeyPatch) -> Iterator[types.SimpleNamespace]:
    metrics: list[tuple[Any, ...]] = []
    counts = dataclasses.make_dataclass("TokenCounts", ["input_tokens", "output_tokens"])
    found = types.SimpleNamespace(metrics=metrics, log=Log(), processes=1, rank=0)
    contents: dict[str, dict[str, Any]] = {
        "lmms_eval": {},
        "lmms_eval.api": {},
        "lmms_eval.api.instance": {"GenerationResult": Result, "Instance": Request, "TokenCounts": counts},
        "lmms_eval.api.model": {"lmms": Base},
        "lmms_eval.models": {},
        "lmms_eval.models.model_utils": {},
        "lmms_eval.models.model_utils.gen_metrics": {"log_metrics": lambda *given: metrics.append(given)},
        "loguru": {"logger": found.log},
    }
    for name, content in contents.items():
        module = types.ModuleType(name)
        module.__dict__.update(content)
        monkeypatch.setitem(sys.modules, name, module)
    ours = "prunevid_qwen.evaluation.lmms_eval_plugin.model"
    monkeypatch.delitem(sys.modules, ours, raising=False)
    import importlib

    found.module = importlib.import_module(ours)
    monkeypatch.setattr(
        found.module,
        "Accelerator",
        lambda: types.SimpleNamespace(num_processes=found.processes, process_index=found.rank, device="cpu"),
    )
    yield found
    sys.modules.pop(ours, None)


def request(doc: Any, number: int = 0, padding: bool = False, **generation: Any) -> Request:
    messages: Callable[[Any], Any] = doc if callable(doc) else lambda row: row
    return Request(("", messages, generation, number, "task", "test"), {"__padding_only__": True} if padding else {})


def loaded(stubbed: types.SimpleNamespace, docs: list[Any], **given: Any) -> Any:
    model = stubbed.module.PruneVidQwen(workers=0, device="cpu", min_pixels=784, **given)
    model.task_dict = {"task": {"test": docs}}
    return model


@pytest.fixture
def clip(tmp_path: Path) -> str:
    return str(encode(tmp_path / "clip.mp4", frames=4, options={"preset": "ultrafast"}))


def test_answers_come_lazily_and_in_order_whatever_goes_wrong(
    stubbed: types.SimpleNamespace, clip: str, tmp_path: Path
) -> None:
    taken: list[int] = []

    def shown(row: Any) -> Any:
        taken.append(row["number"])
        if row.get("exit"):
            sys.exit("video path: gone.mp4 does not exist")
        return [turn({"type": "video", "url": row.get("video", clip)}, text(row.get("question", "what color ?")))]

    docs = [{"number": number} for number in range(9)]
    docs[1]["exit"] = docs[2]["video"] = str(tmp_path / "gone.mp4")  # type: ignore[assignment]
    docs[3]["question"] = "<|video_pad|> ?"  # type: ignore[assignment]  # a placeholder too many: refused while asking
    model = loaded(stubbed, docs, records=str(tmp_path / "records"), config="conservative")
    requests = [request(shown, number, max_new_tokens=4) for number in range(9)]
    answers = model.generate_until([*requests, request(shown, 8, padding=True)])
    assert not isinstance(answers, list) and taken == []
    first = next(answers)
    assert first.text and first.token_counts.output_tokens >= 1 and first.token_counts.input_tokens > 10
    rest = [each.text for each in answers]
    assert rest[:3] == ["", "", ""] and rest[-1] == "" and rest[3:-1] == [first.text] * 5
    assert taken == list(range(9)) and not stubbed.metrics[1:]
    seconds, tokens, speed, more = stubbed.metrics[0]
    assert tokens == 6 * first.token_counts.output_tokens and speed == pytest.approx(tokens / seconds)
    assert more["errors"] == 3 and more["total_requests"] == 9 and 0 < more["kept_ratio"] < 1
    reasons = ("video path: gone.mp4 does not exist", "gone.mp4", "the prompt has placeholders for")
    assert [reason in said for reason, said in zip(reasons, model.errors, strict=True)] == [True] * 3
    assert any("3 of 9 requests have no answer" in said for said in stubbed.log)
    assert len((tmp_path / "records" / "rank_0.jsonl").read_text().splitlines()) == 9


def test_figures_are_told_before_the_last_answer_is_taken(stubbed: types.SimpleNamespace, clip: str) -> None:
    model = loaded(stubbed, [[turn({"type": "video", "url": clip}, text())]])
    answers = model.generate_until([request(lambda row: row, 0), request(lambda row: row, 0)])
    next(answers)
    assert stubbed.metrics == []
    next(answers)
    assert len(stubbed.metrics) == 1  # lmms-eval's cache never asks for a third


def test_text_alone_images_and_beams(stubbed: types.SimpleNamespace) -> None:
    picture = Image.fromarray(frame(3))
    docs = [[turn(text("what color is a white circle ?"))], [turn({"type": "image", "url": picture}, text())]]
    model = loaded(stubbed, docs, prefill="(", system="you are helpful")
    requests = [request(lambda row: row, 0, num_beams=2, max_new_tokens=3), request(lambda row: row, 1, until="e")]
    answers = list(model.generate_until(requests))
    assert not model.errors and all("e" not in each.text for each in answers[1:])


def test_pruning_that_did_not_happen_ends_the_run(
    stubbed: types.SimpleNamespace, clip: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prunevid_qwen.evaluation.engine.asking import Answerer

    def fail(*_: Any) -> Any:
        raise PruningNotApplied("stage 2 was asked for")

    monkeypatch.setattr(Answerer, "_ask", fail)
    docs = [[turn({"type": "video", "url": clip}, text())]]
    with pytest.raises(PruningNotApplied):
        list(loaded(stubbed, docs).generate_until([request(lambda row: row)]))
    model = loaded(stubbed, docs)
    model._world_size = 2  # the others would wait for a rank whose exception lmms-eval catches
    with pytest.raises(SystemExit) as error:
        list(model.generate_until([request(lambda row: row)]))
    assert error.value.code == 5


def test_the_toy_never_answers_unsaid(stubbed: types.SimpleNamespace) -> None:
    loaded(stubbed, [])
    assert [said for said in stubbed.log if "bundled model answers, which knows moving shapes" in said]
    stubbed.log.clear()
    loaded(stubbed, [], pretrained="bundled")
    assert stubbed.log == []


def test_what_the_class_refuses(stubbed: types.SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="did you mean 'keep_ratio'"):
        stubbed.module.PruneVidQwen(keep_ratios=0.2)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SetupError, match=r"2 processes were started, accelerate sees 1: .* ACCELERATE_USE_CPU=true"):
        stubbed.module.PruneVidQwen()
    stubbed.processes, stubbed.rank = 2, 1
    model = loaded(stubbed, [], batch_size=4)
    assert (model._rank, model._world_size, str(model.device)) == (1, 2, "cpu")
    with pytest.raises(ConfigError, match="got 'seed'"):  # before any answer
        model.generate_until([request(lambda row: row, 0, seed=1)])
    for name in ("loglikelihood", "generate_until_multi_round"):
        with pytest.raises(NotImplementedError, match="generate_until"):
            getattr(model, name)([])
    model.clean()
    assert model.cleaned and not hasattr(model, "_answers")
