"""The layering rule, read from the source. A new room gets a line in FLOORS; nothing else here needs to know it.

A room is a file or folder directly under prunevid_qwen/. It may import rooms of lower floors, never of its own or a
higher one: so a method never sees a model, an adapter never sees a method, and there are no circles.
"""

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import prunevid_qwen

PACKAGE = Path(__file__).resolve().parent.parent / "prunevid_qwen"

FLOORS = (
    ("errors", "version", "processes"),
    ("config", "kernels", "bundled"),
    ("tokens",),
    ("needs", "video"),
    ("reducer",),
    ("stage1_merge", "stage2_select", "stage3_kv", "adapters"),
    ("vision",),
    ("forward", "contract"),
    ("loading", "receipt", "kept"),
    ("inputs", "pictures"),
    ("answers",),
    ("model",),
    ("evaluation", "doctor", "app"),
    ("training", "serve"),  # training stores its runs as evaluation does
    ("cli",),
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
TOP = {"evaluation", "training", "cli"}  # who may know what stands alone

# Beyond the floors: room -> rooms of lower floors that it still must not know.
NEVER = {
    "stage1_merge": {"adapters"},
    "stage2_select": {"adapters"},
    "vision": {"stage1_merge", "stage2_select", "stage3_kv"},
}
# Generates data; knows nothing of the package, and nothing that answers questions may know it.
STANDS_ALONE = {"moving_shapes"}

# at import; cli loads it to answer
IMPORT_NO_TORCH = {"errors", "version", "processes", "config", "bundled", "moving_shapes", "doctor", "cli"}
IMPORT_TRANSFORMERS = {  # room, or file or folder inside one
    "adapters": "all that is known of a model family, of the library's calls, masks and files",
    "stage3_kv": "its cache is a transformers cache",
    "forward/pruned_run": "makes the cache of a batch",
    "forward/hooks": "finds what generate() calls",
    "forward/selfcheck": "which release is installed",
    "loading": "from_pretrained",
    "inputs/qwen": "tokenizer and chat template",
    "inputs/frontends": "the library's own processor",
    "receipt": "its version",
    "answers/streamer": "TextStreamer",
    "app": "what stops generate()",
    "serve": "what stops generate(), and what looks at its logits",
    "model": "generate",
    "cli": "quiet logging",
    "evaluation": "",
    "training": "",
}
ENVIRONMENT = {"os.environ", "os.getenv", "os.putenv"}
READ_ENVIRONMENT: dict[str, str] = {  # file -> which variable, and why no signature can show it
    "forward/selfcheck/verdicts.py": "XDG_CACHE_HOME: where the user wants caches; nobody calls it who could say",
    "app/launching.py": "GRADIO_TEMP_DIR: Gradio reads where uploads go there alone, when it is imported",
    "doctor/hub.py": "HF_HUB_OFFLINE, TRANSFORMERS_OFFLINE: it reports them",
}
PRINT = {"cli"}

CAP = 300
LONGER_THAN_CAP: dict[str, str] = {}


class Import(NamedTuple):
    """One import of a file: what, and when it runs."""

    module: str
    line: int
    at_import: bool  # at module level, not inside a function
    types_only: bool  # under `if TYPE_CHECKING`


FILES = sorted(path for path in PACKAGE.rglob("*.py") if "__pycache__" not in path.parts)
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in FILES}


def room_of(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return "" if first == "__init__.py" else first.removesuffix(".py")


def imports(path: Path) -> list[Import]:
    package = name_of(path) if path.name == "__init__.py" else name_of(path).rpartition(".")[0]

    def visit(node: ast.AST, at_import: bool, types_only: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield Import(alias.name, child.lineno, at_import, types_only)
            elif isinstance(child, ast.ImportFrom):
                base = ".".join(package.split(".")[: len(package.split(".")) - child.level + 1]) if child.level else ""
                source = ".".join(filter(None, (base, child.module or "")))
                for alias in child.names:
                    full = f"{source}.{alias.name}"
                    yield Import(full if full in MODULES else source, child.lineno, at_import, types_only)
            elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                yield from visit(child, at_import, True)
            else:
                inside = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
                yield from visit(child, at_import and not inside, types_only)

    return list(visit(TREES[path], True, False))


def rooms_imported(path: Path) -> list[tuple[str, int]]:
    parts = [(found.module.split("."), found.line) for found in imports(path)]
    inside = {(p[1], line) for p, line in parts if p[0] == "prunevid_qwen" and len(p) > 1 and p[1] != room_of(path)}
    return sorted(inside)


def places(wrong: list[str]) -> str:
    return "\n".join(["", *wrong])


def test_every_room_stands_on_a_floor() -> None:
    rooms = {room_of(path) for path in FILES} - {""}
    assert rooms - set(FLOOR_OF) - STANDS_ALONE == set(), "give the new room a line in FLOORS"


def test_rooms_import_lower_floors_only() -> None:
    wrong = []
    for path in FILES:
        room = room_of(path)
        if room not in FLOOR_OF:  # the package's face, what stands alone, and what the test above complains of
            continue
        for other, line in rooms_imported(path):
            where = f"{path.relative_to(PACKAGE)}:{line}: {room} imports {other}"
            if other in STANDS_ALONE:
                if room not in TOP:
                    wrong.append(f"{where}, which is for {', '.join(sorted(TOP))} alone")
            elif other in NEVER.get(room, ()):
                wrong.append(f"{where}, which it must not know")
            elif FLOOR_OF.get(other, -1) >= FLOOR_OF[room]:
                wrong.append(f"{where}, which is not below it")
    assert not wrong, places(wrong)


def test_moving_shapes_imports_nothing_of_the_package() -> None:
    wrong = [
        f"{path.relative_to(PACKAGE)}:{line}: {other}"
        for path in FILES
        if room_of(path) in STANDS_ALONE
        for other, line in rooms_imported(path)
    ]
    assert not wrong, places(wrong)


@pytest.mark.parametrize(
    ("library", "allowed", "only_at_import"),
    [
        ("torch", {room for room in FLOOR_OF if room not in IMPORT_NO_TORCH}, True),
        ("transformers", IMPORT_TRANSFORMERS, False),
    ],
)
def test_who_may_import(library: str, allowed: set[str], only_at_import: bool) -> None:
    wrong = [
        f"{path.relative_to(PACKAGE)}:{found.line}: {library}"
        for path in FILES
        for found in imports(path)
        if found.module.split(".")[0] == library
        and not found.types_only
        and (found.at_import or not only_at_import)
        and not {room_of(path), "/".join(path.relative_to(PACKAGE).parts[:2]).removesuffix(".py")} & {*allowed}
    ]
    assert not wrong, places(wrong)


def test_no_circle_among_the_files() -> None:
    """File by file, inside rooms too, whether an import runs at once, in a function, or for types alone."""
    arrows = {name: {f.module for f in imports(path)} & set(MODULES) - {name} for name, path in MODULES.items()}
    done: set[str] = set()

    def walk(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail[trail.index(name) :], name))
        if name not in done:
            for other in arrows[name]:
                walk(other, (*trail, name))
            done.add(name)

    for name in arrows:
        walk(name, ())


def test_nothing_reads_the_environment() -> None:
    wrong = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}: {ast.unparse(node)}"
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if (isinstance(node, ast.Attribute) and ast.unparse(node) in ENVIRONMENT)
        or (
            isinstance(node, ast.ImportFrom)
            and node.module == "os"
            and {f"os.{a.name}" for a in node.names} & ENVIRONMENT
        )
        if path.relative_to(PACKAGE).as_posix() not in READ_ENVIRONMENT
    ]
    assert not wrong, places(wrong)


def test_nothing_prints_but_the_command_line() -> None:
    wrong = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}"
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "print" and room_of(path) not in PRINT
    ]
    assert not wrong, places(wrong)


def test_files_stay_under_the_cap_or_say_why() -> None:
    lines = {p.relative_to(PACKAGE).as_posix(): len(p.read_text(encoding="utf-8").splitlines()) for p in FILES}
    long = {name for name, count in lines.items() if count > CAP}
    assert long - set(LONGER_THAN_CAP) == set(), f"over {CAP} lines: split it, or name it with its reason"
    assert set(LONGER_THAN_CAP) - long == set(), "no longer over the cap: take it off the list"


def test_the_face_of_the_package_leads_to_each_of_its_names() -> None:
    """`prunevid_qwen.X` is looked up when it is used; each name stands in all three lists, and in its room."""
    face = TREES[PACKAGE / "__init__.py"]
    named = {
        alias.asname or alias.name
        for node in ast.walk(face)
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("prunevid_qwen.")
        for alias in node.names
    }
    assert named == set(prunevid_qwen.__all__)
    for name in prunevid_qwen.__all__:
        assert getattr(prunevid_qwen, name) is not None, name
    assert {"Evidence", "Needs", "AttentionQuery", "VisionQuery", "register", "TokenMap", "TokenLayout"} <= named
    assert {"check_reducer", "Plan", "Step", "pruned", "PruneVidConfig"} <= named


PUBLIC = {
    "prunevid_qwen.stage1_merge": ("dpc_knn", "refine_segments", "merge_video"),
    "prunevid_qwen.stage2_select": ("max_max_scores", "select_per_group"),
    "prunevid_qwen.stage2_select.glimpse": ("GlimpseVIP",),
    "prunevid_qwen.video": ("read_video", "read_image"),
    "prunevid_qwen": (
        "AttentionQuery", "ConfigError", "Evidence", "MediaError", "Mix", "Needs", "Plan", "Probe", "PruneVidConfig",
        "PruneVidError", "PruneVidQwen25VL", "PrunedVLM", "PruningNotApplied", "SetupError", "Step", "TokenLayout",
        "TokenMap", "UnsupportedError", "VisionQuery", "__version__", "check_reducer", "get_aggressive_config",
        "get_baseline_config", "get_config", "get_conservative_config", "get_fast_config", "get_fastv_config",
        "get_glimpse_config", "get_paper_config", "get_recommended_config", "get_reference_config",
        "get_stage1_only_config", "pruned", "register",
    ),
}  # fmt: skip
"""What users import, and from where: a name may be added, and none may go."""


def test_public_imports_stay_where_users_have_them() -> None:
    for room, names in PUBLIC.items():
        module = importlib.import_module(room)
        assert [name for name in names if not hasattr(module, name)] == [], room
