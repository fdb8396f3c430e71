"""Which packages may import which, how large they are, and that public names are unique."""

import ast
from collections import defaultdict
from itertools import chain
from pathlib import Path

import pytest

from conftest import ROOT

# Each room may import those above it in this list, as far as `MAY_IMPORT` does not narrow that down.
ROOMS = [
    "models", "backends", "clock", "codec", "checkout", "cache", "processes", "worker", "machine", "migration",
    "records", "journal", "withdrawal", "suite", "run_info", "console", "analysis", "loadgen", "engine", "training",
    "report", "compare", "exports", "bundle", "fleet", "commands", "cli",
]  # fmt: skip
MAY_IMPORT = {
    "models": set(),
    "backends": {"models"},
    "clock": set(),
    "checkout": set(),
    "bundle": {"models", "checkout"},
    "codec": set(),
    "cache": {"models", "backends"},
    "processes": {"models"},
    "worker": {"models", "backends", "clock", "codec"},
    "machine": {"models", "clock", "processes"},
    "records": {"codec", "worker"},
    "migration": {"codec"},
    "journal": {"models", "codec", "migration", "records"},
    "withdrawal": {"models", "codec", "journal"},
    "console": {"models", "clock"},
}
MOST_FILES, SMALLEST_SHARED_MODULE = 12, 60


def modules() -> dict[str, Path]:
    """Return every module of the project by its dotted name."""
    files = chain.from_iterable((ROOT / package).rglob("*.py") for package in ("bench", "backends", "models"))
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in files}


def room_of(module: str) -> str:
    package, *inner = module.split(".")
    return inner[0] if package == "bench" and inner else package


def imports() -> set[tuple[str, str]]:
    """Return every (importing module, imported module), those for type checking included."""
    every = modules()
    pairs = set()
    for module, path in every.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
                pairs |= {(module, name if name in every else node.module) for name in names}
            elif isinstance(node, ast.Import):
                pairs |= {(module, alias.name) for alias in node.names}
    return {(importer, imported) for importer, imported in pairs if imported in every}


def public_definitions(path: Path) -> set[str]:
    """Return the functions, classes and constants that a module defines for others; a type variable is its own."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {name.id for target in node.targets for name in ast.walk(target) if isinstance(name, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return {name for name in names if not name.startswith("_") and len(name) > 1}


def test_imports_between_rooms_point_one_way() -> None:
    allowed = {room: MAY_IMPORT.get(room, set(ROOMS[:index])) | {room} for index, room in enumerate(ROOMS)}
    upwards = {
        (importer, imported)
        for importer, imported in imports()
        if importer not in ("bench", "bench.__main__") and imported != "bench"
        if room_of(imported) not in allowed[room_of(importer)]
    }
    assert upwards == set()


def test_no_room_is_crowded() -> None:
    files = defaultdict(list)
    for path in modules().values():
        files[path.parent].append(path.name)
    crowded = {folder for folder, names in files.items() if len(set(names) - {"__init__.py"}) > MOST_FILES}
    assert crowded == set()


def test_no_module_is_a_page_torn_out_of_its_only_importer() -> None:
    importers = defaultdict(set)
    for importer, imported in imports():
        importers[imported].add(importer)
    torn_out = {
        module
        for module, path in modules().items()
        if module.startswith("bench.") and path.name not in ("__init__.py", "__main__.py")
        if len(path.read_text().splitlines()) < SMALLEST_SHARED_MODULE
        if len(importers[module]) == 1 and {room_of(importer) for importer in importers[module]} == {room_of(module)}
    }
    assert torn_out == set()


@pytest.mark.parametrize("package", ["bench", "models"])
def test_a_public_name_is_defined_once(package) -> None:
    owners = defaultdict(list)
    for module, path in modules().items():
        # The Python API, the command line and its commands are called by their verbs: load, run, train, report.
        if module.split(".")[0] == package and module != "bench" and room_of(module) not in ("cli", "commands"):
            for name in public_definitions(path):
                owners[name].append(module)
    assert {name: modules for name, modules in owners.items() if len(modules) > 1} == {}
