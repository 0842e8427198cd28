"""Reading videos and images: files, folders of frames, lists and arrays become uint8 RGB frames with their times."""

from prunevid_qwen.video.frames import read_image
from prunevid_qwen.video.reader import read_video
from prunevid_qwen.video.record import Video

__all__ = ["Video", "read_image", "read_video"]
