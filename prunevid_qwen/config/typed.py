"""Configs as people type them: texts read as the types of options, and ``paper+keep_ratio=0.2``. Imports no torch."""

from __future__ import annotations

import types
import typing
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from prunevid_qwen.config.flat import MERGER, SELECTOR, option_types
from prunevid_qwen.config.media_reading import Reading
from prunevid_qwen.config.method_base import Layers
from prunevid_qwen.config.option_classes import STAGES, names_in, options_class
from prunevid_qwen.config.presets import get_config
from prunevid_qwen.config.prunevid_config import PruneVidConfig
from prunevid_qwen.errors import ConfigError, quoted

PARTS = ("merger", "selector", "reading")
TRUE, FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", type(None): "none"}


def kinds_of(kind: Any) -> tuple[Any, ...]:
    """Return the members of a union, or the type alone."""
    return get_args(kind) if get_origin(kind) in (typing.Union, types.UnionType) else (kind,)


def read_value(name: str, text: Any, kind: Any) -> Any:
    """Read a text as one of the types of an option; what is no text is returned as it is.

    Args:
        name: of the option, for the message.
        text: as typed. Members of a tuple or list have commas between.
        kind: bool, int, float, str, None, a Literal, a tuple or list of these, or a union of all.

    Raises:
        ConfigError: it is none of these.
    """
    if not isinstance(text, str):
        return text
    kinds = kinds_of(kind)
    plain = [each for each in kinds if each in _WORDS]
    rows = [each for each in kinds if get_origin(each) in (tuple, list)]
    words = {str(word): word for each in kinds if get_origin(each) is Literal for word in get_args(each)}
    if type(None) in plain and text.lower() == "none":
        return None
    if text in words:
        return words[text]
    if rows and ("," in text or set(plain) <= {type(None)}):
        made = [read_value(name, each.strip(), get_args(rows[0])[0]) for each in text.split(",") if each.strip()]
        return made if get_origin(rows[0]) is list else tuple(made)
    if bool in plain and text.lower() in TRUE + FALSE:
        return text.lower() in TRUE
    for number in (int, float):
        if number in plain:
            try:
                return number(text)
            except ValueError:
                continue
    if str in plain:
        return text
    wanted = " or ".join([*words, *(_WORDS[each] for each in _WORDS if each in plain)])
    raise ConfigError(f"{name} is {wanted or 'nothing that a command line can say'}, got {quoted(text)}")


def names_in_text(text: str) -> tuple[str, ...]:
    """Return the names in a text with commas between."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def typed_values(base: PruneVidConfig, given: Mapping[str, Any]) -> dict[str, Any]:
    """Read the texts of full names as the types that the options of the chosen methods have.

    Args:
        base: the config that they are put onto.
        given: all options that were given: "merger" and "selector" among them say whose options they are.

    Raises:
        ConfigError: a text is none of the types, or the option's type is none that a text can say.
    """
    return {name: read_value(name, text, _kind_of(name, base, given)) for name, text in given.items() if "." in name}


def _kind_of(name: str, base: PruneVidConfig, given: Mapping[str, Any]) -> Any:
    part, _, field = name.partition(".")
    if part == "reading":
        return get_type_hints(Reading).get(field, str)
    chosen = given.get(part)
    own = getattr(base, part)
    cls = options_class(part, chosen) if chosen is not None else None if own is None else type(own)
    # what it lacks is refused by the config
    return str if cls is None else kind_of_option(field, get_type_hints(cls).get(field, str))


def kind_of_option(name: str, kind: Any) -> Any:
    """Return the type that a text is read an option as: its own; ``layers`` take shares whatever they say."""
    if name != "layers":
        return kind
    alone = any(each in (int, float) for each in kinds_of(kind))  # not only as a tuple
    return Layers if alone else tuple[int | float, ...] | None


def build_config(base: str, given: Mapping[str, Any]) -> PruneVidConfig:
    """Return the preset or JSON file ``base`` with the options that were given on top.

    Raises:
        ConfigError: an unknown preset, a value that is no number or out of its range, or an option of a stage that is
            off.
    """
    config = _built(base, given)
    for name in (name for name, text in given.items() if text is not None):
        _check_read(name, base, config)
    return config


def _built(base: str, given: Mapping[str, Any]) -> PruneVidConfig:
    kinds = {**option_types(), "pruning_rate": float}
    said = {name: text for name, text in given.items() if text is not None}
    changes = {name: read_value(name, text, kinds[name]) for name, text in said.items() if "." not in name}
    config = get_config(base)
    return config.replace(**changes, **typed_values(config, said))


def _check_read(name: str, base: str, config: PruneVidConfig) -> None:
    """Refuse an option that no stage reads, because its stage is off: a config drops it, a person meant something."""
    part, dot, field = ("keep_ratio" if name == "pruning_rate" else name).rpartition(".")
    if not dot and field not in STAGES and config.has("layers" if field == "pruning_layer" else field):
        return
    read_by = {**dict.fromkeys(MERGER, ("merger",)), **dict.fromkeys(SELECTOR, ("selector",)), "random_seed": STAGES}
    owners = (part,) if dot else (field,) if field in STAGES else read_by.get(field, ())
    owner = next((each for each in owners if each in STAGES and getattr(config, each) is None), None)
    if owner is None:
        return
    other = "merger" if owner == "selector" else "selector"
    has = ", ".join(names_in(None if getattr(config, other) is None else type(getattr(config, other))))
    acts = getattr(config, f"{other}_name")
    instead = f"{other} {quoted(acts)} acts, and has {has or 'no options'}" if acts else "nothing is pruned"
    raise ConfigError(
        f"{name} is for a {owner}, and {quoted(base)} with these options has none ({instead}): leave {name} out, "
        f"or turn a {owner} on by its name"
    )


def named_config(base: str, given: Mapping[str, Any]) -> tuple[str, PruneVidConfig]:
    """Return a config under a name that says how it differs from the preset or file of that name.

    "baseline" keeps its name, and takes none of the options of pruning.

    Raises:
        ConfigError: as in `build_config`.
    """
    changed = [f"{name}={value}" for name, value in given.items() if value is not None]
    name = Path(base).stem if base.endswith(".json") else base
    if name == "baseline" != base:  # a file of that name is no baseline
        name = base
    if name == "baseline":
        return name, _built(base, given)
    return " ".join([name, *changed]), build_config(base, given)


def named_configs(
    text: str, given: Mapping[str, Any] | None = None, kept_by_baseline: Collection[str] | None = None
) -> tuple[tuple[str, PruneVidConfig], ...]:
    """Return the configs of ``a,b+keep_ratio=0.2``, each with the options that were given on top.

    Args:
        text: names with commas between, each with its own changes behind ``+``.
        given: options of all of them, None for one that was not given; an option that is not among them is refused.
            None: all options are known, and none is given.
        kept_by_baseline: flat names of those that the baseline takes too; None for all.

    Raises:
        ConfigError: no such config or option, a bad value, or two of one name.
    """
    given = dict.fromkeys((*option_types(), "pruning_rate")) if given is None else given
    configs = tuple(_changed(name, given, kept_by_baseline) for name in names_in_text(text))
    for name, count in Counter(name for name, _ in configs).items():
        if count > 1:
            raise ConfigError(f"two configs are called {quoted(name)}: their answers could not be told apart")
    return configs


def _changed(name: str, given: Mapping[str, Any], kept: Collection[str] | None) -> tuple[str, PruneVidConfig]:
    base, *changes = name.split("+")
    own = {}
    for change in changes:
        option, equals, value = change.partition("=")
        if not equals:
            raise ConfigError(f"{quoted(name)}: a change is NAME+OPTION=VALUE, such as paper+keep_ratio=0.2")
        if option not in given and option.partition(".")[0] not in PARTS:
            known = {*option_types(), "pruning_rate"}
            hint = "the protocol says how videos are read" if option in known else "see --help-all"
            raise ConfigError(f"{quoted(name)}: no option {quoted(option)} of pruning; {hint}")
        own[option] = value
    if base != "baseline":
        return named_config(base, {**given, **own})
    if own:
        raise ConfigError(f"{quoted(name)}: the baseline is the model without pruning; nothing of it can be changed")
    if kept is not None:
        given = {each: value for each, value in given.items() if each in kept or each.startswith("reading.")}
    return named_config(base, given)
