"""docs/troubleshooting.md: its messages are those of the code."""

import re

from tests.paths import ROOT

JOINT = re.compile(r"\"\s*\n\s*(?:#[^\n]*\n\s*)?f?\"")
"""End and beginning of two strings of a message that are written on two lines"""
PLACEHOLDER = r"[^\n]{0,200}?"
"""A value in a message, which the page writes as …"""


def test_every_message_of_the_page_is_in_the_code() -> None:
    lines = (path.read_text("utf-8") for path in sorted((ROOT / "ovss_ray").rglob("*.py")))
    source = JOINT.sub("", "\n".join(lines))
    page = (ROOT / "docs/troubleshooting.md").read_text("utf-8")
    messages = re.findall(r"^\| `([^`]+)` ", page, re.MULTILINE)
    assert len(messages) >= 50

    def is_there(message: str) -> bool:
        return bool(re.search(PLACEHOLDER.join(map(re.escape, message.split("…"))), source))

    assert not [message for message in messages if not is_there(message)]
    assert not is_there("no benchmark: pass --benchmarks NAME"), "a message that is not in the code would be noticed"
