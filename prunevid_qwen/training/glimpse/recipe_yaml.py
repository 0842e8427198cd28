"""What recipes share: options by name, from a YAML file or a recipe of the package, and back. Imports no torch."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from prunevid_qwen.config.option_checks import check_names
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.evaluation.yaml_data import read_yaml
from prunevid_qwen.training.glimpse.recipe_values import plain

if TYPE_CHECKING:
    from typing import Self


RECIPES = Path(__file__).resolve().parents[1] / "recipes"

logger = logging.getLogger(__name__)


def recipe_names() -> list[str]:
    """List the recipes that come with the package."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def recipe_file(given: str | Path) -> Path:
    """Return the file of a recipe.

    Args:
        given: the name of one that comes with the package ("glimpse"), or the path of a YAML file. A name is taken
            before a file without ending that is called the same. ``train/glimpse.yaml``, where the package's recipes
            were once, is taken as ``glimpse`` for one release where there is no such file.

    Raises:
        ConfigError: it is neither.
    """
    path, names = Path(given), recipe_names()
    if str(path) in names:
        return RECIPES / f"{path}.yaml"
    if path.is_file():
        return path
    if path.parent.name == "train" and path.suffix == ".yaml" and path.stem in names:
        logger.warning("--recipe %s is now --recipe %s", path, path.stem)
        return RECIPES / f"{path.stem}.yaml"
    raise ConfigError(f"there is no recipe {str(given)!r}: give the path of a YAML file, or one of {', '.join(names)}")


class YamlRecipe:
    """A frozen dataclass of options that is written in YAML.

    Attributes:
        CALLED: what messages call it.
    """

    CALLED: ClassVar[str]

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some options changed; unknown names are refused as in `from_dict`."""
        return type(self).from_dict({**self.to_dict(), **changes})

    def to_dict(self) -> dict[str, Any]:
        """Return every option by name, ready for JSON and YAML."""
        return {each.name: plain(getattr(self, each.name)) for each in dataclasses.fields(self)}  # type: ignore[arg-type]

    def to_yaml(self, path: str | Path | None = None) -> str:
        """Return every option as YAML text; also write it to ``path`` when given."""
        import yaml

        text: str = yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True)
        if path is not None:
            Path(path).write_text(text, encoding="utf-8")
        return text

    @classmethod
    def from_dict(cls, options: Mapping[str, Any]) -> Self:
        """Build from names and values; what is left out takes its default.

        Raises:
            ConfigError: an unknown name (the nearest known one is offered), or a bad value.
        """
        check_names(f"{cls.CALLED} has", options, cls)
        return cls(**options)

    @classmethod
    def from_yaml(cls, recipe: str | Path) -> Self:
        """Read a recipe of the package by its name, or from a YAML file.

        Args:
            recipe: as `recipe_file` takes it.

        Raises:
            ConfigError: there is no such recipe, it is no mapping of options, or an option is unknown or bad; file and
                line are named.
        """
        held = read_yaml(recipe_file(recipe))
        if not isinstance(held.value, dict):
            raise held.error(f"{cls.CALLED} is a mapping of options to values")
        try:
            return cls.from_dict(held.plain())
        except ConfigError as error:
            wrong = (each for name, each in held.value.items() if cls._refusal({name: each.plain()}) == str(error))
            raise next(wrong, held).error(str(error)) from None

    @classmethod
    def _refusal(cls, options: Mapping[str, Any]) -> str | None:
        """Return what is wrong with these options beside the defaults."""
        try:
            cls.from_dict(options)
        except ConfigError as error:
            return str(error)
        return None
