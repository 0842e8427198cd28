"""Other people's methods: packages that announce them, and files or modules that a command line names.

A plug-in is code, and is run. Nothing that only describes a run (a config file, a folder of the hub) can name one.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path

from prunevid_qwen.errors import ConfigError, SetupError, quoted

GROUP = "prunevid.methods"
"""Entry points of this group register methods when they are loaded; each is called like its method."""


def load_announced(name: str) -> bool:
    """Load the installed entry points that are called ``name``; tell whether there was one.

    Raises:
        SetupError: it cannot be imported.
    """
    from importlib.metadata import entry_points  # here, since help need not wait for it

    found = entry_points(group=GROUP, name=name)
    for each in found:
        try:
            each.load()
        except Exception as error:
            raise SetupError(f"method {quoted(name)} of {each.value} cannot be loaded: {error!r}") from error
    return bool(found)


def load_plugin(source: str) -> None:
    """Run a file or import a module that registers methods.

    Args:
        source: path of a ``.py`` file, or a module's name.

    Raises:
        ConfigError: there is no such file or module.
        SetupError: it fails.
    """
    path = Path(source)
    if source.endswith(".py") or path.is_file():
        if not path.is_file():
            raise ConfigError(f"no plug-in at {quoted(source)}: pass a .py file or the name of a module")
        name = f"prunevid_plugin_{path.stem}"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # dataclasses look their module up
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            del sys.modules[name]
            raise SetupError(f"plug-in {quoted(source)} cannot be loaded: {error!r}") from error
        return
    try:
        importlib.import_module(source)
    except ModuleNotFoundError as error:
        if error.name is not None and (source == error.name or source.startswith(f"{error.name}.")):
            raise ConfigError(
                f"no plug-in is called {quoted(source)}: pass a .py file, or a module that can be imported"
            ) from None
        raise SetupError(f"plug-in {quoted(source)} cannot be loaded: {error!r}") from error
    except Exception as error:
        raise SetupError(f"plug-in {quoted(source)} cannot be loaded: {error!r}") from error
