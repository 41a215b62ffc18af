"""Commands in the documentation, split into words by Bash itself. None of their programs is started."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.paths import ROOT

PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "cluster/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
SHELLS = ("sh", "bash", "console", "shell")
"""Languages of fenced blocks with commands"""
PROGRAMS = (
    *("bash", "curl", "docker", "export", "git", "hf", "kubectl", "ovss", "pip", "python"),
    *("ray", "sbatch", "serve", "uv", "wandb"),
)
"""First words of commands in backticks"""
REAL = ("base64", "cut", "sha256sum")
"""Programs that examples call for the words of other commands"""
RECORDING = """
exec 3>&1 >/dev/null
record() { printf '%s\\0' "$NUMBER" "$SENT" "$#" "$@" >&3; }
command_not_found_handle() {
    case "$*" in *"@-"*) IFS= read -r -d '' SENT ;; esac
    record "$@"
}
export() { record export "$@"; builtin export "$@"; }
for text in "$@"; do
    NUMBER=$((NUMBER + 1))
    (eval "$text")
done
"""
"""Bash script that prints the words of each command that is not in REAL, instead of starting it"""


@dataclass(frozen=True)
class Source:
    """A shell block of a document, or a command in backticks."""

    document: str
    text: str
    near: str
    """the block with the paragraphs before and after it"""
    inline: bool


@dataclass(frozen=True)
class Command:
    """A command as its program gets it."""

    source: Source
    words: tuple[str, ...]
    sent: str
    """standard input, if the command reads it as `@-`"""

    def __str__(self) -> str:
        return f"{self.source.document}: {' '.join(self.words)}"


def sources(document: Path) -> Iterator[Source]:
    """Yield the shell blocks of a document, then its commands in backticks."""
    text, name = document.read_text("utf-8"), document.relative_to(ROOT).as_posix()
    parts = re.split(r"^```(\w*)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    prose, languages, blocks = parts[::3], parts[1::3], parts[2::3]
    for number, (language, block) in enumerate(zip(languages, blocks, strict=True)):
        before, after = prose[number].strip().split("\n\n")[-1], prose[number + 1].strip().split("\n\n")[0]
        if language in SHELLS:
            yield Source(name, block, "\n".join((before, block, after)), inline=False)
    for code in re.findall(r"`([^`\n]+)`", "".join(prose)):
        if re.match(rf"(\w+=\S+ )?({'|'.join(PROGRAMS)}) ", code):
            yield Source(name, code, code, inline=True)


def commands(listed: Sequence[Source], folder: Path) -> list[Command]:
    """Return the commands of the sources, as Bash runs them in the folder. A syntax error raises AssertionError."""
    tools = folder / "bin"
    tools.mkdir()
    for tool in REAL:
        (tools / tool).symlink_to(str(shutil.which(tool)))
    shell = [str(shutil.which("bash")), "--norc", "-c", RECORDING, "bash", *(source.text for source in listed)]
    environment = {"PATH": str(tools), "HOME": str(folder), "LC_ALL": os.environ.get("LC_ALL", "C.UTF-8")}
    done = subprocess.run(shell, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert not done.stderr, done.stderr
    fields, recorded = iter(done.stdout.split("\0")[:-1]), []
    for number in fields:
        sent, count = next(fields), int(next(fields))
        recorded.append((int(number) - 1, tuple(next(fields) for _ in range(count)), sent))
    return [Command(listed[number], words, sent) for number, words, sent in recorded]
