"""The class that lmms-eval makes, with just enough of lmms-eval around it. `make test-lmms` has the rest."""

from __future__ import annotations

import dataclasses
import importlib
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from prunevid_qwen import PrunedVLM, PruneVidConfig
from prunevid_qwen.errors import ConfigError, PruningNotApplied, SetupError, UnsupportedError
from prunevid_qwen.evaluation.store import read_lines
from tests.llava import save_llava
from tests.media import encode, frame
from tests.stock_folders import save_folder
from tests.test_lmms_chat import text, turn


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
    ours = "prunevid_qwen.evaluation.lmms_plugin.model"
    monkeypatch.delitem(sys.modules, ours, raising=False)
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
    given = {"min_pixels": 784, **given}
    given = {name: value for name, value in given.items() if value is not None}
    model = stubbed.module.PruneVidQwen(workers=0, device="cpu", **given)
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
    assert len(read_lines(tmp_path / "records" / "rank_0.jsonl")) == 9
    again = loaded(stubbed, docs)  # a second task of the same process writes behind the first
    assert len(list(model.generate_until([request(shown, 0, max_new_tokens=4)]))) == 1 and again.errors == []
    assert len(read_lines(tmp_path / "records" / "rank_0.jsonl")) == 10


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
    from prunevid_qwen.evaluation.engine.answering import Answerer

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
    assert model.cleaned and not hasattr(model, "_answerer")


# ---- families whose inputs the library's processor makes


def test_other_families_answer_as_the_package_does(stubbed: types.SimpleNamespace, clip: str, tmp_path: Path) -> None:
    folder, picture, asked = save_folder(tmp_path / "model", "llava_onevision"), frame(3), "what color is the circle ?"
    docs = [[turn({"type": "image", "url": Image.fromarray(picture)}, text(asked))]]
    docs += [[turn({"type": "video", "url": clip}, text(asked))]]
    model = loaded(stubbed, docs, pretrained=str(folder), min_pixels=None, frames=4, keep_ratio=0.5, pruning_layer=2)
    assert any("max_pixels" in said for said in stubbed.log)
    answers = [
        each.text for each in model.generate_until([request(lambda row: row, n, max_new_tokens=3) for n in (0, 1)])
    ]
    assert not model.errors
    alone = PrunedVLM(str(folder), PruneVidConfig(keep_ratio=0.5, pruning_layer=2, max_frames=4), device="cpu")
    for answer, shown in zip(answers, ({"images": picture}, {"video_path": clip}), strict=True):
        found = alone.generate(question=asked, max_new_tokens=3, do_sample=False, **shown)  # type: ignore[arg-type]
        assert answer.strip() == found["answer"]


def test_what_a_family_is_not_shown_or_does_not_heed_ends_the_run(
    stubbed: types.SimpleNamespace, clip: str, tmp_path: Path
) -> None:
    folder = save_llava(tmp_path / "model")
    with pytest.raises(ConfigError, match="min_pixels"):
        loaded(stubbed, [], pretrained=str(folder))
    model = loaded(stubbed, [[turn({"type": "video", "url": clip}, text())]], pretrained=str(folder), min_pixels=None)
    with pytest.raises(UnsupportedError, match="video"):
        list(model.generate_until([request(lambda row: row, 0)]))
