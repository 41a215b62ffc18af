"""Names of classes in lists: what is no name, and what names that which is not labelled."""

import re

UNCOUNTED = frozenset(
    {"void", "unlabeled", "unlabelled", "unlabel", "ignore", "ignored", "ignore_index", "unannotated", "no label"}
    | {"not labeled", "not labelled", "dont care", "don't care", "dontcare", "undefined", "none", "null", "nan", "n/a"}
)
"""Names that lists give to what is not labelled."""

_MARKS = {
    r"(-?\d+\s*)?(\||[-=]>).*": "begins with a mark that separates numbers from names. Write one class a line",
    r".*#[0-9a-fA-F]{6}\b.*": "has a colour in it. Take it out, and see `colours`",
    r".*\D(\s+\d{1,3}){3}|\d{1,3}(\s+\d{1,3}){2}\s.*": "has numbers of a colour in it. Take them out; see `colours`",
    r"<\w.*>": "is XML or HTML. Write one class a line",
}
"""Regular expression of a text that is no name → the reason, in words that follow the line."""


def fault(text: str) -> str:
    """Return why a text cannot be the name of a class, in words that follow it; "" if it can."""
    plain = text.strip()
    if not plain:
        return "is empty"
    if re.fullmatch(r"__\w+__", plain):
        return "marks what is not labelled; labelme has it in the first line only. Take it out, and see `ignore`"
    if plain.startswith(("#", "//")) or re.search(r"\s#\s", plain):
        return "is a comment. Take it out; if its number is used by no class, write `values:`"
    if why := next((why for mark, why in _MARKS.items() if re.fullmatch(mark, plain)), ""):
        return why
    if re.match(r"-?\d+\s*[:;=)]\s*[^\d\s]", plain):
        return "begins with a number, as not all lines do, or with another's name. Number all lines, or none of them"
    if "\t" in plain:
        return "has a tab in it. Several names of one class are a list in the description: [[path, footpath], road]"
    if plain.startswith("- "):
        return "is YAML. Name the file .yaml, or write one class a line"
    if re.fullmatch(r"\w+\s*[:=]\s*[\[({]?\s*", plain) or re.match(r"\w+\s*=\s*\S", plain) or plain in "[](){}":
        return "is a line of a program or of settings. Write one class a line"
    if re.fullmatch(r"""(["']).*\1\s*,?|.*,""", plain):
        return "has quotes around it or a comma behind it. Write one class a line, without them"
    return ""
