"""Which library does this docstring come from? Real text without a download: it is read from what is installed.

The first paragraphs of docstrings, the libraries' own names blacked out, become word ids by hashing. Nothing is
imported and nothing copied: source files are read, so the corpus is that of the installed versions, and the hash says
which.
"""

from __future__ import annotations

import hashlib
import inspect
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import torch

from modelopt_core.errors import DataMissing
from modelopt_core.workloads.augment import drop_words
from modelopt_core.workloads.subtask import Subtask, sorting
from modelopt_core.workloads.workload import SPLITS, WORKLOADS, Classification, Split

PACKAGES = {  # label, which is also the distribution -> package
    "numpy": "numpy",
    "pandas": "pandas",
    "plotly": "plotly",
    "pydantic": "pydantic",
    "scikit-learn": "sklearn",
    "streamlit": "streamlit",
    "torch": "torch",
}
GROUPS = ((0, 1, 4, 6), (2, 3, 5))  # numbers, tables and learning; what draws, checks and serves
READ = Subtask("library", "answer", "text", "label", "Names the library, whichever it is.", models=("bag",))
NAMES = re.compile(
    r"\b\w*(?:numpy|pandas|plotly|pydantic|scikit-learn|scikit|sklearn|streamlit|torch)\w*", re.IGNORECASE
)
ALIASES = re.compile(r"\b(?:np|pd|px|st|sk)\b")
MASK = "█"
WORD = re.compile(r"[a-z]+")
NOT_PUBLIC = {"test", "tests", "testing", "conftest.py", "vendor", "_vendor", "externals", "proto"}

VOCABULARY = 4096  # buckets; 0 is padding
LENGTH = 48  # words that a model sees
MIN_WORDS = 8  # fewer say nothing
PER_LIBRARY, PER_MODULE = 800, 12  # docstrings at most: classes of like size, from many modules
MAX_FILE_BYTES, MAX_LIBRARY_BYTES = 100_000, 6_000_000  # source read; bounds the time to about 1 s in all
DEFINITION_OR_DOCSTRING = re.compile(
    r'^[ \t]*(?:async )?(?:def|class) (?P<name>\w+)|:[ \t]*\n\s+[rR]?"""(?P<docstring>.*?)"""', re.MULTILINE | re.DOTALL
)
SECTION = re.compile(r"^(?:\w[\w ]*\n *[-=~]{3,}|\w[\w ]*:(?:\n|$)|>>>|\.\. |```)")  # where prose ends
SHARES = {"train": 6, "val": 2, "test": 2}  # of 10 modules


@dataclass(frozen=True)
class Docstring:
    """One example. module: path inside site-packages; place: module and position, unique."""

    text: str  # masked
    words: tuple[int, ...]  # bucket ids, LENGTH at most
    label: int
    module: str
    place: str


@WORKLOADS.register("docstrings")
def docstrings(seed: int = 0) -> Classification:
    """Masked beginnings of docstrings as word ids (48,), to be told apart by library; split by module.

    No module is in two splits; texts that occur twice are kept once. Raises DataMissing when a library's source is
    not installed. Words are hashed into 4,095 buckets.

    Source: Weinberger et al., Feature Hashing for Large Scale Multitask Learning, arXiv 0902.2206.
    """
    corpus = _corpus()
    parts = {name: [d for d in corpus if _split_of(d.module, seed) == name] for name in SPLITS}
    splits = {name: _split(part) for name, part in parts.items()}
    versions = ", ".join(f"{label} {metadata.version(label)}" for label in PACKAGES)
    digest = hashlib.sha256(versions.encode())
    for split in splits.values():
        digest.update(split.inputs.numpy().tobytes() + split.targets.numpy().tobytes())
    return Classification(
        name="docstrings",
        title="Docstrings",
        modality="text",
        metric="accuracy",
        labels=tuple(PACKAGES),
        train=splits["train"],
        val=splits["val"],
        test=splits["test"],
        models=("bag", "textcnn", "bag-1"),
        chance=max(Counter(d.label for d in parts["val"]).values()) / len(parts["val"]),
        data_hash=digest.hexdigest(),
        augment=drop_words,
        subtasks=(*sorting("text", tuple(PACKAGES), GROUPS, "Sorts texts by what the library is for."), READ),
        note=f"{len(corpus):,} docstrings read from what is installed here: {versions}. Other versions, other scores.",
        show=lambda split, i: parts[split][i].text,
    )


def tokens(text: str) -> tuple[int, ...]:
    """Bucket ids in 1 … VOCABULARY − 1 of the first LENGTH words, lower case; the same on every machine."""
    return tuple(1 + zlib.crc32(word.encode()) % (VOCABULARY - 1) for word in WORD.findall(text.lower())[:LENGTH])


def prose(docstring: str) -> str:
    """The first paragraphs on one line, up to a section, an example or a directive; LENGTH words or a little more."""
    paragraphs: list[str] = []
    for paragraph in docstring.split("\n\n"):
        if SECTION.match(paragraph) or sum(len(p.split()) for p in paragraphs) >= LENGTH:
            break
        paragraphs.append(" ".join(paragraph.split()))
    return " ".join(paragraphs)


def mask(text: str) -> str:
    """The text with every library's name, and the names that people import it by, blacked out."""
    return ALIASES.sub(MASK, NAMES.sub(MASK, text))


def _corpus() -> list[Docstring]:
    """PER_LIBRARY docstrings of every library, each text once."""
    seen: set[tuple[int, ...]] = set()
    corpus: list[Docstring] = []
    for label, (library, package) in enumerate(PACKAGES.items()):
        found: list[Docstring] = []
        taken: Counter[str] = Counter()
        for module, place, docstring in _docstrings(library, package):
            if taken[module] == PER_MODULE:
                continue
            text = mask(prose(docstring))
            words = tokens(text)
            if len(words) >= MIN_WORDS and words not in seen:
                seen.add(words)
                taken[module] += 1
                found.append(Docstring(text, words, label, module, place))
            if len(found) == PER_LIBRARY:
                break
        corpus += found
    return corpus


def _docstrings(library: str, package: str) -> Iterator[tuple[str, str, str]]:
    """(module, place, docstring) of public classes and functions, from files in an order drawn by their names.

    A drawn order, because the alphabetical one would take a bounded library from its first folders only.
    """
    spec = find_spec(package)  # finds, does not import
    roots = [Path(p) for p in (spec.submodule_search_locations or ())] if spec else []
    files = {f"{package}/{path.relative_to(root).as_posix()}": path for root in roots for path in root.rglob("*.py")}
    if not files:
        raise DataMissing(f"the source of {library} is not installed; mend it: pip install --force-reinstall {library}")
    left = MAX_LIBRARY_BYTES
    for module in sorted(files, key=lambda name: (zlib.crc32(name.encode()), name)):
        if NOT_PUBLIC.intersection(module.split("/")) or files[module].stat().st_size > MAX_FILE_BYTES:
            continue
        source = files[module].read_text("utf-8", errors="replace")
        left -= len(source)
        if left < 0:
            return
        for position, docstring in _documented(source):
            yield module, f"{module}:{position}", docstring


def _documented(source: str) -> Iterator[tuple[int, str]]:
    """(position, docstring) of the public classes, functions and methods in a source text.

    A scan, not a parse: it finds what `ast` finds, but for rarities, in a tenth of the time.
    """
    name = "_"
    for found in DEFINITION_OR_DOCSTRING.finditer(source):
        if found["name"]:
            name = found["name"]
        elif name[0] != "_":
            yield found.start(), inspect.cleandoc(found["docstring"])
            name = "_"


def _split_of(module: str, seed: int) -> str:
    """The split that a whole module belongs to."""
    slots = [name for name, share in SHARES.items() for _ in range(share)]
    return slots[zlib.crc32(f"{seed}/{module}".encode()) % len(slots)]


def _split(part: list[Docstring]) -> Split:
    inputs = torch.zeros(len(part), LENGTH, dtype=torch.int64)
    for row, docstring in enumerate(part):
        inputs[row, : len(docstring.words)] = torch.tensor(docstring.words)
    modules = {module: i for i, module in enumerate(dict.fromkeys(d.module for d in part))}
    clusters = torch.tensor([modules[d.module] for d in part])
    return Split(inputs, torch.tensor([d.label for d in part]), tuple(d.place for d in part), clusters)
