"""Imports go one way (docs/architecture.md): a room imports only from the rooms below it."""

import ast
import functools
import subprocess
import sys

import pytest

from tests.source_files import PACKAGE, python_files, report, tree, where

BASE = {"nlpapp.disk", "nlpapp.errors", "nlpapp.seeding"}
ROOMS = {
    "disk": set(),
    "errors": set(),
    "seeding": set(),
    "text": {"nlpapp.text"},
    "data": {"nlpapp.text", "nlpapp.data"},
    "models": {"nlpapp.models"},
    "objectives": {"nlpapp.objectives"},
    "training": {"nlpapp.training", "nlpapp.data.sampling", "nlpapp.objectives.step"},
    "evaluation": {"nlpapp.evaluation"},
    "deployment": {"nlpapp.deployment"},
    "recipes": {
        "nlpapp.text",
        "nlpapp.data",
        "nlpapp.models",
        "nlpapp.objectives",
        "nlpapp.training",
        "nlpapp.evaluation",
        "nlpapp.deployment",
    },
    "cli": {"nlpapp.recipes"},
    "__main__": {"nlpapp.cli"},
    "__init__": set(),
}
"""What each room may import besides the base; a name allows what is below it."""
COMPOSING_RECIPES = {
    "quickstart",
    "quickstart_stages",
    "glue",
    "distill",
    "ablation",
    "ablation_costs",
    "ablation_plan",
    "export",
    "multitask",
    "multitask_results",
}
"""Recipes made of other recipes; all others stand alone."""
HEAVY = {"torch", "transformers", "accelerate", "datasets"}


def module_name(path):
    parts = ("nlpapp", *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_module(name):
    path = PACKAGE.parent / name.replace(".", "/")
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


class Imports(ast.NodeVisitor):
    """Collects (module, line) of every import that runs; those for type checkers only do not."""

    def __init__(self, module, is_package):
        self.package = module if is_package else module.rpartition(".")[0]
        self.found = []

    def visit_If(self, node):
        if ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for statement in node.orelse:
                self.visit(statement)
        else:
            self.generic_visit(node)

    def visit_Import(self, node):
        self.found += [(alias.name, node.lineno) for alias in node.names]

    def visit_ImportFrom(self, node):
        parent = node.module or ""
        if node.level:
            above = self.package.split(".")[: len(self.package.split(".")) - node.level + 1]
            parent = ".".join([*above, parent] if parent else above)
        for alias in node.names:
            # `from nlpapp.training import checkpoint` imports a module, not a name in one.
            inner = f"{parent}.{alias.name}"
            self.found.append((inner if is_module(inner) else parent, node.lineno))


@functools.cache
def imports(path):
    visitor = Imports(module_name(path), path.name == "__init__.py")
    visitor.visit(tree(path))
    return visitor.found


def is_allowed(room, path, imported):
    if imported in BASE or imported == "nlpapp":
        return True
    allowed = ROOMS[room]
    if room == "recipes" and path.stem in COMPOSING_RECIPES:
        allowed = allowed | {"nlpapp.recipes"}
    return any(imported == name or imported.startswith(name + ".") for name in allowed)


def room_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_every_room_is_known():
    found = sorted({room_of(path) for path in python_files("nlpapp")} - set(ROOMS))
    assert not found, f"say in ROOMS what these may import: {found}"


def test_imports_go_one_way():
    found = [
        f"{where(path, line)} {room_of(path)} imports {imported}"
        for path in python_files("nlpapp")
        for imported, line in imports(path)
        if imported.split(".")[0] == "nlpapp" and not is_allowed(room_of(path), path, imported)
    ]
    assert not found, report(
        found, "Pass the thing as an argument from the recipe, or move it to a lower room:"
    )


def test_text_knows_no_torch():
    found = [
        f"{where(path, line)} imports {imported}"
        for path in python_files("nlpapp/text")
        for imported, line in imports(path)
        if imported.split(".")[0] in {"torch", "accelerate"}
    ]
    assert not found, report(found, "nlpapp.text works on strings and numpy arrays only:")


def test_only_training_knows_accelerate():
    found = [
        f"{where(path, line)} imports {imported}"
        for path in python_files("nlpapp")
        for imported, line in imports(path)
        if imported.split(".")[0] == "accelerate" and room_of(path) != "training"
    ]
    assert not found, report(found, "The engine alone deals with devices and processes:")


def test_runtime_reaches_no_torch():
    start = PACKAGE / "deployment" / "runtime.py"
    assert start.is_file()
    found, seen, waiting = [], set(), [start, PACKAGE / "__init__.py"]
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        for imported, line in imports(path):
            if imported.split(".")[0] in HEAVY:
                found.append(f"{where(path, line)} imports {imported}")
            waiting += own_files(imported)
        waiting += own_files(module_name(path))
    assert not found, report(
        found, "What an exported model runs on is numpy, onnxruntime, tokenizers:"
    )


def own_files(module):
    """Return the files that importing ``module`` runs: its own, and those of the packages above."""
    if module.split(".")[0] != "nlpapp":
        return []
    parts = module.split(".")[1:]
    files = [PACKAGE.joinpath(*parts[:depth], "__init__.py") for depth in range(len(parts) + 1)]
    files.append(PACKAGE.joinpath(*parts).with_suffix(".py"))
    return [path for path in files if path.is_file()]


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("nlpapp.deployment.runtime", sorted(HEAVY)),
        ("nlpapp.text.documents", ["torch"]),
        ("nlpapp.text.sources", ["torch", "transformers", "datasets", "pyarrow"]),
        # What a worker of make-data imports.
        ("nlpapp.data.shard_tasks", [*sorted(HEAVY), "pandas"]),
        ("nlpapp.data.corpus_text", [*sorted(HEAVY), "pandas"]),
        ("nlpapp.recipes.make_data", ["torch"]),
        ("nlpapp.cli", ["torch", "transformers"]),
    ],
)
def test_importing_stays_light(module, absent):
    """Python itself is the witness: what is in sys.modules after the import."""
    code = f"import sys, {module}; print([m for m in {absent!r} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "[]", f"{module} imports {result.stdout}"
