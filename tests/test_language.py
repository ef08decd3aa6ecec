"""Docs, docstrings, comments, messages and names contain no phrases that are hard to understand."""

import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("sb3_reptile", "tests", "examples", "benchmarks", "docs", "zoo_configs", ".github")
FILES = (
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "CODE_OF_CONDUCT.md",
    "Makefile",
    "pyproject.toml",
)
ENDINGS = (".py", ".md", ".yml", ".yaml", ".toml")

# Regular expression of each phrase, and the better phrase
PHRASES = {
    r"(told|tells?|telling) \w+ apart|(told|tell|telling) apart": "distinguish; differs significantly",
    r"(can|could|cannot) be told|(is|are|was|were) (only )?(just )?told": "no significant difference; is passed",
    r"tells?|telling|told": "state, show, return, contain, distinguish",
    r"by (itself|themselves)": "alone; automatically",
    r"by hand": "manually",
    r"is true again|held to be true|true at present": "is valid again, considered valid",
    r"goes (before|first)": "overrides",
    r"makes? up for": "is offset by; corrects",
    r"another kind of|kind of processor|a kind of objects?": "another ...; type",
    r"dear": "expensive; hurts",
    r"of what": "name the thing: `mean age of the draws`",
    r"anew": "again; from scratch",
    r"for ever": "permanently",
    r"somewhat": "slightly, or a number",
    r"besides": "in addition to",
    r"put down to": "attributed to",
    r"(a|the) \w+ of (its|their|your|our|his|her) own": "its own ...",
    r"and the like": "and similar ...",
    r"once more": "again",
    r"whatever the": "for every ...",
    r"it is said|nothing is said": "is stated",
    r"speaks? (for|against)": "evidence for, against",
    r"what it is without": "the same without",
    r"so many": "this number of",
    r"makes? (them|it) again": "reproduces",
    r"afresh": "from scratch",
    r"counts when it is new": "initial weight",
    r"of how many": "number of",
    r"there are two doors": "there are two ways to use it",
}


def texts(path):
    """Line numbers and texts: comments, strings and names of Python files, all lines of others."""
    content = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        yield from enumerate(content.splitlines(), start=1)
        return
    names = {"COMMENT", "STRING", "FSTRING_MIDDLE"}
    for token in tokenize.generate_tokens(io.StringIO(content).readline):
        if tokenize.tok_name[token.type] in names:
            yield from enumerate(token.string.splitlines(), start=token.start[0])
        elif token.type == tokenize.NAME:
            yield token.start[0], token.string.replace("_", " ")


def paths():
    found = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in ENDINGS]
    return [path for path in [*found, *(ROOT / name for name in FILES)] if path != Path(__file__)]


def faults(path):
    phrases = {re.compile(rf"\b(?:{phrase})\b", re.IGNORECASE): better for phrase, better in PHRASES.items()}
    for number, text in texts(path):
        for phrase, better in phrases.items():
            if found := phrase.search(text):
                yield f"{path.name}:{number}: {found[0]!r}: write `{better}`"


def test_the_language_is_plain():
    found = [
        fault.replace(path.name, str(path.relative_to(ROOT)), 1) for path in sorted(paths()) for fault in faults(path)
    ]
    assert not found, "\n".join(["", *found])


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("page.md", "a\nTheir results are told apart.\n", 2),
        ("code.py", '"""\nOne.\n\nDone by hand.\n"""\n', 4),
        ("code.py", "x = 1\ny = f'{x} goes first'  # fine\n", 2),
        ("code.py", "x = 1\n\n# Computed anew\n", 3),
        ("code.py", "x = 1\ndef test_it_can_be_told(): ...\n", 2),
    ],
)
def test_a_phrase_is_found_in_prose_with_its_line(name, content, line, tmp_path):
    (tmp_path / name).write_text(content)
    found = list(faults(tmp_path / name))
    assert found
    assert all(fault.startswith(f"{name}:{line}: ") for fault in found)
