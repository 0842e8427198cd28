"""What recipes share: options by name, from a YAML file and back. Imports no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from prunevid_qwen.config.option_checks import check_names
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.training.glimpse.recipe_values import plain, read_yaml, write_yaml

if TYPE_CHECKING:
    from typing import Self


class YamlRecipe:
    """A frozen dataclass of options that is written in YAML.

    Attributes:
        CALLED: what messages call it.
        EXAMPLE: a file that shows one.
    """

    CALLED: ClassVar[str]
    EXAMPLE: ClassVar[str]

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some options changed; unknown names are refused as in `from_dict`."""
        return type(self).from_dict({**self.to_dict(), **changes})

    def to_dict(self) -> dict[str, Any]:
        """Return every option by name, ready for JSON and YAML."""
        return {each.name: plain(getattr(self, each.name)) for each in dataclasses.fields(self)}  # type: ignore[arg-type]

    def to_yaml(self, path: str | Path | None = None) -> str:
        """Return every option as YAML text; also write it to ``path`` when given."""
        text = write_yaml(self.to_dict())
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
    def from_yaml(cls, path: str | Path) -> Self:
        """Read a recipe from a YAML file.

        Raises:
            ConfigError: the file is missing or is no mapping of options, or an option is unknown or bad.
            SetupError: PyYAML is not installed.
        """
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"cannot read the recipe {path} ({error.strerror}): see {cls.EXAMPLE}") from None
        held = read_yaml(text, str(path))
        if not isinstance(held, dict):
            raise ConfigError(f"{path} holds a {type(held).__name__}, a recipe is a mapping of options to values")
        try:
            return cls.from_dict(held)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None
