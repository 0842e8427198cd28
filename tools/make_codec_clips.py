"""Write the clips of `prunevid doctor`: four frames in each codec that downloads come in.

python tools/make_codec_clips.py      # writes prunevid_qwen/bundled/codecs
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from prunevid_qwen.doctor.drawn_clip import drawn_frames
from prunevid_qwen.doctor.readers import CLIPS

ENCODERS: dict[str, tuple[str, dict[str, str]]] = {
    "H.264": ("libx264", {"crf": "12", "x264-params": "no-info=1"}),
    "H.265": ("libx265", {"crf": "12", "x265-params": "info=0:log-level=none"}),
    "VP9": ("libvpx-vp9", {"crf": "12", "b": "0"}),
    "AV1": ("libsvtav1", {"crf": "12", "preset": "8"}),
}


def main() -> None:
    """Write them."""
    for name, path in CLIPS.items():
        encoder, options = ENCODERS[name]
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(path), "w") as container:
            stream: Any = container.add_stream(encoder, rate=Fraction(2), options=options)
            stream.height, stream.width = drawn_frames().shape[1:3]
            stream.pix_fmt = "yuv420p"
            for frame in drawn_frames():
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode(None))
        print(f"{path}: {Path(path).stat().st_size} bytes")


if __name__ == "__main__":
    main()
