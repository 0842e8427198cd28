"""Sessions: many questions about one video, which is read and encoded once."""

from prunevid_qwen.answers.session.open_video import OpenVideo as OpenVideo
