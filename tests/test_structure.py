"""The layout of the package: floors that imports go down, and the size of classes and files."""

import ast
import pathlib

import pytest

import sb3_reptile

PACKAGE = pathlib.Path(sb3_reptile.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
# Imports go from a floor to itself or to those before it
FLOORS = (
    {"storage"},
    {"networks"},
    {"replay", "envs"},
    {"reptile_dqn", "checkpoint", "vec_env", "figures"},
    {"callbacks", "evaluation", "zoo"},
)
# sb3_reptile.envs.EpisodeRecorder, which is in checkpoint now, is looked up there when it is asked for
FORMER_NAMES = {("envs", "checkpoint")}
MAX_LINES, MAX_METHODS, MAX_LINES_OF_FILE = 300, 20, 500


def module_name(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in FILES}


def room(module):
    """The first part of a module's name within the package; the package itself is the top."""
    return [*module.split("."), ""][1]


def floor(module):
    return next((number for number, rooms in enumerate(FLOORS) if room(module) in rooms), len(FLOORS))


def imports(path, deferred):
    """Modules of the package that a module imports, when it is loaded or, if ``deferred``, inside of functions."""

    def visit(node, in_function):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                continue
            if in_function == deferred and isinstance(child, ast.Import):
                yield from (alias.name for alias in child.names)
            elif in_function == deferred and isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{path} has a relative import"
                names = {f"{child.module}.{alias.name}" for alias in child.names}
                yield from (names & MODULES.keys()) or {child.module}
            yield from visit(child, in_function or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef))

    return {
        name for name in visit(ast.parse(path.read_text(encoding="utf-8")), False) if name.split(".")[0] == PACKAGE.name
    }


def test_every_room_has_a_floor():
    rooms = {room(module) for module in MODULES} - {""}
    assert rooms == set().union(*FLOORS)


@pytest.mark.parametrize("module", list(MODULES))
def test_imports_go_down(module):
    for deferred in (False, True):
        for imported in imports(MODULES[module], deferred):
            if imported == PACKAGE.name or (deferred and (room(module), room(imported)) in FORMER_NAMES):
                continue
            assert floor(imported) <= floor(module), f"{module} imports {imported}, which is above it"


def test_there_is_no_circle_of_imports():
    graph = {module: imports(path, deferred=False) & MODULES.keys() - {module} for module, path in MODULES.items()}
    # A package is loaded before its modules, which do not depend on what it collects from them
    for module in graph:
        graph[module] = {other for other in graph[module] if not module.startswith(f"{other}.")}
    while leaves := [module for module, others in graph.items() if not others & graph.keys()]:
        for leaf in leaves:
            del graph[leaf]
    assert not graph, f"these import each other in a circle, or such modules: {sorted(graph)}"


def classes():
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                yield pytest.param(node, id=f"{path.relative_to(PACKAGE)}:{node.name}")


@pytest.mark.parametrize("node", list(classes()))
def test_classes_are_small(node):
    documented = [part for part in ast.walk(node) if isinstance(part, ast.ClassDef | ast.FunctionDef)]
    strings = [part.body[0] for part in documented if ast.get_docstring(part) is not None]
    lines = node.end_lineno - node.lineno + 1 - sum(text.end_lineno - text.lineno + 1 for text in strings)
    methods = {part.name for part in node.body if isinstance(part, ast.FunctionDef)}
    assert lines <= MAX_LINES
    assert len(methods) <= MAX_METHODS


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_are_short_and_say_what_lives_there(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_LINES_OF_FILE
    assert ast.get_docstring(ast.parse(text))
