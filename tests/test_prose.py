"""Rules of prose that a machine can check: beginnings of docstrings, lengths of sentences, names of variables."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.paths import ROOT
from tests.sample_prose import PACKAGE, Text, docstrings, messages, nodes, sample

LONGEST_SENTENCE = 20
SENTENCE_END = re.compile(
    r"[.:;!?][)”\"'`]*\s+|\n\s*\n|\n\s*[-*•]\s|\s\|\s|\n(?=[ \t]*\S.*\S {2,}\S)|(?<=\S) {2,}(?=\S)"
)
"""End of a sentence: full stop, colon or semicolon, an empty line, the next item of a list, a cell of a table."""
PRONOUNS = ("How ", "Those ", "What ", "Where ", "Whether ", "Which ", "Who ", "Whoever ")
"""Beginnings that stand in the place of a verb or a noun."""
OLD_WORDS = re.compile(
    r"\b(anew|anybody|asked|beside|dear|given up|heed|in hand|mend|nobody|parted|passed by|so many|told|whoever)\b"
)
"""Old or foreign words; say again, requested, next to, expensive, skipped, in progress, fix, separated, n, reported."""
BINDS_ITS_NAME = (
    *(ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef),
    *(ast.MatchAs, ast.MatchStar, ast.ExceptHandler),
)
MEANINGLESS_NAMES = {"one", "found", "made", "told", "asked", "some", "given", "own", "chosen"}
"""Parts of speech that say neither type nor content of a variable."""
PUBLIC_NAMES = {("serve/http/mask_answers.py", "found")}
"""Module and name of fields that clients read: they keep their names."""


def modules() -> list[Path]:
    """Return all modules of the package."""
    return sorted(PACKAGE.rglob("*.py"))


@cache
def texts() -> list[Text]:
    """Return all docstrings of the package, which are read only once."""
    return [text for path in modules() for text in docstrings(path)]


def bound_names(path: Path) -> Iterator[tuple[str, int]]:
    """Yield each name that a module binds (variables, parameters, functions, classes, fields), with its line."""
    for node in nodes(path):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, BINDS_ITS_NAME) and node.name:
            yield node.name, node.lineno


def test_docstrings_begin_with_a_verb_or_a_noun() -> None:
    assert not [str(text) for text in texts() if text.text.lstrip().startswith(PRONOUNS)]


def test_docstrings_and_messages_have_no_old_words() -> None:
    every = [*texts(), *(text for path in modules() for text in messages(path))]
    assert not [f"{OLD_WORDS.findall(text.text)} in {text}" for text in every if OLD_WORDS.search(text.text)]


def test_sentences_of_docstrings_have_at_most_twenty_words() -> None:
    too_long = [
        f"{text.path.relative_to(ROOT)}:{text.line} {len(sentence.split())} words: {sentence}"
        for text in texts()
        for sentence in SENTENCE_END.split(text.text)
        if len(sentence.split()) > LONGEST_SENTENCE
    ]
    assert not too_long, "\n".join(too_long)


@pytest.mark.parametrize("sentence", ["word " * 21, "Short. " + "word " * 21 + ". Short.", "a (b; " + "c\n" * 21 + ")"])
def test_a_sentence_of_more_than_twenty_words_is_noticed(sentence: str) -> None:
    assert max(len(part.split()) for part in SENTENCE_END.split(sentence)) > LONGEST_SENTENCE


def test_variables_are_named_by_what_they_hold() -> None:
    meaningless = [
        f"{path.relative_to(ROOT)}:{line} {name}"
        for path in modules()
        for name, line in bound_names(path)
        if name in MEANINGLESS_NAMES and (path.relative_to(PACKAGE).as_posix(), name) not in PUBLIC_NAMES
    ]
    assert not meaningless, "\n".join(meaningless)


def test_all_packages_are_read() -> None:
    names = {path.relative_to(PACKAGE).parts[0] for path in modules()}
    assert {"actors", "engine", "models", "serve", "training", "client", "__init__.py"} <= names


def test_a_sample_has_forty_docstrings_and_twenty_messages_and_repeats_itself() -> None:
    first = sample(7)
    assert len(re.findall(r"(?m)^\d+\. ovss_ray/\S+\.py:\d+ ", first)) == 60
    assert sample(7) == first
    assert sample(8) != first


def test_a_docstring_follows_its_signature_or_assignment(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(
        'LIMIT: int = 3\n"""Most images."""\n\n@cache\ndef area(mask: Mask) -> int:\n    """Return it."""\n'
    )
    assert [text.code for text in docstrings(path)] == ["LIMIT: int = 3", "@cache def area(mask: Mask) -> int:"]


def test_a_text_follows_the_summaries_of_its_module_and_class(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(
        '"""Masks.\n\nMore."""\n\nclass Mask:\n    """Pixels."""\n\n'
        '    def area(self) -> int:\n        """Return it."""\n        raise ValueError("the mask is empty")\n'
    )
    around = [("module: Masks.", "Mask: Pixels.")]
    assert [text.around for text in docstrings(path)] == [(), around[0][:1], *around]
    assert [text.around for text in messages(path)] == around
