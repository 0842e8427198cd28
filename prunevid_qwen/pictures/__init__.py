"""Pictures of what was kept: a page for a browser, a contact sheet for papers."""

from prunevid_qwen.pictures.picture import SUFFIXES as SUFFIXES
from prunevid_qwen.pictures.picture import picture as picture
