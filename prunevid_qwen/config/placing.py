"""To whom a name belongs: options by flat and by full names, sorted into the parts of a config. Imports no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from prunevid_qwen.config.flat import FLAT, LATER_READING, MERGER, READING, SELECTOR, STAGES, FlatOptions, layers_of
from prunevid_qwen.config.media_reading import Reading
from prunevid_qwen.config.method_base import MethodOptions
from prunevid_qwen.config.option_checks import nearest, unknown
from prunevid_qwen.config.option_classes import classes_of, name_of, names_in
from prunevid_qwen.errors import ConfigError, UnknownOption, quoted

Placed = dict[str, dict[str, Any]]
_OWNERS = {**dict.fromkeys(MERGER, "merger"), **dict.fromkeys(SELECTOR, "selector")}
_PARTS = ("merger", "selector", "reading")
_CORE = (*_PARTS, "compress_cache", "position_scheme", "verbose", "collect_stats")
_BUDGETS = ("keep_ratio", "cluster_ratio", "keep_tokens")


def place(given: Mapping[str, Any], classes: Mapping[str, type | None], off: Mapping[str, type | None]) -> Placed:
    """Sort options into the parts they belong to.

    Args:
        given: values by flat ("keep_ratio") or full name ("selector.keep_ratio").
        classes: "merger" and "selector", the options class of each chosen method; None for a stage that is off.
        off: the options class that was named for a stage that is off, where one was.

    Returns:
        For "merger", "selector" and "reading" the values by the names of their classes.

    Raises:
        UnknownOption: a name that nobody has, or that the chosen methods lack.
        ConfigError: a name that two methods have, one that is given twice, or a bad value of a stage that is off.
    """
    placed: Placed = {part: {} for part in _PARTS}
    for name, value in given.items():
        if name in FLAT:
            FlatOptions(**{name: value})  # its range, under its flat name, whether a stage reads it or not
        for part in _parts_of(name, classes, off):
            field, value_there = _as_field(name.rpartition(".")[2], value, part, classes)
            if field in placed[part]:
                raise ConfigError(f"{part}.{field} is given twice, the second time as {name}: give it once")
            placed[part][field] = value_there
    for part, own in placed.items():
        for share in ("keep_ratio", "cluster_ratio"):
            if own.get(share) is not None and own.get("keep_tokens") is not None:
                raise ConfigError(f"{part}.{share} and {part}.keep_tokens are two budgets: give one of them")
    return placed


def _parts_of(name: str, classes: Mapping[str, type | None], off: Mapping[str, type | None]) -> tuple[str, ...]:
    part, dot, field = name.rpartition(".")
    if dot:
        return _full(name, part, field, classes, off)
    if name in READING or name in LATER_READING:
        return ("reading",)
    having = tuple(each for each, options in classes.items() if _field_of(name, options))
    if name == "random_seed" and having:
        return having
    if len(having) == 2:
        if name not in _OWNERS:
            both = " and ".join(f"{each}.{name}" for each in having)
            raise ConfigError(f"merger and selector both have an option {name}: give its full name, {both}")
        return (_OWNERS[name],)
    if having:
        return having
    idle = [each for each, options in classes.items() if options is None]
    if any((_OWNERS.get(name, each) == each and name in FLAT) or name in names_in(off.get(each)) for each in idle):
        return ()
    if name not in FLAT:
        raise UnknownOption(unknown("PruneVidConfig has", name, _every_name(classes)))
    raise UnknownOption(lacking(_OWNERS.get(name, "selector"), name, classes))


def _full(
    name: str, part: str, field: str, classes: Mapping[str, type | None], off: Mapping[str, type | None]
) -> tuple[str, ...]:
    if part not in _PARTS:
        raise UnknownOption(unknown("a full name begins with", part, _PARTS))
    options = Reading if part == "reading" else classes[part]
    if options is None:
        known = (*names_in(off.get(part)), *FLAT, "layers")
        if field not in known:
            raise UnknownOption(unknown(f"a {part} has", field, known))
        return ()
    if field not in names_in(options):
        if part == "reading":
            raise UnknownOption(unknown("reading has", field, names_in(options)))
        raise UnknownOption(lacking(part, field, classes))
    return (part,)


def lacking(part: str, name: str, classes: Mapping[str, type | None]) -> str:
    """Say that the chosen method of a part has no such option, and what it has."""
    options = classes[part]
    assert options is not None
    method, has = name_of(part, options()), names_in(options)
    others = any(name in names_in(other) for other in classes_of(part).values())
    close = None if others else nearest(name, has)  # an option that another method has is no typing error
    hint = "" if close is None else f"did you mean {close!r}? "
    return f"{part} {quoted(method)} has no {name}: {hint}it has {', '.join(has) or 'no options'}"


def _field_of(name: str, options: type | None) -> str | None:
    has = names_in(options)
    if name in has:
        return name
    return "layers" if name == "pruning_layer" and "layers" in has else None


def _as_field(name: str, value: Any, part: str, classes: Mapping[str, type | None]) -> tuple[str, Any]:
    if part == "reading":
        return READING.get(name, name), value
    field = _field_of(name, classes[part]) or name
    return field, layers_of(value) if name == "pruning_layer" and field == "layers" else value


def _every_name(classes: Mapping[str, type | None]) -> Iterable[str]:
    methods = [name for options in classes.values() for name in names_in(options)]
    flat = [name for name in FLAT if name in READING or _owned(name, classes)]
    return tuple(dict.fromkeys((*_CORE, *STAGES, *flat, *LATER_READING, *methods)))


def _owned(name: str, classes: Mapping[str, type | None]) -> bool:
    return any(options is None or _field_of(name, options) is not None for options in classes.values())


def other_budget(part: str, chosen: Mapping[str, Any], changes: Mapping[str, Any]) -> Any:
    """Let a budget among changes replace the one that a method's options have: a share a count, say, or ratios a share.

    All else among the changes goes with it, since it may be right beside that budget alone, and that beside it.

    Args:
        part: "merger" or "selector".
        chosen: the options of both; None for a stage that is off.
        changes: by flat and by full names.
    """
    own, classes = chosen[part], {each: None if it is None else type(it) for each, it in chosen.items()}
    has = names_in(type(own))
    exclusive = own.budgets if isinstance(own, MethodOptions) else ()
    given = {}
    for name, value in changes.items():
        where, _, field = name.rpartition(".")
        if where == part or (not where and _owned_by(part, field, classes)):
            field, value = _as_field(field, value, part, classes)
            given[field] = value
    asked = [name for name in exclusive or _BUDGETS if name in given and name in has]
    if len(asked) != 1 or not (exclusive or "keep_tokens" in has):
        return own
    shares = () if exclusive or asked == ["keep_tokens"] else _BUDGETS[:-1]  # two shares do not exclude each other
    plain = type(own)()
    others = [name for name in exclusive or _BUDGETS if name in has and name not in (*asked, *shares)]
    values = {name: value for name, value in given.items() if name in has}
    return dataclasses.replace(own, **{name: getattr(plain, name) for name in others}, **values)


def _owned_by(part: str, name: str, classes: Mapping[str, type | None]) -> bool:
    having = [each for each, options in classes.items() if _field_of(name, options)]
    return part in having and (len(having) == 1 or _OWNERS.get(name) == part)


def carried(before: Any, options: type) -> dict[str, Any]:
    """Return what a config had set of its method's options and another method of that stage has too.

    Between a method of one cut and one of several neither layers nor budgets: they would say something else. Between
    two of several no layers: each has a schedule of its own.
    """
    plain = type(before)()
    apart: set[str] = set()
    if any(getattr(each, "most_layers", 1) != 1 for each in (before, options)):
        apart.add("layers")
    if any(getattr(before, name, plain) != getattr(options, name, plain) for name in ("most_layers", "averages")):
        apart |= {"keep_ratio", "keep_tokens"}
    return {
        each.name: getattr(before, each.name)
        for each in dataclasses.fields(before)
        if each.init and each.name in names_in(options) and getattr(before, each.name) != getattr(plain, each.name)
        if each.name not in apart
    }
