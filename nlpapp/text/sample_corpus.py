"""The sample corpus and task of the quickstart: English that every Python carries.

Docstrings of the standard library and topics of the language reference -> prose -> documents
(a module, a class with much to say, or a topic), without repeated sentences. The task is to tell
from a few consecutive sentences which part of the library they describe. Modules of its dev and
test splits are in no training text at all: they are the held-out text of pretraining.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nlpapp import seeding
from nlpapp.errors import DataError
from nlpapp.text.docstrings import Docstring, language_reference, standard_library
from nlpapp.text.prose import prose_sentences

LIBRARY_PARTS: dict[str, dict[str, str]] = {
    "networking": {
        "train": "email http socket wsgiref nntplib socketserver cgi mailbox telnetlib poplib "
        "smtpd "
        "webbrowser mailcap asyncore asynchat xmlrpc cgitb netrc ipaddress",
        "dev": "smtplib",
        "test": "urllib ftplib imaplib ssl",
    },
    "files": {
        "train": "os shutil io zipfile bz2 fcntl dbm pipes filecmp stat termios mmap grp pwd "
        "resource "
        "glob fnmatch getpass linecache pty fileinput tempfile shelve platform",
        "dev": "pathlib lzma",
        "test": "tarfile gzip zlib zipapp",
    },
    "concurrency": {
        "train": "asyncio multiprocessing subprocess signal queue sched contextvars",
        "dev": "concurrent select selectors",
        "test": "threading",
    },
    "numbers": {
        "train": "decimal builtins collections math calendar array heapq bisect itertools numbers "
        "operator time random",
        "dev": "datetime enum",
        "test": "statistics fractions cmath zoneinfo",
    },
    "development": {
        "train": "unittest lib2to3 importlib inspect pydoc ast typing dis pyclbr symtable "
        "tokenize imp "
        "pkgutil pickletools code codeop py_compile compileall modulefinder gc warnings runpy "
        "abc zipimport pdb pstats trace",
        "dev": "profile cProfile timeit tracemalloc traceback",
        "test": "doctest bdb",
    },
    "interfaces": {
        "train": "tkinter idlelib",
        "dev": "idlelib.editor idlelib.pyshell idlelib.configdialog idlelib.config "
        "idlelib.autocomplete idlelib.colorizer idlelib.sidebar",
        "test": "turtle curses idlelib.query idlelib.search idlelib.tree idlelib.undo "
        "idlelib.tooltip",
    },
}
"""label -> split -> modules. A package stands for its modules, but for those named themselves."""

SAME_MODULE = {
    "_collections_abc": "collections",
    "_py_abc": "abc",
    "_pydatetime": "datetime",
    "_pydecimal": "decimal",
    "_pyio": "io",
    "_strptime": "time",
    "_threading_local": "threading",
    "genericpath": "os",
    "nt": "os",
    "ntpath": "os",
    "posix": "os",
    "posixpath": "os",
    "thread": "threading",
}
"""Modules that are implementations of another and repeat its documentation."""

FEWEST_SENTENCES = 4
"""A document with fewer is left out: next-sentence prediction needs something to follow."""
LARGE_MODULE, LARGE_CLASS = 60, 12
"""Sentences from which a module is cut up, and a class of it is a document of its own."""
SHORTEST_PASSAGE, AIMED_PASSAGE, LONGEST_PASSAGE = 30, 40, 80
"""Words of a passage of the task."""
MOST_PASSAGES = {"train": 700, "dev": 90, "test": 120}
"""Of one label in one split, so that no label has a large majority."""


@dataclass(frozen=True)
class SampleDocument:
    """A document of the sample corpus."""

    module: str
    """Dotted name; empty for a topic of the language reference."""
    sentences: tuple[str, ...]
    label: str = ""
    """The part of the library it belongs to; empty where it is in none."""
    split: str = "train"


def write_sample(folder: str | Path, seed: int = 42) -> dict[str, object]:
    """Write the sample corpus and task to ``folder``, and return what was written.

    Files: corpus/train.txt, corpus/heldout.txt and its two halves dev.txt and test.txt (a sentence
    a line, a blank line between documents), task/{train,dev,test}.tsv (sentence, label) and
    task/labels.txt. ``seed`` orders the rows of the task; the corpus is the same for every seed.

    Raises:
        DataError: if this Python carries no docstrings (some minimal installations strip them).
    """
    folder = Path(folder)
    documents = sample_documents(standard_library(), language_reference())
    task = {split: passages(documents, split) for split in ("train", "dev", "test")}
    if min(map(len, task.values())) == 0:
        raise DataError(
            f"This Python carries too few docstrings for the sample corpus ({len(documents)} "
            "documents "
            "found): the source files of its standard library are missing. Use a full installation."
        )
    summary: dict[str, object] = {"labels": list(LIBRARY_PARTS)}
    (folder / "corpus").mkdir(parents=True, exist_ok=True)
    (folder / "task").mkdir(parents=True, exist_ok=True)
    parts = {"train": ("train",), "heldout": ("dev", "test"), "dev": ("dev",), "test": ("test",)}
    for name, splits in parts.items():
        chosen = [document for document in documents if document.split in splits]
        text = "\n\n".join("\n".join(document.sentences) for document in chosen) + "\n"
        (folder / "corpus" / f"{name}.txt").write_text(text, encoding="utf-8")
        summary[f"{name}_documents"] = len(chosen)
        summary[f"{name}_sentences"] = sum(len(document.sentences) for document in chosen)
        summary[f"{name}_bytes"] = len(text.encode())
    for split, rows in task.items():
        order = seeding.generator(seed, "sample task", split).permutation(len(rows))
        lines = [f"{rows[index][0]}\t{rows[index][1]}\n" for index in order]
        text = "sentence\tlabel\n" + "".join(lines)
        (folder / "task" / f"{split}.tsv").write_text(text, encoding="utf-8")
        summary[f"{split}_passages"] = len(rows)
    (folder / "task" / "labels.txt").write_text(
        "".join(f"{label}\n" for label in LIBRARY_PARTS), encoding="utf-8"
    )
    return summary


def sample_documents(
    docstrings: Iterable[Docstring], topics: dict[str, str]
) -> list[SampleDocument]:
    """Return the documents of the corpus, in order of module names and then of topics.

    A sentence is kept where it stands first, whatever its letter case and punctuation.
    """
    seen: set[str] = set()
    documents = []
    for module, parts in _by_module(docstrings, seen).items():
        label, split = find_part(module)
        for sentences in _cut_module(parts):
            documents.append(SampleDocument(module, tuple(sentences), label, split))
    for text in topics.values():
        documents.append(SampleDocument("", tuple(_fresh(prose_sentences(text), seen))))
    return [document for document in documents if len(document.sentences) >= FEWEST_SENTENCES]


def _by_module(docstrings: Iterable[Docstring], seen: set[str]) -> dict[str, dict[str, list[str]]]:
    """Return module -> outermost class (or "") -> sentences."""
    modules: dict[str, dict[str, list[str]]] = {}
    for docstring in docstrings:
        sentences = _fresh(prose_sentences(docstring.text), seen)
        modules.setdefault(docstring.module, {}).setdefault(docstring.owner, []).extend(sentences)
    return dict(sorted(modules.items()))


def _fresh(sentences: Iterable[str], seen: set[str]) -> list[str]:
    fresh = []
    for sentence in sentences:
        key = re.sub(r"\W+", " ", sentence.lower()).strip()
        if key not in seen:
            seen.add(key)
            fresh.append(sentence)
    return fresh


def _cut_module(parts: dict[str, list[str]]) -> Iterator[list[str]]:
    if sum(map(len, parts.values())) < LARGE_MODULE:
        yield [sentence for sentences in parts.values() for sentence in sentences]
        return
    yield [
        sentence
        for owner, sentences in parts.items()
        if not owner or len(sentences) < LARGE_CLASS
        for sentence in sentences
    ]
    for owner, sentences in parts.items():
        if owner and len(sentences) >= LARGE_CLASS:
            yield sentences


def find_part(module: str) -> tuple[str, str]:
    """Return (label, split) of a module, by the longest name in `LIBRARY_PARTS` that it is in."""
    name = SAME_MODULE.get(module, module).lstrip("_")
    while name:
        for label, splits in LIBRARY_PARTS.items():
            for split, modules in splits.items():
                if name in modules.split():
                    return label, split
        name = name.rpartition(".")[0]
    return "", "train"


def passages(documents: Sequence[SampleDocument], split: str) -> list[tuple[str, str]]:
    """Return the (passage, label) rows of one split, at most `MOST_PASSAGES` of each label.

    Neighbouring passages of one document overlap by about half; they are always in one split.
    """
    rows = []
    for label in LIBRARY_PARTS:
        found = []
        for document in documents:
            if document.label == label and document.split == split:
                for sentences in windows(document.sentences):
                    found.append(mask_names(" ".join(sentences), document.module))
        evenly = np.linspace(0, len(found) - 1, min(len(found), MOST_PASSAGES[split])).astype(int)
        rows += [(found[index], label) for index in evenly]
    return rows


def windows(sentences: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yield runs of consecutive sentences of a passage's length, each half a run further on."""
    start = 0
    while start < len(sentences):
        end, words = start, 0
        while end < len(sentences) and words < AIMED_PASSAGE:
            more = len(sentences[end].split())
            if words + more > LONGEST_PASSAGE:
                break
            words, end = words + more, end + 1
        if words >= SHORTEST_PASSAGE:
            yield sentences[start:end]
        start += max(1, (end - start + 1) // 2)


def mask_names(text: str, module: str) -> str:
    """Replace the module's own name, its parts, and names that contain them by "it"."""
    parts = {
        part.strip("_").lower()
        for name in (module, SAME_MODULE.get(module, ""))
        for part in name.split(".")
    }

    def betrays(name: str) -> bool:
        low = name.lower()
        pieces = re.split(r"[._]+", low)
        # Names of two or three letters (os, re, io) are inside of far too many words.
        return any(part in pieces or (len(part) > 3 and part in low) for part in parts if part)

    return re.sub(r"\w+(?:\.\w+)*", lambda match: "it" if betrays(match[0]) else match[0], text)
