"""README and the pages of docs/ are true: their Python blocks run, their commands parse, their links lead somewhere."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from prunevid_qwen.cli import main
from tests.shapes_benchmark import shapes_mvbench

ROOT = Path(__file__).resolve().parent.parent
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in
         [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]}  # fmt: skip

# what stands in for a model of 16 GB and a GPU
HERE = {
    '"Qwen/Qwen2.5-VL-7B-Instruct"': '"bundled"',
    'device="cuda"': 'device="cpu"',
    'device_map="auto", dtype="bfloat16"': 'device_map="cpu", dtype="float32"',
    "max_new_tokens=512": "max_new_tokens=8",
}
KINDS = {"python", "bash", "json", "text", "yaml"}


def blocks(page: str, kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", PAGES[page], re.DOTALL)


def commands(page: str) -> list[list[str]]:
    """The words of each `prunevid` command; a backslash at a line's end joins lines, `...` stands for earlier words."""
    lines = [line for block in blocks(page, "bash") for line in block.replace("\\\n", " ").splitlines()]
    parsed = [shlex.split(line, comments=True) for line in lines]
    return [words for words in parsed if words and words[0] == "prunevid" and "..." not in words]


_SERVER = "http://127.0.0.1:8000/v1"


@contextlib.contextmanager
def _server() -> Iterator[str]:
    """As `make serve`."""
    from prunevid_qwen import PrunedVLM
    from tests.serving import engine, running

    with running(engine(PrunedVLM("bundled"))) as server:
        yield server.url


WITH_PYTHON = [page for page in PAGES if blocks(page, "python")]
COMMANDS = [(page, words) for page in PAGES for words in commands(page)]


@pytest.fixture
def here(registry: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    clips = ROOT / "prunevid_qwen" / "bundled" / "clips"
    for name in ("video.mp4", "other.mp4", "clip.mp4", "clips/a.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(clips / "late_square.mp4", name)
    for name in ("photo.jpg", "a.jpg", "b.jpg"):
        Image.new("RGB", (112, 112), "gray").save(name)
    assert main(["new-method", "mine"]) == 0
    (tmp_path / "questions.jsonl").write_text('{"video": "clips/a.mp4", "question": "What is added last?"}\n')
    return tmp_path


def test_every_block_is_of_a_kind_that_is_tested() -> None:
    found = {kind for text in PAGES.values() for kind in re.findall(r"^```(\w*)\n.*?^```$", text, re.DOTALL | re.M)}
    assert found <= KINDS


@pytest.mark.parametrize("page", WITH_PYTHON)
def test_python_blocks_run_in_the_order_of_the_page(page: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    served = contextlib.ExitStack()
    url = served.enter_context(_server()) if _SERVER in PAGES[page] and "OpenAI(" in PAGES[page] else _SERVER
    if "PruneVidQwen25VL(" not in PAGES[page]:
        exec('from prunevid_qwen import PruneVidQwen25VL\nmodel = PruneVidQwen25VL("bundled")', names)
    with served:
        for number, block in enumerate(blocks(page, "python"), 1):
            for theirs, ours in HERE.items():
                block = block.replace(theirs, ours)
            block = block.replace(_SERVER, url)
            exec(compile(block, f"{page}, block {number}", "exec"), names)
    if page == "README.md":  # the three lines that ask the server
        assert "content='green'" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("page", "words"), COMMANDS, ids=lambda value: " ".join(value) if isinstance(value, list) else value
)
def test_commands_parse(page: str, words: list[str], here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--help` behind them is answered only after all other words were understood."""
    assert main([*words[1:], "--help"]) == 0, capsys.readouterr().err


@pytest.mark.parametrize("page", PAGES)
def test_json_blocks_are_json(page: str) -> None:
    for block in blocks(page, "json"):
        for line in block.splitlines():
            json.loads(line)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    folder = (ROOT / page).parent
    for link in re.findall(r"\]\(([^)\s]+)\)", PAGES[page]) + re.findall(r'(?:src|srcset)="([^"]+)"', PAGES[page]):
        name, _, anchor = link.partition("#")
        if "://" in link:
            continue
        target = folder / name if name else ROOT / page
        assert target.exists(), link
        if anchor and target.suffix == ".md":
            heads = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.M)
            assert anchor in {_anchor(head) for head in heads}, link


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for page, text in PAGES.items():
        for target in re.findall(r"(?:^|`)make ([a-z][a-z-]+)", text, re.M):
            assert f"\n{target}:" in makefile, (page, target)


def test_ours_in_coming_from_is_python_and_commands(here: Path) -> None:
    import prunevid_qwen

    names = {
        name: getattr(prunevid_qwen, name) for name in prunevid_qwen.__all__ if "Config" in name or "config" in name
    }
    rows = [row.split(" | ") for row in PAGES["docs/coming_from.md"].splitlines() if row.startswith("| ")][1:]
    ran = 0
    for _, _, ours in rows:
        for code in re.findall(r"`([^`]+)`", ours):
            if code.startswith("prunevid "):
                assert main([*shlex.split(code)[1:], "--help"]) == 0
            elif "(" in code:
                eval(code, dict(names))
            else:
                continue
            ran += 1
    assert ran >= 10


def test_a_newcomer_gets_to_a_table_in_three_commands(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The quickstart's own words, with MVBench's folder in miniature and the bundled model."""
    shapes_mvbench(here / "DATA")
    check, run = (words for words in commands("docs/quickstart.md") if words[1] == "eval")
    run[run.index("Qwen/Qwen2.5-VL-7B-Instruct")] = "bundled"
    run += ["--min_pixels", "784", "--max_pixels", "3136", "--frames", "8"]  # seconds, not a minute
    assert main(check[1:]) in (0, 4)  # a set of three tasks
    assert main(run[1:]) == 0
    said = capsys.readouterr()
    assert "20/36" in said.out and "answering" in said.err


def _anchor(head: str) -> str:
    return re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-")
