"""YAML files as dataclasses: the fields are the schema, and each error names the file and its line."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin

from prunevid_qwen.config.option_checks import nearest
from prunevid_qwen.errors import ConfigError, quoted

_T = TypeVar("_T")

_SAID: dict[type, str] = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}


class _Placed(ConfigError):
    """An error whose message begins with file and line."""


@dataclass(frozen=True)
class Marked:
    """A value of a YAML file, with its place.

    Args:
        value: a scalar, a list of `Marked`, or a dict of `Marked` by name.
        where: "prompts.yaml:12", lines from 1.
    """

    value: Any
    where: str

    def plain(self) -> Any:
        """Return the value without places: scalars, lists and dicts."""
        if isinstance(self.value, dict):
            return {name: each.plain() for name, each in self.value.items()}
        return [each.plain() for each in self.value] if isinstance(self.value, list) else self.value

    def error(self, said: str | ConfigError) -> ConfigError:
        """Return an error that begins with the place; an error that has one already stays as it is."""
        return said if isinstance(said, _Placed) else _Placed(f"{self.where}: {said}")


def read_yaml(path: Path) -> Marked:
    """Read a file; aliases (``*name``) and merges (``<<: *name``) are followed.

    Raises:
        ConfigError: no such file, no YAML, or a name that stands twice in a mapping.
    """
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read ({error}): give a YAML file") from error
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            raise ConfigError(f"{path}: the file is empty")
        return _marked(node, loader, str(path))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        said = f"{path}:{line} is not YAML: {error.problem or error}; put texts with : or # in quotes"
        raise ConfigError(said) from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split()):.200}") from None


def _marked(node: Any, loader: Any, path: str) -> Marked:
    where = f"{path}:{node.start_mark.line + 1}"
    if node.id == "sequence":
        return Marked([_marked(each, loader, path) for each in node.value], where)
    if node.id == "scalar":
        return Marked(loader.construct_object(node), where)
    names: set[str] = set()
    for key, _ in node.value:
        if key.tag != "tag:yaml.org,2002:merge" and key.value in names:
            raise ConfigError(f"{path}:{key.start_mark.line + 1}: {quoted(key.value)} stands twice: keep one of them")
        names.add(key.value)
    loader.flatten_mapping(node)  # merged names come first, so that the mapping's own replace them
    return Marked({key.value: _marked(each, loader, path) for key, each in node.value}, where)


def read_as(path: Path, kind: type[_T]) -> _T:
    """Read a file as `kind`; see `build`."""
    return build(read_yaml(path), kind)


def build(found: Marked, kind: type[_T], name: str = "the file") -> _T:
    """Return a value of a YAML file in the type that is expected.

    Args:
        found: as read.
        kind: str, int, float, bool, None, ``Any``, ``Literal``, a union, ``tuple[X, ...]``, ``Mapping[str, X]``, or a
            dataclass, whose fields without a default must be given. A `Marked` is left as it is.
        name: of the value, for messages.

    Raises:
        ConfigError: a name that the dataclass does not have (the nearest is offered), one that is missing, a value of
            another type, or whatever the dataclass itself refuses; each with file and line.
    """
    return cast(_T, _build(found, kind, name))


def _build(found: Marked, kind: Any, name: str) -> Any:
    origin, inner, value = get_origin(kind), get_args(kind), found.value
    if kind in (Any, Marked):
        return found if kind is Marked else found.plain()
    if origin in (Union, types.UnionType):
        if value is None and type(None) in inner:
            return None
        choices = [each for each in inner if each is not type(None)]
        return _build(found, _fitting(value, choices), name)
    if origin is Literal:
        if value not in inner:
            raise found.error(f"{name} is one of {', '.join(map(str, inner))}; got {_got(value)}")
        return value
    if origin in (tuple, list, Sequence):
        if not isinstance(value, list):
            raise found.error(f"{name} is a list, got {_got(value)}")
        return tuple(_build(each, inner[0], f"each of {name}") for each in value)
    if origin in (dict, Mapping):
        if not isinstance(value, dict):
            raise found.error(f"{name} is a mapping of names to values, got {_got(value)}")
        return {key: _build(each, inner[1], key) for key, each in value.items()}
    if dataclasses.is_dataclass(kind):
        return _dataclass(found, cast(type, kind), name)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise found.error(f"{name} is {_SAID[kind]}, got {_got(value)}")
    return value


def _fitting(value: Any, kinds: list[Any]) -> Any:
    """Return the one of a union's types that a value has the form of; the last where none fits."""
    forms: dict[type, Any] = {list: (tuple, list, Sequence), dict: (dict, Mapping)}
    for kind in kinds:
        origin = get_origin(kind)
        if origin is Literal and value in get_args(kind):
            return kind
        if type(value) in forms:
            if origin in forms[type(value)] or (isinstance(value, dict) and dataclasses.is_dataclass(kind)):
                return kind
        elif origin is None and type(value) is kind:
            return kind
    return kinds[-1]


def _dataclass(found: Marked, kind: type, name: str) -> Any:
    if not isinstance(found.value, dict):
        raise found.error(f"{name} is a mapping of names to values, got {_got(found.value)}")
    hints = typing.get_type_hints(kind)
    fields = {each.name: each for each in dataclasses.fields(kind) if each.init}
    for key, given in found.value.items():
        if key not in fields:
            close = nearest(key, fields)
            meant = f" did you mean {close!r}?" if close else ""
            raise given.error(f"{name} has no {quoted(key)};{meant} It has {', '.join(fields)}")
    for key, each in fields.items():
        if key not in found.value and dataclasses.MISSING is each.default is each.default_factory:
            raise found.error(f"{name} lacks {key!r}; it has {', '.join(found.value) or 'nothing'}")
    values = {key: _build(given, hints[key], key) for key, given in found.value.items()}
    try:
        return kind(**values)
    except ConfigError as error:
        raise found.error(error) from error


def _got(value: Any) -> str:
    return "a mapping" if isinstance(value, dict) else "a list" if isinstance(value, list) else quoted(value)
