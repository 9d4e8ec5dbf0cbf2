"""The documentation every Python carries: docstrings of its standard library, by module.

Python modules are parsed, never imported. Modules written in C have to be imported to be read, so
only those built into the interpreter and a fixed list of harmless ones are.
"""

import ast
import importlib
import inspect
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

EXTENSION_MODULES = (
    "_asyncio _bisect _bz2 _csv _ctypes _datetime _decimal _elementtree _hashlib _heapq "
    "_json _lzma _multiprocessing _pickle _posixsubprocess _queue _random _socket _sqlite3 "
    "_ssl _statistics _struct array audioop binascii cmath fcntl grp math mmap pwd pyexpat "
    "resource select spwd syslog termios unicodedata zlib"
)
"""Modules in C that are not built in everywhere; those that are absent are passed over."""

SKIPPED_FOLDERS = (
    "test tests idle_test site-packages dist-packages __pycache__ _bundled lib-dynload "
    "encodings turtledemo pydoc_data"
)


@dataclass(frozen=True)
class Docstring:
    """The docstring of one module, class or function."""

    module: str
    """Dotted name of the module; of a module in C without its leading underscore."""
    owner: str
    """Name of the outermost class it belongs to; empty for functions and the module itself."""
    text: str


def standard_library(folder: Path | None = None) -> Iterator[Docstring]:
    """Yield the docstrings of the running interpreter's library, sorted by module, in source order.

    ``folder`` is where the library's .py files are; by default where this interpreter says.
    """
    root = folder or Path(sysconfig.get_paths()["stdlib"])
    skipped = SKIPPED_FOLDERS.split()
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if not any(part in skipped or part.startswith("config-") for part in relative.parts):
            yield from parsed_docstrings(path, _module_name(relative))
    if folder is None:
        for name in sorted({*sys.builtin_module_names, *EXTENSION_MODULES.split()}):
            try:
                module = importlib.import_module(name)
            except ImportError:
                continue
            yield from imported_docstrings(module)


def language_reference() -> dict[str, str]:
    """Return the topics of `help()`, the language reference as text; empty where there is none."""
    try:
        topics = importlib.import_module("pydoc_data.topics")
    except ImportError:
        return {}
    return dict(sorted(topics.topics.items()))


def _module_name(relative: Path) -> str:
    parts = relative.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def parsed_docstrings(path: Path, module: str) -> Iterator[Docstring]:
    """Yield the docstrings of one source file; nothing if this interpreter cannot parse it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return
    yield from _node_docstrings(tree, module, "")


def _node_docstrings(node: ast.AST, module: str, owner: str) -> Iterator[Docstring]:
    if isinstance(node, ast.ClassDef):
        owner = owner or node.name
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        text = ast.get_docstring(node)
        if text:
            yield Docstring(module, owner, text)
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt):
            yield from _node_docstrings(child, module, owner)


def imported_docstrings(module: ModuleType) -> Iterator[Docstring]:
    """Yield the docstrings of a module in C: its own, then those of its members by name."""
    name = module.__name__.lstrip("_")
    if module.__doc__:
        yield Docstring(name, "", inspect.cleandoc(module.__doc__))
    for key, member in sorted(vars(module).items()):
        if inspect.isclass(member) and getattr(member, "__module__", None) in {
            module.__name__,
            name,
        }:
            yield from _class_docstrings(member, name, key)
        elif inspect.isbuiltin(member) and member.__doc__:
            yield Docstring(name, "", inspect.cleandoc(member.__doc__))


def _class_docstrings(member: type, module: str, owner: str) -> Iterator[Docstring]:
    if isinstance(member.__doc__, str):
        yield Docstring(module, owner, inspect.cleandoc(member.__doc__))
    for _, attribute in sorted(vars(member).items()):
        text = getattr(attribute, "__doc__", None)
        described = inspect.isroutine(attribute) or inspect.isdatadescriptor(attribute)
        if described and isinstance(text, str):
            yield Docstring(module, owner, inspect.cleandoc(text))
