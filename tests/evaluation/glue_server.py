"""What the GLUE server accepts, written from its rules and not from this package.

The submission page and the FAQ of gluebenchmark.com: one zip with exactly these files at its top;
each a TSV with the header ``index<TAB>prediction``, one row for each example of the test set in
order, indices from 0; classes as words for MNLI, QNLI, RTE and AX, as 0 and 1 for the other tasks
of two classes, and numbers from 0 to 5 for STS-B. The row counts are those of the published
test sets (dataset card of nyu-mll/glue).
"""

import zipfile

NLI = {"entailment", "neutral", "contradiction"}
TWO = {"entailment", "not_entailment"}
BINARY = {"0", "1"}
FILES = {
    "AX.tsv": (1104, NLI),
    "CoLA.tsv": (1063, BINARY),
    "MNLI-m.tsv": (9796, NLI),
    "MNLI-mm.tsv": (9847, NLI),
    "MRPC.tsv": (1725, BINARY),
    "QNLI.tsv": (5463, TWO),
    "QQP.tsv": (390965, BINARY),
    "RTE.tsv": (3000, TWO),
    "SST-2.tsv": (1821, BINARY),
    "STS-B.tsv": (1379, None),
    "WNLI.tsv": (146, BINARY),
}


def problems(path):
    """Return what the server would refuse the zip at ``path`` for; nothing if it is sound."""
    found = []
    with zipfile.ZipFile(path) as archive:
        if archive.testzip() is not None:
            return ["damaged"]
        names = archive.namelist()
        found += [f"{name}: missing" for name in sorted(FILES.keys() - set(names))]
        found += [f"{name}: unexpected" for name in sorted(set(names) - FILES.keys())]
        if len(set(names)) < len(names):
            found.append("a name twice")
        for name in sorted(FILES.keys() & set(names)):
            found += _of_file(name, archive.read(name).decode("utf-8"))
    return found


def _of_file(name, text):
    rows, words = FILES[name]
    header, *lines = text.removesuffix("\n").split("\n")
    if header != "index\tprediction":
        return [f"{name}: header {header!r}"]
    if len(lines) != rows:
        return [f"{name}: {len(lines)} rows, expected {rows}"]
    for number, line in enumerate(lines):
        cells = line.split("\t")
        if len(cells) != 2 or cells[0] != str(number):
            return [f"{name}: row {number} is {line!r}"]
        if not _is_answer(cells[1], words):
            return [f"{name}: answer {cells[1]!r}"]
    return []


def _is_answer(word, words):
    if words is not None:
        return word in words
    try:
        return 0 <= float(word) <= 5
    except ValueError:
        return False
