"""Validation of class names in lists."""

import re

UNCOUNTED = frozenset(
    {"void", "unlabeled", "unlabelled", "unlabel", "ignore", "ignored", "ignore_index", "unannotated", "no label"}
    | {"not labeled", "not labelled", "dont care", "don't care", "dontcare", "undefined", "none", "null", "nan", "n/a"}
)
"""Names, in lower case, that common class lists use for unlabelled pixels."""

_MARKS = {
    r"(-?\d+\s*)?(\||[-=]>).*": "begins with a separator of numbers and names. Write one class per line",
    r".*#[0-9a-fA-F]{6}\b.*": "contains a colour. Remove it. Colours belong in the table `colours`",
    r".*\D(\s+\d{1,3}){3}|\d{1,3}(\s+\d{1,3}){2}\s.*": "contains the numbers of a colour. Remove them. Colours belong "
    "in the table `colours`",
    r"<\w.*>": "is XML or HTML. Write one class per line",
}
"""Regular expression that matches invalid class names → reason in the error message."""


def fault(text: str) -> str:
    """Return the reason why a text is not a valid class name, such as "is empty". Return "" for a valid name."""
    plain = text.strip()
    if not plain:
        return "is empty"
    if re.fullmatch(r"__\w+__", plain):
        return "stands for unlabelled pixels, not for a class. Remove it, and write their label value in `ignore`"
    if plain.startswith(("#", "//")) or re.search(r"\s#\s", plain):
        return "is a comment. Remove it. If that changes the numbers of classes, write their label values in `values`"
    if reason := next((reason for mark, reason in _MARKS.items() if re.fullmatch(mark, plain)), ""):
        return reason
    if re.match(r"-?\d+\s*[:;=)]\s*[^\d\s]", plain):
        return "begins with a number, but other lines do not, or two lines have the same name. Number all lines or none"
    if "\t" in plain:
        return "contains a tab. To give a class several names, write a list in the description: [[path, lane], road]"
    if plain.startswith("- "):
        return "is YAML. Rename the file to .yaml, or write one class per line"
    if re.fullmatch(r"\w+\s*[:=]\s*[\[({]?\s*", plain) or re.match(r"\w+\s*=\s*\S", plain) or plain in "[](){}":
        return "is a line of a program or of settings. Write one class per line"
    if re.fullmatch(r"""(["']).*\1\s*,?|.*,""", plain):
        return "has quotes around it or a comma after it. Write one class per line, without them"
    return ""
