"""Pictures of what was kept: a page for a browser, a contact sheet for papers, a video."""

from prunevid_qwen.pictures.draw import SUFFIXES as SUFFIXES
from prunevid_qwen.pictures.draw import picture as picture
