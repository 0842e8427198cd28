"""Every optional reader gives PyAV's frames. Each runs in a process of its own: several FFmpegs in one may crash."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from prunevid_qwen.errors import ConfigError, SetupError
from prunevid_qwen.video import read_video
from prunevid_qwen.video.backends import BACKENDS
from tests.media import MATRICES, can_encode, encode, with_matrix
from tests.stock import TORCHVISION_OPERATORS

OTHERS = [name for name in BACKENDS if name != "pyav"]
VARIABLE = [0, 40, 80, 120, 160, 200, 1000, 1040, 2000, 3000]
# OpenCV's builds carry no AV1 decoder everywhere; qwen-vl-utils spaces frames by number, not by time.
EXPECTED_OTHERWISE = {("opencv", "av1.mp4"), ("qwen-vl-utils", "variable.mp4")}

READER = TORCHVISION_OPERATORS + textwrap.dedent(
    """
    import json, sys
    import numpy as np
    from prunevid_qwen.errors import PruneVidError, SetupError
    from prunevid_qwen.video import read_video
    from prunevid_qwen.video.backends import load_backend
    backend, out, *paths = sys.argv[1:]
    try:
        load_backend(backend)
    except SetupError as error:
        print(json.dumps({"skip": str(error)}))
        sys.exit()
    found = {}
    for path in paths:
        for window in ((None, None), (0.5, 1.5)):
            try:
                video = read_video(path, max_frames=4, backend=backend, start=window[0], end=window[1])
                found[f"{path} {window}"] = [list(video.indices), video.backend]
                np.save(f"{out}/{len(found)}.npy", video.frames)
            except PruneVidError as error:
                found[f"{path} {window}"] = [type(error).__name__, str(error)]
    print(json.dumps({"found": found}))
    """
)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("for_backends")
    made = [
        encode(folder / "h264.mp4"),
        encode(folder / "h264.mkv"),
        encode(folder / "mpeg4.avi", "mpeg4"),
        encode(folder / "h265.mp4", "libx265", options={"x265-params": "log-level=none"}),
        encode(folder / "vp9.webm", "libvpx-vp9", options={"deadline": "realtime", "cpu-used": "8"}),
        encode(folder / "variable.mp4", frames=10, milliseconds=VARIABLE),
        encode(folder / "видео 50%d.mp4", frames=30),
        encode(folder / "b_frames.avi"),
    ]
    made.append(with_matrix(made[0], folder / "turned.mp4", MATRICES["quarter_right"]))
    if can_encode("libsvtav1"):
        made.append(encode(folder / "av1.mp4", "libsvtav1", options={"preset": "11"}))
    return made


@pytest.mark.parametrize(
    "backend", [each if each == "decord" else pytest.param(each, marks=pytest.mark.nightly) for each in OTHERS]
)
def test_a_backend_gives_the_frames_that_pyav_gives(backend, files, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", READER, backend, str(tmp_path), *map(str, files)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    answer = json.loads(done.stdout.splitlines()[-1])
    if "skip" in answer:
        pytest.skip(answer["skip"])
    compared = 0
    for number, (key, result) in enumerate(answer["found"].items(), 1):
        path, window = key.split(" (")[0], eval("(" + key.split(" (")[1])
        name = Path(path).name
        if name == "b_frames.avi" and backend != "opencv":
            # decord and torchcodec return other frames here, without a word: refused instead.
            assert result[0] == "MediaError" and "carry no times of their own" in result[1]
            continue
        if (backend, name) in EXPECTED_OTHERWISE and result[0] in ("MediaError", [0, 3, 6, 9]):
            continue
        expected = read_video(path, max_frames=4, start=window[0], end=window[1])
        assert result == [list(expected.indices), backend], key
        seen = np.load(tmp_path / f"{number}.npy")
        assert seen.shape == expected.frames.shape, key
        # Colours are converted by another build of FFmpeg: a level of rounding, never another picture.
        assert np.abs(seen.astype(int) - expected.frames).max() <= 3, key
        compared += 1
    assert compared >= 12


@pytest.mark.parametrize("backend", OTHERS)
def test_a_backend_that_is_not_installed_names_the_extra(backend, files, monkeypatch):
    library = BACKENDS[backend][1].split(".")[0]
    for name in [n for n in sys.modules if n.split(".")[0] == library]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "decord", raising=False)  # whichever test ran before: two libraries clash
    plain = importlib.util.find_spec
    monkeypatch.setattr(sys, "meta_path", [NotInstalled(library), *sys.meta_path])
    assert plain("json")
    with pytest.raises(SetupError) as caught:
        read_video(files[0], backend=backend)
    assert f"{library} is not installed" in str(caught.value)
    assert f"pip install prunevid-qwen[{backend}]" in str(caught.value) and 'video_backend="pyav"' in str(caught.value)


class NotInstalled:
    def __init__(self, library: str):
        self.library = library

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == self.library:
            raise ModuleNotFoundError(f"No module named {name!r}", name=self.library)
        return None


def test_an_import_that_fails_late_is_told_and_nothing_else_is_tried(files, tmp_path, monkeypatch):
    (tmp_path / "torchcodec").mkdir()
    (tmp_path / "torchcodec" / "__init__.py").write_text("")
    (tmp_path / "torchcodec" / "decoders.py").write_text("raise RuntimeError('Could not load libtorchcodec')")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [n for n in sys.modules if n.split(".")[0] == "torchcodec"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "decord", raising=False)
    with pytest.raises(SetupError, match=r"Could not load libtorchcodec.*FFmpeg's shared libraries"):
        read_video(files[0], backend="torchcodec")
    for name in [n for n in sys.modules if n.split(".")[0] == "torchcodec"]:
        del sys.modules[name]  # monkeypatch would put the false one back in the end


def test_two_libraries_that_crash_together_are_kept_apart(files, monkeypatch):
    monkeypatch.setitem(sys.modules, "decord", object())
    with pytest.raises(SetupError, match=r"decord is already loaded in this process.*crash"):
        read_video(files[0], backend="torchcodec")


def test_an_unknown_backend_is_a_config_error(files):
    with pytest.raises(ConfigError, match="video_backend is one of pyav, decord, opencv, torchcodec, qwen-vl-utils"):
        read_video(files[0], backend="ffmpeg")
