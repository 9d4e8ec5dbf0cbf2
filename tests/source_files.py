"""What the tests about the source itself share: which files there are, and their syntax trees."""

import ast
import functools
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = REPOSITORY / "nlpapp"


def python_files(*folders: str) -> list[Path]:
    """Return the Python files below ``folders`` of the repository, sorted."""
    found = [path for folder in folders for path in (REPOSITORY / folder).rglob("*.py")]
    return sorted(path for path in found if "__pycache__" not in path.parts)


def text_files() -> list[Path]:
    """Return every text file that belongs to the project, sorted."""
    folders = ["nlpapp", "tests", "configs", "scripts", "docs", ".ci"]
    endings = {".py", ".md", ".yaml", ".yml", ".toml", ".sh", ".txt", ".json"}
    found = [path for folder in folders for path in (REPOSITORY / folder).rglob("*")]
    found += [path for path in REPOSITORY.iterdir() if path.name != "requirements.lock"]
    kept = [
        path
        for path in found
        if path.is_file() and (path.suffix in endings or path.name in ("Makefile", "run"))
    ]
    return sorted(path for path in kept if "__pycache__" not in path.parts)


@functools.cache
def tree(path: Path) -> ast.Module:
    """Return the syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def where(path: Path, node: ast.AST | int) -> str:
    """Return ``file:line`` for a message."""
    line = node if isinstance(node, int) else getattr(node, "lineno", 1)
    return f"{path.relative_to(REPOSITORY)}:{line}"


def report(violations: list[str], what_to_do: str) -> str:
    """Return the message of a failed rule: what to do, then each place."""
    return f"{what_to_do}\n  " + "\n  ".join(violations)
