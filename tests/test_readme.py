"""The README is true: its Python blocks run on the bundled model, its options exist."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from prunevid_qwen.cli import main
from tests.shapes_benchmark import shapes_mvbench

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL) for line in block.splitlines()]

# what stands in for a model of 16 GB and a GPU
HERE = {
    '"Qwen/Qwen2.5-VL-7B-Instruct"': '"bundled"',
    'device="cuda"': 'device="cpu"',
    "max_new_tokens=512": "max_new_tokens=8",
}


def test_python_blocks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    clips = ROOT / "prunevid_qwen" / "bundled" / "clips"
    shutil.copy(next(clips.glob("*.mp4")), "video.mp4")
    for name in ("a.jpg", "b.jpg"):
        Image.new("RGB", (112, 112), "gray").save(name)
    assert len(BLOCKS) == 4
    names: dict[str, object] = {}
    for block in BLOCKS:
        for theirs, ours in HERE.items():
            block = block.replace(theirs, ours)
        exec(compile(block, "README.md", "exec"), names)


def test_options_exist() -> None:
    from typer.testing import CliRunner

    from prunevid_qwen.cli.commands import app

    helps = (["ask", "--help-all"], ["bench", "accuracy", "--help"], ["eval", "run", "--help-all"])
    known = "".join(CliRunner().invoke(app, asked, env={"COLUMNS": "200"}).output for asked in helps)
    options = {
        option for command in COMMANDS for option in re.findall(r"--(\w+)", command) if "prunevid ask" in command
    }
    options |= set(re.findall(r"`--([a-z_]+)[ `]", TEXT)) - {"local"}
    assert {"model_path", "video_path", "question", "compare", "json"} <= options
    assert [option for option in options if f"--{option}" not in known] == []


def test_a_newcomer_gets_to_a_table_in_three_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The README's own words, with MVBench's folder in miniature and the bundled model."""
    monkeypatch.chdir(tmp_path)
    shapes_mvbench(tmp_path / "DATA")
    block = next(each for each in re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL) if "prunevid eval run" in each)
    install, *commands = [line.partition("#")[0].split() for line in block.splitlines()]
    assert install[:2] == ["pip", "install"] and len(commands) == 2
    commands[1] += ["--min_pixels", "784", "--max_pixels", "3136", "--frames", "8"]  # seconds, not a minute
    for _, *words in commands:
        assert main([HERE.get(f'"{word}"', word).strip('"') for word in words]) in (0, 4)  # a set of three tasks
    said = capsys.readouterr()
    assert re.search("all questions +paper +20/36", said.out) and "answering" in said.err and "left" in said.err


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"make ([a-z-]+)", " ".join(COMMANDS)):
        assert f"\n{target}:" in makefile


def test_links_lead_somewhere() -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", TEXT):
        if "://" not in link:
            assert (ROOT / link).exists(), link
