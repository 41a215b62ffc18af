"""The stage `given_words`: files of words in every form, and what is wrong in them."""

import json
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ovss_ray.actors import given_words
from ovss_ray.errors import OvssError
from ovss_ray.io import digests, files
from ovss_ray.pipeline import execution
from ovss_ray.pipeline.stage import StageConfig
from ovss_ray.structures.vocabulary import Vocabulary

TOWN = Vocabulary.of(["road", "car"])
WORDS = {"val/a": ["sky", ["car", "auto"]], "val/b": []}


def write(folder: Path, suffix: str, content: Any) -> str:
    path = folder / f"words{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.table(content), path)
    elif suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, content)))
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def run(path: str, images: list[str], classes: Vocabulary = TOWN, **options: Any) -> Any:
    config = StageConfig(use="given_words", options={"path": path, **options})
    given_words.Stage.files(config.settings())
    batch = execution.start(len(images), image_id=images, vocabulary=[classes.digest] * len(images))
    return execution.run({"given_words": config.build()}, batch, {classes.digest: classes})


@pytest.mark.parametrize(
    ("suffix", "content"),
    [
        (".json", WORDS),
        (".json", [{"image_id": image, "classes": names} for image, names in WORDS.items()]),
        (".json", [{"file_name": f"data/{name}.jpg", "class_names": of, "seen": 1} for name, of in WORDS.items()]),
        (".jsonl", [{"image": f"./{image}.png", "words": names} for image, names in WORDS.items()]),
        (".parquet", {"image_id": list(WORDS), "classes": [[["sky"], ["car", "auto"]], []]}),
    ],
)
def test_words_are_read_from_every_form(suffix: str, content: Any, tmp_path: Path) -> None:
    done = run(write(tmp_path, suffix, content), ["val/b", "val/a"])
    assert list(done["error"]) == ["", ""]
    assert [value["classes"] for value in done["words"]] == [[], [["sky"], ["car", "auto"]]]
    assert list(done["vocabulary"]) == ["", Vocabulary.of([["sky"], ["car", "auto"]]).digest]


def test_words_may_be_added_to_the_benchmark_or_replaced_by_it(tmp_path: Path) -> None:
    path = write(tmp_path, ".json", {"a": ["sky", "Car"], "b": []})
    added = run(path, ["a", "b", "c"], base=True, missing="benchmark")
    assert [value["classes"] for value in added["words"]] == [[["road"], ["car"], ["sky"]], *[[["road"], ["car"]]] * 2]
    shared = Vocabulary.of([["background", "car"], "road", "car"])
    for_all = run(path, ["a", "c"], shared, base=True, missing="benchmark")
    assert for_all["words"][0]["classes"] == [["background", "car"], ["road"], ["car"], ["sky"]]
    assert for_all["vocabulary"][1] == shared.digest
    assert run(path, ["b"], fallback="object")["words"][0]["classes"] == [["object"]]


def test_faulty_entries_fail_their_own_images_and_5000_entries_are_quick(tmp_path: Path) -> None:
    entries: dict[str, Any] = {f"i{number:05}": ["sky", f"word {number}", "sky"] for number in range(5000)}
    entries |= {"many": [f"w{number}" for number in range(10_000)], "control": ["sky\u0000"], "empty": ["sky", ""]}
    entries |= {"text": "sky, road", "number": ["sky", 3], "unknown": ["never used"]}
    begun = time.process_time()
    faulty = ["many", "control", "empty", "text", "number", "absent"]
    images = [f"i{number:05}" for number in range(5000)]
    done = run(write(tmp_path, ".json", entries), [*images, *faulty])
    print(f"{time.process_time() - begun:.1f} CPU seconds for 5,000 entries")
    assert set(done["error"][:5000]) == {""}
    assert [value["classes"] for value in done["words"][:5000]] == [[["sky"], [f"word {n}"]] for n in range(5000)]
    said = dict(zip(faulty, done["error"][5000:], strict=True))
    assert "10,000 words, more than given_words.most (1,000)" in said["many"]
    assert "invalid character" in said["control"]
    assert "empty name" in said["empty"]
    assert 'expected a list of names, such as ["sky", "road"], found \'sky, road\'' in said["text"]
    assert "the word 3 is neither a name nor a list" in said["number"]
    assert "0 of 5,006 entries belong to the image 'absent'" in said["absent"]
    assert "Add an entry for the image, or set given_words.missing=benchmark" in said["absent"]
    assert all(path in message for path in [str(tmp_path)] for message in said.values())


def test_entries_and_images_that_lack_each_other_are_named_before_the_run(tmp_path: Path) -> None:
    def check(*images: str, **options: Any) -> tuple[str, ...]:
        config = given_words.Stage.Config(path=write(tmp_path, ".json", WORDS), **options)
        return given_words.Stage.check(config, iter(images))

    assert check("val/a", "val/b") == check() == ()
    entry = "words.json: 1 of 2 entries belong to no image of this run, such as 'val/b'"
    assert check("val/a") == (entry,)
    image = "words.json: 2 of 3 images have no entry, such as 'c'. They "
    assert check("c", "val/a", "d") == (f"{image}will fail", entry)
    assert check("c", "val/a", "d", missing="benchmark")[0] == f"{image}have the classes of the benchmark"
    twice = given_words.Stage.Config(path=write(tmp_path, ".jsonl", [{"image": "c", "words": [["A b", 1], "a  B", 3]}]))
    message = "words.jsonl: 1 entries repeat a name, which counts once, such as 'a  B' for 'c'"
    assert given_words.Stage.check(twice, ["c"]) == (message,)
    with pytest.raises(OvssError, match=r"none of the 2 entries .* entry: 'val/a'; example of an image id: 'c'"):
        check("c")


@pytest.mark.parametrize(
    ("suffix", "content", "message"),
    [
        (".json", '{"a": ["sky"], "a.jpg": ["car"]}', "a second entry for the image 'a', after entry 'a'"),
        (".json", '{"a": ["sky"], "a": ["car"]}', "a second entry for the image 'a'"),
        (".json", '[{"image_id": "a", "classes": [], "classes": []}]', "the key 'classes' is repeated"),
        (".json", "[", "not a file of words"),
        (".json", "[]", "no entries"),
        (".json", "3", "found 3, expected an object or a list"),
        (".jsonl", [{"image_id": "a", "classes": []}, ["b"]], "line 2 is .'b'., expected an object"),
        (".jsonl", [{"id": "a", "classes": []}], "line 1 has no image: expected key image_id, found id, classes"),
        (".parquet", {"image_id": ["a"], "label": ["sky"]}, "row 0 has no words: expected key classes, found image_id"),
        (".txt", "sky", "unknown suffix '.txt'"),
    ],
)
def test_a_file_that_is_none_is_refused_before_the_run(suffix: str, content: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(OvssError, match=message):
        run(write(tmp_path, suffix, content), ["a"])
    with pytest.raises(OvssError, match="not found"):
        run(str(tmp_path / "none.json"), ["a"])


def test_the_content_of_a_remote_file_is_part_of_the_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVSS_CACHE", str(tmp_path))
    seen = []
    for content in ('{"a": ["sky"]}', '{"a": ["sea"]}'):
        uri = f"memory://given/{len(seen)}/words.json"
        files.write(uri, content.encode())
        (copy,) = given_words.Stage.files(given_words.Stage.Config(path=uri))
        assert copy.read_text() == content
        seen.append(digests.sha256_of([copy]))
    assert len(set(seen)) == 2
