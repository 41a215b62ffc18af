"""Writer of nouns.txt.xz, the package's extract of WordNet 3.0. The format is described in wordnet.py.

To write the file, run `python -m ovss_ray.words.build FOLDER`. FOLDER has the files of WordNet's database. Debian's
package wordnet-base installs the database in /usr/share/wordnet. The same input always gives the same bytes.
"""

import lzma
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from ovss_ray.errors import OvssError
from ovss_ray.words.wordnet import FILE, HEADER

PARTS_OF_SPEECH = {"noun": "n", "verb": "v", "adj": "a", "adv": "r"}
"""Suffix of an index file of WordNet, such as index.noun → letter of the file's part of speech."""
TYPES = {"1": "n", "2": "v", "3": "a", "4": "r", "5": "a"}
"""Digit after "%" in a WordNet sense key, such as "run%2:38:00::" → letter of the part of speech.

5 is a satellite adjective.
"""


def main(folder: Path, target: Path = FILE) -> None:
    """Read WordNet's database in `folder`, and write the extract to `target`. Raises OvssError for a missing file."""
    needed = ["data.noun", "noun.exc", "cntlist.rev", *(f"index.{name}" for name in PARTS_OF_SPEECH)]
    if missing := [name for name in needed if not (folder / name).is_file()]:
        raise OvssError(
            f"{folder}: no {', '.join(missing)}. Pass the folder of WordNet 3.0, such as /usr/share/wordnet"
        )
    synsets = [line.split(" | ")[0].split() for line in _lines(folder / "data.noun")]
    numbers = {fields[0]: number for number, fields in enumerate(synsets)}
    notice = [match[1] for line in _text(folder / "data.noun") if (match := re.match(r" +\d+ ?(.*?) *$", line))]
    sections = (
        [HEADER, *notice],
        [" ".join([name, *(str(numbers[offset]) for offset in offsets)]) for name, offsets in _senses(folder, "noun")],
        [" ".join(str(numbers[offset]) for offset in _hypernyms(fields)) for fields in synsets],
        [" ".join(line.split()) for line in _lines(folder / "noun.exc")],
        list(_parts_of_speech(folder)),
    )
    content = "\n\f\n".join("\n".join(section) for section in sections)
    target.write_bytes(lzma.compress(content.encode(), preset=9 | lzma.PRESET_EXTREME))


def _lines(file: Path) -> Iterator[str]:
    """Yield the lines of a file of the database, without the licence at its top."""
    return (line for line in _text(file) if line.strip() and line[0] != " ")


def _text(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8").splitlines()


def _senses(folder: Path, name: str) -> Iterator[tuple[str, list[str]]]:
    """Yield each lemma of an index file with the offsets of its synsets, the most frequent sense first."""
    for line in _lines(folder / f"index.{name}"):
        fields = line.split()
        yield fields[0], fields[-int(fields[2]) :]


def _hypernyms(fields: list[str]) -> list[str]:
    """Return the offsets of the hypernyms of a synset, including instance hypernyms.

    `fields` are the fields of the synset's line in data.noun, without the gloss.
    """
    pointers = fields[4 + 2 * int(fields[3], 16) + 1 :]
    return [offset for symbol, offset in zip(pointers[::4], pointers[1::4], strict=True) if symbol in ("@", "@i")]


def _parts_of_speech(folder: Path) -> Iterator[str]:
    """Yield lines such as "run vn": a lemma and its parts of speech, the most frequent first. Skip pure nouns."""
    uses: Counter[tuple[str, str]] = Counter()
    for line in _lines(folder / "cntlist.rev"):
        if match := re.match(r"(\S+)%(\d):\S+ \d+ (\d+)", line):
            uses[match[1], TYPES[match[2]]] += int(match[3])
    letters: dict[str, list[str]] = {}
    for name, letter in PARTS_OF_SPEECH.items():
        for lemma, _ in _senses(folder, name):
            letters.setdefault(lemma, []).append(letter)
    for lemma, kinds in sorted(letters.items()):
        if kinds != ["n"]:
            yield f"{lemma} {''.join(sorted(kinds, key=lambda letter: (-uses[lemma, letter], 'nvar'.index(letter))))}"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
