import sys

from nlpapp.text.docstrings import (
    Docstring,
    imported_docstrings,
    language_reference,
    parsed_docstrings,
    standard_library,
)

SOURCE = '''"""About the module."""
import sys
raise SystemExit("never run")

def function():
    """About the function."""
    def inner():
        """About the inner function."""

if sys:
    class Outer:
        """About the class."""

        class Inner:
            """About the inner class."""

        async def method(self):
            """About the method."""
'''


def test_docstrings_come_in_source_order_and_nothing_is_run(tmp_path):
    path = tmp_path / "module.py"
    path.write_text(SOURCE, encoding="utf-8")
    assert list(parsed_docstrings(path, "a.module")) == [
        Docstring("a.module", "", "About the module."),
        Docstring("a.module", "", "About the function."),
        Docstring("a.module", "", "About the inner function."),
        Docstring("a.module", "Outer", "About the class."),
        Docstring("a.module", "Outer", "About the inner class."),
        Docstring("a.module", "Outer", "About the method."),
    ]


def test_a_file_of_another_python_is_passed_over(tmp_path):
    path = tmp_path / "module.py"
    path.write_text("print 'two'", encoding="utf-8")
    assert list(parsed_docstrings(path, "module")) == []


def test_folders_of_tests_and_of_other_projects_are_left_out(tmp_path):
    for name in ("b.py", "a/__init__.py", "a/tests/c.py", "test/d.py", "site-packages/e.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text('"""Text."""', encoding="utf-8")
    assert [docstring.module for docstring in standard_library(tmp_path)] == ["a", "b"]


def test_modules_in_c_lose_their_underscore():
    found = list(imported_docstrings(sys.modules["_thread"]))
    assert {docstring.module for docstring in found} == {"thread"}
    assert any(docstring.owner == "lock" or "lock" in docstring.text for docstring in found)


def test_the_running_library_has_both_kinds_of_modules_and_no_tests():
    found = list(standard_library())
    modules = {docstring.module for docstring in found}
    assert {"json", "email.message", "math", "builtins"} <= modules
    assert not any(module.startswith(("test", "idlelib.idle_test")) for module in modules)


def test_topics_are_there_or_empty(monkeypatch):
    topics = language_reference()
    assert list(topics) == sorted(topics) and (not topics or "with" in topics)
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    assert language_reference() == {}
