"""The size of folders, files and functions, unique class names, and the absence of import cycles."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from itertools import groupby
from pathlib import Path
from statistics import median

import grimp

PACKAGE = Path(__file__).parents[2] / "mqttkit"
FILES = sorted(PACKAGE.rglob("*.py"))


def functions() -> dict[str, int]:
    """Return the number of lines of each function, by its place."""
    return {
        f"{path.relative_to(PACKAGE)}:{node.lineno} {node.name}": (node.end_lineno or 0) - node.lineno + 1
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def test_a_folder_has_at_most_15_modules() -> None:
    modules = [path for path in FILES if path.name != "__init__.py"]
    sizes = {folder: len(list(inside)) for folder, inside in groupby(modules, key=lambda path: path.parent)}
    assert {str(folder): size for folder, size in sizes.items() if size > 15} == {}


def test_a_file_has_at_most_400_lines() -> None:
    sizes = {str(path): len(path.read_text().splitlines()) for path in FILES}
    assert {path: size for path, size in sizes.items() if size > 400} == {}


def test_a_function_has_at_most_40_lines_and_ten_in_the_median() -> None:
    sizes = functions()
    assert {place: size for place, size in sizes.items() if size > 40} == {}
    assert median(sizes.values()) <= 10


def test_no_module_imports_itself_through_others() -> None:
    graph = grimp.build_graph("mqttkit", cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    TopologicalSorter(imports).prepare()  # raises CycleError, with the modules of the cycle
    assert "mqttkit.cli" in imports


def test_a_class_name_has_one_meaning() -> None:
    """Private classes may share a name: only their own module uses them."""
    places: dict[str, list[str]] = {}
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(f"{path.relative_to(PACKAGE)}:{node.lineno}")
    assert {name: found for name, found in places.items() if len(found) > 1} == {}
