"""The rules of CONTRIBUTING.md about the source. A failure names the lines and the way out."""

import ast
import io
import re
import tokenize

from tests.source_files import PACKAGE, REPOSITORY, python_files, report, text_files, tree, where

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
ALL_CODE = ("nlpapp", "tests", "scripts")
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "misc"}
PICKLE_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
# Spelled in two parts, so that this file does not break its own rules.
UNFINISHED = re.compile("TO" + "DO|FIX" + "ME|XX" + "X|NotImplemented" + "Error")
MACHINE_PATH = re.compile(
    r"(?<![\w.:/])(/ho"
    + r"me/\w|/ro"
    + r"ot/|/Us"
    + r"ers/\w|[A-Z]:\\Us"
    + r"ers)"
    # The folder in which this very copy of the repository lies.
    + f"|{re.escape(str(REPOSITORY))}"
)
CHECKING_CALLS = re.compile(
    r"^(assert|check|raises|warns|fail|skip|approx_equal|expect|verify)|_equal$"
)


def functions(path):
    return [node for node in ast.walk(tree(path)) if isinstance(node, FUNCTIONS)]


def length(function):
    return function.end_lineno - function.lineno + 1


def test_files_are_short():
    found = []
    for path in python_files(*ALL_CODE):
        lines = len(path.read_text(encoding="utf-8").splitlines())
        most = 200 if path.parent == PACKAGE / "recipes" else 500
        if lines > most:
            found.append(f"{where(path, lines)} has {lines} lines, the most is {most}")
    assert not found, report(found, "Split by responsibility, or move code down into a room:")


def test_scripts_are_entry_files():
    found = [
        f"{where(path, 1)} has {lines} lines"
        for path in python_files("scripts")
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > 10
    ]
    assert not found, report(found, "A script has at most 10 lines; its code belongs in a recipe:")


def test_functions_are_at_most_100_lines():
    found = [
        f"{where(path, function)} {function.name} has {length(function)} lines"
        for path in python_files(*ALL_CODE)
        for function in functions(path)
        if length(function) > 100
    ]
    assert not found, report(found, "Give the parts of these functions names of their own:")


def test_few_functions_are_over_50_lines():
    sizes = {
        f"{where(path, function)} {function.name}: {length(function)} lines": length(function)
        for path in python_files("nlpapp")
        for function in functions(path)
    }
    long = sorted((name for name, size in sizes.items() if size > 50), key=sizes.get, reverse=True)
    share = len(long) / max(1, len(sizes))
    assert share <= 0.08, report(
        long, f"{share:.1%} of the functions have over 50 lines, the most is 8 %; split some of:"
    )


def test_functions_take_at_most_8_positional_parameters():
    found = []
    for path in python_files(*ALL_CODE):
        for function in functions(path):
            names = [a.arg for a in (*function.args.posonlyargs, *function.args.args)]
            names = [name for name in names if name not in ("self", "cls")]
            if len(names) > 8:
                found.append(f"{where(path, function)} {function.name} takes {len(names)}")
    assert not found, report(found, "Make them keyword-only (after *), or group them in a class:")


def test_modules_are_named_for_what_they_hold():
    found = [
        where(path, 1)
        for path in (*PACKAGE.rglob("*"), *(REPOSITORY / "tests").rglob("*.py"))
        if path.stem in VAGUE_NAMES and "__pycache__" not in path.parts
    ]
    assert not found, report(
        found, "Name the file for its content, or move it to where it is used:"
    )


def test_nothing_is_left_unfinished():
    found = [
        f"{where(path, number)} {line.strip()}"
        for path in python_files(*ALL_CODE)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if UNFINISHED.search(line)
    ]
    assert not found, report(found, "Do it, drop it, or open an issue:")


def test_no_pickle_is_read():
    found = []
    for path in python_files(*ALL_CODE):
        for node in ast.walk(tree(path)):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                modules = [alias.name for alias in node.names]
                modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else modules
                found += [
                    f"{where(path, node)} imports {module}"
                    for module in modules
                    if module.split(".")[0] in PICKLE_MODULES
                ]
            elif isinstance(node, ast.Call):
                found += [f"{where(path, node)} {fault}" for fault in unsafe_load(node)]
    assert not found, report(
        found, "A pickle can run code: use safetensors, JSON, parquet or weights_only=True:"
    )


def unsafe_load(call):
    """Say what is unsafe in a call of torch.load or numpy.load."""
    if not isinstance(call.func, ast.Attribute) or call.func.attr != "load":
        return
    owner = ast.unparse(call.func.value)
    options = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    if owner == "torch" and options.get("weights_only") != "True":
        yield "torch.load without weights_only=True"
    if owner in ("np", "numpy") and options.get("allow_pickle", "False") != "False":
        yield "numpy.load with allow_pickle"


def test_no_exception_is_swallowed_unnamed():
    found = [
        where(path, node)
        for path in python_files(*ALL_CODE)
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ExceptHandler) and node.type is None
    ]
    assert not found, report(found, "Name the exception that is expected here:")


def test_python_files_are_ascii_outside_strings():
    found = []
    for path in python_files(*ALL_CODE):
        text = path.read_text(encoding="utf-8")
        if text.isascii():
            continue
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            in_string = token.type == tokenize.STRING or "FSTRING" in tokenize.tok_name[token.type]
            if not in_string and not token.string.isascii():
                found.append(f"{where(path, token.start[0])} {token.string.strip()[:60]}")
    assert not found, report(found, "Comments and names are ASCII; only strings may hold more:")


def test_every_module_has_its_test_file():
    found = []
    for path in python_files("nlpapp"):
        if path.name.startswith("__"):
            continue
        mirrored = path.relative_to(PACKAGE).with_name(f"test_{path.name}")
        if not (REPOSITORY / "tests" / mirrored).is_file():
            found.append(f"{where(path, 1)} has no tests/{mirrored}")
    assert not found, report(found, "Tests mirror the package; write the missing files:")


def test_everything_public_has_a_docstring():
    found = []
    for path in python_files("nlpapp"):
        if path.name != "__init__.py" and not ast.get_docstring(tree(path)):
            found.append(f"{where(path, 1)} the module")
        found += [
            f"{where(path, node)} {node.name}"
            for node in public_definitions(tree(path))
            if not ast.get_docstring(node)
        ]
    assert not found, report(found, "Say what it does, with shapes and units:")


def public_definitions(owner):
    """Yield public functions and classes, and the public methods of public classes.

    A method that takes the place of another class's method may leave the words to that class.
    """
    for node in owner.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield node
            if not node.bases:
                yield from public_definitions(node)
        elif isinstance(node, FUNCTIONS) and not node.name.startswith("_"):
            yield node


def test_no_file_knows_a_machine():
    found = [
        f"{where(path, number)} {line.strip()[:80]}"
        for path in text_files()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if MACHINE_PATH.search(line)
    ]
    assert not found, report(found, "Use a path relative to the repository, or an option:")


def test_every_test_checks_something():
    found = [
        f"{where(path, function)} {function.name}"
        for path in python_files("tests")
        for function in functions(path)
        if function.name.startswith("test_") and not checks_something(function)
    ]
    assert not found, report(found, "A test that cannot fail is no test; assert what must hold:")


def checks_something(function):
    """Say whether a test asserts, expects an error, or calls something named for checking."""
    for node in ast.walk(function):
        if isinstance(node, ast.Assert):
            return True
        if isinstance(node, ast.Call):
            called = node.func
            name = getattr(called, "attr", None) or getattr(called, "id", "")
            if CHECKING_CALLS.search(name):
                return True
    return False
