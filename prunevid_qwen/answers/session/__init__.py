"""Sessions: many questions about one video, which is read and encoded once."""

from prunevid_qwen.answers.session.open_video import OpenVideo as OpenVideo
from prunevid_qwen.answers.session.open_videos import OpenVideos as OpenVideos
from prunevid_qwen.answers.session.video_cache import VideoCache as VideoCache
from prunevid_qwen.answers.session.video_cache import cacheable as cacheable
