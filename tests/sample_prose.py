"""Docstrings and error messages of ovss_ray, drawn at random for a reader who marks those to read twice.

    python tests/sample_prose.py --seed 3bd64e23

prints 40 docstrings and 20 error messages, each with its file and line. As in an editor, a text follows the summaries
of its module and class, and the signature of its function or the assignment of its variable. The seed is a hexadecimal
number, such as the beginning of a commit. The same seed draws the same texts.
"""

import argparse
import ast
import random
import re
import textwrap
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "ovss_ray"
DOCSTRINGS, MESSAGES = 40, 20
LONGEST_BEGINNING = 400
"""Maximum number of characters of a signature or assignment that are printed."""

Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


class Text(NamedTuple):
    """A docstring or an error message, and where it stands."""

    path: Path
    line: int
    name: str
    """Name of the module, class, function, constant or field; of the exception for a message."""
    text: str
    code: str = ""
    """Signature of the function, beginning of the class, or assignment; empty for a module or a message."""
    around: tuple[str, ...] = ()
    """Summaries of the module and the class in which the text stands."""

    def __str__(self) -> str:
        lines = [line.strip() for line in self.text.strip().splitlines()]
        lines[:0] = [f"> {summary}" for summary in self.around]
        if self.code:
            lines.insert(len(self.around), f"| {self.code}")
        return "\n    ".join([f"{self.path.relative_to(ROOT)}:{self.line} {self.name}", *lines])


@cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    """Return all nodes of the syntax tree of a module, which is parsed only once."""
    return tuple(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def docstrings(path: Path) -> Iterator[Text]:
    """Yield the docstrings of a module, its classes, functions, constants and fields."""
    for node in nodes(path):
        if isinstance(node, Documented):
            text, around = ast.get_docstring(node), _around(path)
            if text is not None:
                name = getattr(node, "name", path.stem)
                yield Text(path, node.body[0].lineno, name, text, _beginning(node), around.get(node, ()))
            for before, after in zip(node.body, node.body[1:], strict=False):
                text = _string(after.value) if isinstance(after, ast.Expr) else None
                if text is not None and isinstance(before, ast.Assign | ast.AnnAssign):
                    yield Text(path, after.lineno, _assigned(before), text, _beginning(before), around[before])


def messages(path: Path) -> Iterator[Text]:
    """Yield the strings that are passed to exceptions where they are raised, placeholders as in the source."""
    for node in nodes(path):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            arguments = [*node.exc.args, *(keyword.value for keyword in node.exc.keywords)]
            strings = [text for text in map(_string, arguments) if text and _is_sentence(text)]
            if strings:
                name = ast.unparse(node.exc.func)
                yield Text(path, node.lineno, name, " | ".join(strings), around=_around(path)[node])


@cache
def _around(path: Path) -> dict[ast.AST, tuple[str, ...]]:
    """Return the summaries of the module and class around each node of a module except the module itself."""
    summaries: dict[ast.AST, tuple[str, ...]] = {}
    for node in nodes(path):  # parents before children
        outer = summaries.get(node, ())
        if isinstance(node, ast.Module | ast.ClassDef) and (text := ast.get_docstring(node)):
            outer = (*outer, f"{getattr(node, 'name', 'module')}: {text.splitlines()[0]}")
        summaries |= dict.fromkeys(ast.iter_child_nodes(node), outer)
    return summaries


def _string(node: ast.expr) -> str | None:
    """Return a string literal or f-string as it reads, or None for another expression."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        pieces = (
            piece.value if isinstance(piece, ast.Constant) else ast.unparse(ast.JoinedStr([piece]))[2:-1]
            for piece in node.values
            if isinstance(piece, ast.Constant | ast.FormattedValue)
        )
        return "".join(map(str, pieces))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        sides = [_string(side) or "{" + ast.unparse(side) + "}" for side in (node.left, node.right)]
        return "".join(sides) if any(_string(side) for side in (node.left, node.right)) else None
    return None


def _is_sentence(text: str) -> bool:
    """Return whether a text has at least three words besides its placeholders; shorter ones are parts of messages."""
    return len(re.sub(r"\{[^{}]*\}", " ", text).split()) >= 3


def _beginning(node: Documented | ast.Assign | ast.AnnAssign) -> str:
    """Return the signature of a function, the first line of a class or assignment; empty for a module."""
    if isinstance(node, ast.Module):
        return ""
    lines = ast.unparse(node).splitlines()
    decorators = 0 if isinstance(node, ast.Assign | ast.AnnAssign) else len(node.decorator_list)
    return textwrap.shorten(" ".join(lines[: decorators + 1]), LONGEST_BEGINNING, placeholder=" …")


def _assigned(node: ast.Assign | ast.AnnAssign) -> str:
    """Return the names on the left of an assignment."""
    if isinstance(node, ast.Assign):
        return ", ".join(map(ast.unparse, node.targets))
    return ast.unparse(node.target)


def sample(seed: int) -> str:
    """Return the texts that a seed draws."""
    generator, modules, lines = random.Random(seed), sorted(PACKAGE.rglob("*.py")), list[str]()
    for title, read, count in (("Docstrings", docstrings, DOCSTRINGS), ("Error messages", messages, MESSAGES)):
        texts = sorted((text for path in modules for text in read(path)), key=lambda text: (text.path, text.line))
        lines.append(f"{title}: {count} of {len(texts)}\n")
        lines += [f"{number}. {text}\n" for number, text in enumerate(generator.sample(texts, count), 1)]
    return "\n".join(lines)


def main() -> None:
    """Print the sample for the seed on the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--seed", type=partial(int, base=16), required=True, help="hexadecimal number: which texts are drawn"
    )
    print(sample(parser.parse_args().seed))


if __name__ == "__main__":
    main()
