"""YAML files as dataclasses: the fields are the schema, and each error names the file and its line."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin

from prunevid_qwen.config.option_checks import unknown
from prunevid_qwen.errors import ConfigError, quoted

_T = TypeVar("_T")

_SAID: dict[type, str] = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "a mapping of names to values",
}


class _Placed(ConfigError):
    """An error whose message begins with file and line."""


@dataclass(frozen=True)
class Marked:
    """A value of a YAML file, with its place: where its name stands, of an alias where it is used."""

    value: Any  # a scalar, a list of `Marked`, or a dict of `Marked` by name
    where: str  # "prompts.yaml:12", lines from 1

    def plain(self) -> Any:
        """Return the value without places."""
        if isinstance(self.value, dict):
            return {name: each.plain() for name, each in self.value.items()}
        return [each.plain() for each in self.value] if isinstance(self.value, list) else self.value

    def error(self, said: str | ConfigError) -> ConfigError:
        """Return an error that begins with the place; an error that has one already stays as it is."""
        return said if isinstance(said, _Placed) else _Placed(f"{self.where}: {said}")


def read_yaml(path: Path) -> Marked:
    """Read a file, aliases and merges (``<<: *name``) followed; a `ConfigError` names the place that is wrong."""
    import yaml

    try:
        loader = yaml.SafeLoader(path.read_text(encoding="utf-8"))
        node = loader.get_single_node()
        if node is None:
            raise ConfigError(f"{path}: the file is empty")
        return _marked(node, loader, str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read ({error}): give a YAML file") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else path
        said = " ".join(str(getattr(error, "problem", None) or error).split())
        raise ConfigError(f"{where} is not YAML: {said:.200}; put texts with : or # in quotes") from None


def _marked(node: Any, loader: Any, path: str, line: int | None = None) -> Marked:
    line = node.start_mark.line if line is None else line
    where = f"{path}:{line + 1}"
    if node.id == "sequence":  # an alias has the mark of its anchor, which may stand before the list
        own = [max(each.start_mark.line, node.start_mark.line) for each in node.value]
        return Marked([_marked(each, loader, path, at) for each, at in zip(node.value, own, strict=True)], where)
    if node.id == "scalar":
        return Marked(loader.construct_object(node), where)
    names: set[str] = set()
    for key, _ in node.value:
        if key.tag != "tag:yaml.org,2002:merge" and key.value in names:
            raise ConfigError(f"{path}:{key.start_mark.line + 1}: {quoted(key.value)} stands twice: keep one of them")
        names.add(key.value)
    loader.flatten_mapping(node)  # merged names come first, so that the mapping's own replace them
    return Marked({key.value: _marked(each, loader, path, key.start_mark.line) for key, each in node.value}, where)


def read_as(path: Path, kind: type[_T]) -> _T:
    """Read a file as `kind`; see `build`."""
    return cast(_T, build(read_yaml(path), kind))


def build(found: Marked, kind: Any, name: str = "the file") -> Any:
    """Return a value of a YAML file in the type that is expected; ``name`` is for messages.

    Args:
        kind: str, int, float, bool, ``Any``, ``Literal``, a union (None among them), ``tuple[X, ...]``,
            ``Mapping[str, X]``, or a dataclass, whose fields without a default must be given; a `Marked` stays one.

    Raises:
        ConfigError: with file and line: a name that the dataclass does not have or that is missing, a value of another
            type, or what the dataclass itself refuses; placed at the field whose name such an error begins with.
    """
    inner, value = get_args(kind), found.value
    if kind in (Any, Marked):
        return found if kind is Marked else found.plain()
    if get_origin(kind) in (Union, types.UnionType):
        fitting = [each for each in inner if _form(each) is type(value)]
        return build(found, (fitting or [each for each in inner if each is not type(None)])[-1], name)
    if get_origin(kind) is Literal:
        if value not in inner:
            raise found.error(f"{name} is one of {', '.join(map(str, inner))}; got {_got(value)}")
        return value
    form: Any = _form(kind)
    if form is float and type(value) is int:
        return float(value)
    if type(value) is not form:
        raise found.error(f"{name} is {_SAID[form]}, got {_got(value)}")
    if dataclasses.is_dataclass(kind):
        return _dataclass(found, cast(type, kind), name)
    if form is list:
        return tuple(build(each, inner[0], f"each of {name}") for each in value)
    return {key: build(each, inner[1], key) for key, each in value.items()} if form is dict else value


def _form(kind: Any) -> type:
    """Return the type that a value of `kind` has in YAML."""
    origin = get_origin(kind)
    if origin in (tuple, list, Sequence):
        return list
    if origin in (dict, Mapping) or dataclasses.is_dataclass(kind):
        return dict
    return type(get_args(kind)[0]) if origin is Literal else cast(type, kind)


def _dataclass(found: Marked, kind: type, name: str) -> Any:
    hints = typing.get_type_hints(kind)
    fields = {each.name: each for each in dataclasses.fields(kind) if each.init}
    for key, given in found.value.items():
        if key not in fields:
            raise given.error(unknown(f"{name} has", key, fields))
    for key, each in fields.items():
        if key not in found.value and dataclasses.MISSING is each.default is each.default_factory:
            raise found.error(f"{name} lacks {key!r}; it has {', '.join(found.value) or 'nothing'}")
    values = {key: build(given, hints[key], key) for key, given in found.value.items()}
    try:
        return kind(**values)
    except ConfigError as error:
        raise found.value.get(str(error).partition(" ")[0], found).error(error) from error


def _got(value: Any) -> str:
    return "a mapping" if isinstance(value, dict) else "a list" if isinstance(value, list) else quoted(value)
