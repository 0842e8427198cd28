"""A config as a dict: by full names (format 2), and by flat names as 3a0e2fd had them. Imports no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from prunevid_qwen.config.flat import (
    FLAT,
    LATER_READING,
    MERGER,
    READING,
    SELECTOR,
    FlatOptions,
    layers_of,
    pruning_layer_of,
)
from prunevid_qwen.config.media_reading import Reading
from prunevid_qwen.config.option_checks import check_names, unknown
from prunevid_qwen.config.option_classes import built_in, name_of, names_in, options_class
from prunevid_qwen.config.placing import lacking
from prunevid_qwen.errors import ConfigError, UnknownOption, quoted

FORMAT = 2
_REPORTING = ("verbose", "collect_stats")
_OF = {"merger": (*MERGER, "random_seed"), "selector": (*SELECTOR, "random_seed")}
_ENABLED = {"merger": "enable_stage1", "selector": "enable_stage2"}


def nested_options(config: Any) -> dict[str, Any]:
    """Return all options of a `PruneVidConfig` that decide an answer, nested; a tuple is a list, as JSON has it."""
    return {
        "format": FORMAT,
        **{part: _method(part, getattr(config, part)) for part in _OF},
        "reading": dataclasses.asdict(config.reading),
        "compress_cache": config.compress_cache,
        "position_scheme": config.position_scheme,
    }


def _method(part: str, own: Any) -> dict[str, Any] | None:
    return None if own is None else {"name": name_of(part, own), **_values(own)}


def _values(own: Any) -> dict[str, Any]:
    values = {name: getattr(own, name) for name in names_in(type(own))}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def read_nested(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the constructor's arguments for what `nested_options` gives; parts and options may be left out.

    Raises:
        ConfigError: another format, an unknown name, or a part of another kind.
    """
    given = dict(options)
    if given.pop("format") != FORMAT:
        raise ConfigError(f"a config has format {FORMAT}, or none for flat names; got {quoted(options['format'])}")
    known = ("merger", "selector", "reading", "compress_cache", "position_scheme", *_REPORTING)
    for name in given:
        if name not in known:
            raise UnknownOption(unknown(f"a config of format {FORMAT} has", name, known))
    for part in _OF:
        own = given.get(part)
        if isinstance(own, Mapping):
            if "name" not in own:
                raise ConfigError(f'{part} is {{"name": ..., and its options}}, or null; got {quoted(own)}')
            values = {name: value for name, value in own.items() if name != "name"}
            cls = options_class(part, own["name"])
            for name in values:
                if name not in names_in(cls):
                    raise UnknownOption(lacking(part, name, {part: cls}))
            given[part] = cls(**_as_tuples(values))
        elif own is not None and part in given:
            raise ConfigError(f'{part} is {{"name": ..., and its options}}, or null; got {quoted(own)}')
    if "reading" in given:
        if not isinstance(given["reading"], Mapping):
            raise ConfigError(f"reading is an object of options, got {quoted(given['reading'])}")
        check_names("reading has", given["reading"], Reading)
        given["reading"] = Reading(**given["reading"])
    return given


def _as_tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    """A list of a JSON file is a tuple."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def flat_options(config: Any) -> dict[str, Any]:
    """Return all options of a `PruneVidConfig` by flat names.

    What has none, or is no value of the flat config, stands there by its full name.
    """
    names = {"merger": config.merger_name or FLAT["merger"], "selector": config.selector_name or FLAT["selector"]}
    flat = {name: names[name] if name in names else getattr(config, name) for name in FLAT}
    for part, of in _OF.items():
        own = getattr(config, part)
        for name, value in {} if own is None else _values(own).items():
            if value is getattr(type(own), name) is None and FLAT.get(name) is not None:  # no value of that flat name
                flat[name] = FLAT[name]
            if name == "layers" and _is_one_layer(value):
                continue
            if name in of and flat[name] == value:
                continue
            if name not in of and built_in(part, own) and getattr(own, name) == getattr(type(own), name):
                continue  # came after 3a0e2fd and is not used
            flat[f"{part}.{name}"] = value
    for name in LATER_READING:
        if getattr(config.reading, name) != getattr(Reading, name):
            flat[f"reading.{name}"] = getattr(config.reading, name)
    return flat


def _is_one_layer(value: Any) -> bool:
    layers = tuple(value) if isinstance(value, list) else value
    return layers is None or layers_of(pruning_layer_of(layers)) == layers


def read_flat(options: Mapping[str, Any], strict: bool = True) -> dict[str, Any]:
    """Return the constructor's arguments for options by the names and the defaults of 3a0e2fd.

    Args:
        options: flat names, with full names for what has none; "verbose" and "collect_stats" too.
        strict: refuse what the chosen methods do not have, unless it holds that version's default; else pass it over.

    Raises:
        ConfigError: an unknown name, a bad value, or what ``strict`` refuses.
    """
    full = {name: value for name, value in options.items() if "." in name}
    reporting = {name: value for name, value in options.items() if name in _REPORTING}
    given = {name: value for name, value in options.items() if name not in full and name not in reporting}
    flat = FlatOptions(**given)
    read = dict(reporting)
    if "enable_cache_compression" in given:
        read["compress_cache"] = flat.enable_cache_compression
    read["position_scheme"] = flat.position_scheme
    read["reading"] = Reading(**{READING[name]: getattr(flat, name) for name in READING})
    classes = {
        part: options_class(part, getattr(flat, part)) if getattr(flat, _ENABLED[part]) else None for part in _OF
    }
    for part, cls in classes.items():
        # together: layers, say, are right beside their own ratios alone
        own = {name: full.pop(f"{part}.{name}") for name in names_in(cls) if f"{part}.{name}" in full}
        old = {} if cls is None else _old_values(flat, part, cls, own, given if strict else FLAT)
        read[part] = None if cls is None else cls(**old, **_as_tuples(own))
    idle = any(cls is None for cls in classes.values())
    for name, value in given.items() if strict else ():
        stages = [part for part in _OF if name in _OF[part]]
        there = [part for part in stages if _has(classes[part], name)]
        if stages and not there and value != FLAT[name] and not (idle and all(classes[p] is None for p in stages)):
            if len(stages) == 2 and idle:
                continue
            raise UnknownOption(lacking(stages[-1], name, classes))
    return {**read, **full}


def _has(cls: type | None, name: str) -> bool:
    return name in names_in(cls) or (name == "pruning_layer" and "layers" in names_in(cls))


def _old_values(
    flat: FlatOptions, part: str, cls: type, instead: Mapping[str, Any], given: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a method's options by flat names; one whose own default is None, "no such budget", only where given."""
    values = {name: getattr(flat, name) for name in names_in(cls) if name in _OF[part]}
    if part == "selector" and "layers" in names_in(cls):
        values["layers"] = layers_of(flat.pruning_layer)
    own = {each.name: each.default for each in dataclasses.fields(cls)}
    return {
        name: value
        for name, value in values.items()
        if name not in instead and (own[name] is not None or name in given or FLAT.get(name) is None)
    }
