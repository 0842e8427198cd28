"""The folder of a run: its record says what is asked of what, so that nobody adds the lines of another run to it."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from prunevid_qwen.errors import ConfigError
from prunevid_qwen.evaluation.store.identity import CODE, code_digest, digest_of, surroundings
from prunevid_qwen.evaluation.store.lines import alone, lock_of, replace
from prunevid_qwen.receipt import versions

RECORD = "run.json"
_LINES = (".jsonl", ".xz")  # files that nobody can tell the origin of without a record

RunRecord = dict[str, Any]
Options = Mapping[str, Any]


class RunFolder:
    """Where a run keeps its record, its lines and its tables.

    Args:
        path: made by `begin`.
        files: names or patterns of what a run writes beside its record, and a restart throws away.
        shown: what an error calls the run where it is no folder to its user: the file of answers beside it.
    """

    def __init__(self, path: Path, files: Collection[str] = (), shown: Path | None = None) -> None:
        self.path, self.files, self.shown = path, tuple(files), shown or path
        self.otherwise = f"pass --restart or another {'folder' if shown is None else 'file'}"

    def begin(
        self,
        options: Options,
        about: Options,
        restart: bool = False,
        grows: Collection[str] = (),
        configs: Mapping[str, Options] | None = None,
    ) -> RunRecord:
        """Make the folder ready for lines, or find it begun by the same run.

        Args:
            options: everything that could change a line, beside the installed versions and this package's code.
            about: what else the record of a run that begins says.
            restart: throw away what the folder holds.
            grows: options that may be larger in a run that goes on.
            configs: name -> its options, where they are not in ``options``: a run that goes on may bring more configs.

        Returns: the record, as it stands in the folder.

        Raises:
            ConfigError: the folder holds another run (the first difference is named), cannot be made, or is written to.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"cannot make the folder {self.path} ({error.strerror}): pass another folder") from error
        with FileLock(self.path / "run.lock"):
            if restart:
                self._throw_away()
            record = self._found(options, grows)
            before = None if record is None else json.dumps(record)
            if record is None:
                record = {**about, "options": dict(options)}
                record |= {} if configs is None else {"configs": {}}
                record |= {"versions": versions(), **surroundings()}
            record["options"] |= {name: options[name] for name in grows if name in options}
            for name, config in (configs or {}).items():
                held = record["configs"].setdefault(name, dict(config))
                self._check_same(held, config, prefix=f"config {name!r}: ")
            if json.dumps(record) != before:
                self.write_record(record)
        return record

    def record(self, command: str) -> RunRecord:
        """Return the record of a run that has begun; where there is none, a `ConfigError` names the ``command``."""
        path = self.path / RECORD
        try:
            record: RunRecord = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            raise ConfigError(f"no {RECORD} in {self.path}: give the folder of a `{command}`") from None
        except ValueError as error:
            raise ConfigError(f"{path} is no JSON ({error}): {self.otherwise}") from None
        return record

    def write_record(self, record: Options) -> None:
        """Replace the record."""
        replace(self.path / RECORD, (json.dumps(record, indent=1) + "\n").encode())

    def found(self) -> list[Path]:
        """Return the files of the run that are there, the record not among them."""
        inside = [path for pattern in self.files for path in sorted(self.path.glob(pattern))]
        return [*inside, self.shown] if self.shown.is_file() else inside

    def _found(self, options: Options, grows: Collection[str]) -> RunRecord | None:
        if not (self.path / RECORD).exists():
            held = [path for path in self.found() if path.suffix in _LINES or path == self.shown]
            if held := [path for path in held if path.stat().st_size]:
                raise ConfigError(f"{held[0]} exists, but no {self.path / RECORD} says of what run: {self.otherwise}")
            return None
        record = self.record("run")
        before = {**record["options"], **record["versions"], CODE: record.get(CODE)}
        now = {**options, **versions(), CODE: code_digest()}
        grown = {name for name in grows if name in now and name in before and before[name] <= now[name]}
        self._check_same(before, now, but=grown)
        return record

    def _check_same(self, before: Options, now: Options, but: Collection[str] = (), prefix: str = "") -> None:
        for name in {**now, **before}:  # an option that is no longer given is a difference too
            if name not in but and before.get(name) != now.get(name):
                said = prefix + _difference(name, before.get(name), now.get(name))
                raise ConfigError(f"{self.shown} holds another run ({said}): {self.otherwise}")

    def _throw_away(self) -> None:
        for path in self.found():
            if lock_of(path).exists():
                with alone(path, "end it before its lines are thrown away, or pass another folder"):
                    pass
        for path in (*self.found(), self.path / RECORD):
            path.unlink(missing_ok=True)


def run_hash(options: Options, config: Options) -> str:
    """Return the hash that the lines of a config carry: of it, the options, the versions and this package's code."""
    shared = {"options": dict(options), "versions": versions(), "code": code_digest()}
    return digest_of({**shared, "config": sorted(config.items())}).removeprefix("sha256 ")


def _difference(name: str, before: Any, now: Any) -> str:
    lists = isinstance(before, list) and isinstance(now, list)
    if not lists or not all(isinstance(each, dict) and "name" in each for each in (*before, *now)):
        return f"{name} was {before!r}, is now {now!r}"
    old, new = ({each["name"]: each for each in held} for held in (before, now))
    said = {
        "only then": [each for each in old if each not in new],
        "only now": [each for each in new if each not in old],
        "changed": [each for each in new if each in old and old[each] != new[each]],
    }
    parts = [f"{how}: {', '.join(names)}" for how, names in said.items() if names]
    return f"{name} differ ({'; '.join(parts) or 'in their order'})"
