"""What the documents tell the reader to type works: commands, options, files, make targets."""

import re
import shlex

import pytest

from nlpapp import cli
from nlpapp.errors import NlpappError
from tests.source_files import REPOSITORY

README = REPOSITORY / "README.md"
DOCUMENTS = [
    path
    for path in (
        README,
        REPOSITORY / "CONTRIBUTING.md",
        *sorted((REPOSITORY / "docs").glob("*.md")),
    )
    if path.name != "log.md"
]
FENCE = re.compile(r"^ *```[^\n]*\n(.*?)^ *```", flags=re.MULTILINE | re.DOTALL)
COMMAND = re.compile(
    r"^\$? *(?:\.venv/bin/)?(?:python -m )?nlpapp (?P<direct>.+)$"
    r"|^\$? *(?:\.venv/bin/)?accelerate launch .*?scripts/(?P<script>\w+)\.py(?P<options>.*)$"
)
MADE_BY_RUNS = ("runs/", ".venv/")


def code_lines(path):
    """Yield the lines of a document's code blocks, those continued with a backslash joined."""
    for block in FENCE.findall(path.read_text(encoding="utf-8")):
        yield from re.sub(r"\\\n\s*", " ", block).splitlines()


def commands():
    """Yield (document, line, arguments of nlpapp) for each command line that is complete."""
    for path in DOCUMENTS:
        if not path.is_file():
            continue
        for line in code_lines(path):
            match = COMMAND.match(line.strip())
            if match is None or "..." in line or re.search(r"<\w+>", line):
                continue  # a pattern to fill in, not a command
            words = shlex.split(match["direct"] or match["options"], comments=True)
            end = next((i for i, word in enumerate(words) if word in ("|", ">", "&&", ";")), None)
            script = [match["script"].replace("_", "-")] if match["script"] else []
            yield pytest.param([*script, *words[:end]], id=f"{path.name}: {line.strip()[:70]}")


@pytest.fixture(autouse=True)
def from_the_repository_root(monkeypatch):
    monkeypatch.chdir(REPOSITORY)


@pytest.mark.parametrize("arguments", commands())
def test_command_is_accepted(arguments):
    command, *options = arguments
    if command in ("--help", "--version"):
        return
    try:
        parsed = cli.parse(command, options)
    except SystemExit as stop:  # --help, --print_config
        assert stop.code in (0, None)
    except NlpappError as error:
        pytest.fail(f"nlpapp {shlex.join(arguments)}: {error}")
    else:
        assert parsed is not None


def test_readme_shows_the_two_commands_and_every_command():
    text = README.read_text(encoding="utf-8")
    blocks = "\n".join(code_lines(README))
    assert "make quickstart" in blocks
    assert "make test" in blocks
    missing = [command for command in cli.COMMANDS if f"`{command}`" not in text]
    assert not missing, f"README.md has a table of the commands, but not {missing}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_make_targets_exist(path):
    targets = re.findall(r"^([\w-]+):", (REPOSITORY / "Makefile").read_text(), flags=re.MULTILINE)
    text = path.read_text(encoding="utf-8")
    inline = re.findall(r"`make ([\w-]+)[^`]*`", text)
    in_blocks = [
        match[1]
        for line in code_lines(path)
        if (match := re.match(r"\$? *make ([\w-]+)", line.strip()))
    ]
    unknown = sorted(set(inline + in_blocks) - set(targets))
    assert not unknown, f"{path.name} names make targets that the Makefile lacks: {unknown}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_linked_files_exist(path):
    text = path.read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", text)
    missing = [
        target
        for target in targets
        if "://" not in target
        and not target.startswith("mailto:")
        and not (path.parent / target).exists()
    ]
    assert not missing, f"{path.name} links to files that are not there: {missing}"


def tree_paths(block):
    """Return the paths of an annotated tree: deeper lines lie below the folder above them."""
    found, folders = [], []
    for line in re.sub("[\u2500-\u257f]", " ", block).splitlines():
        indent = len(line) - len(line.lstrip())
        while folders and folders[-1][0] >= indent:
            folders.pop()
        parent = folders[-1][1] if folders else ""
        names = []
        for word in line.split():
            word = word.rstrip(",")
            if not re.fullmatch(r"[\w.*-]+(/[\w.*-]*)*", word) or not re.search(
                r"[./]|Makefile", word
            ):
                break
            names.append(word)
        found += [parent + name for name in names]
        if names and names[0].endswith("/"):
            folders.append((indent, parent + names[0]))
    return found


def test_tree_paths_are_read_from_indentation():
    block = (
        "Makefile README.md   (two files)\nnlpapp/\n    cli.py  the table\n    text/   no torch\n"
    )
    assert tree_paths(block + "        prose.py\ndocs/\n") == [
        "Makefile",
        "README.md",
        "nlpapp/",
        "nlpapp/cli.py",
        "nlpapp/text/",
        "nlpapp/text/prose.py",
        "docs/",
    ]


def test_every_file_of_the_annotated_tree_exists():
    blocks = FENCE.findall(README.read_text(encoding="utf-8"))
    trees = [block for block in blocks if "nlpapp/" in block and "cli.py" in block]
    assert trees, "README.md has an annotated tree of the files"
    paths = [path for block in trees for path in tree_paths(block)]
    missing = [
        path
        for path in paths
        if not path.startswith(MADE_BY_RUNS) and not list(REPOSITORY.glob(path.rstrip("/")))
    ]
    assert not missing, f"the tree in README.md names what is not there: {missing}"
