"""Reading videos and images: files, folders of frames, lists and arrays become uint8 RGB frames with their times."""

from prunevid_qwen.video.frames import read_image
from prunevid_qwen.video.reader import read_video
from prunevid_qwen.video.stream import FramesChanged, VideoStream, open_video
from prunevid_qwen.video.video_read import Video

__all__ = ["FramesChanged", "Video", "VideoStream", "open_video", "read_image", "read_video"]
