"""Old place of `report.plots`, until every caller has moved."""

from prunevid_qwen.evaluation.report.plots import HIGHLIGHTED as HIGHLIGHTED
from prunevid_qwen.evaluation.report.plots import LIGHT as LIGHT
from prunevid_qwen.evaluation.report.plots import THEMES as THEMES
from prunevid_qwen.evaluation.report.plots import Theme as Theme
from prunevid_qwen.evaluation.report.plots import load_matplotlib as load_matplotlib
from prunevid_qwen.evaluation.report.plots import settings as settings
from prunevid_qwen.evaluation.report.plots import spread as spread
from prunevid_qwen.evaluation.report.plots import style_of as style_of
