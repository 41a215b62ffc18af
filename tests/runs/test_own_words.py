"""Own words: their files, their mapping to labels, and numbers that can be counted by hand."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ovss_ray.benchmarks import catalog
from ovss_ray.benchmarks.labels import INVALID
from ovss_ray.config import loading as configs
from ovss_ray.config import word_list
from ovss_ray.config.word_list import WordList
from ovss_ray.errors import OvssError
from ovss_ray.pipeline import execution
from ovss_ray.pipeline.stage import StageConfig
from ovss_ray.reports import terminal
from ovss_ray.reports.schema import Report, WordsOf
from ovss_ray.runs import own_words
from ovss_ray.runs.plan import RunPlan
from ovss_ray.runs.sources import plan_runs
from ovss_ray.structures.columns import IGNORE, MANIFEST, NONE, Batch, column
from ovss_ray.structures.vocabulary import Vocabulary
from tests.paths import ROOT

CITY = catalog.load("cityscapes:19")
SEEN = catalog.load("scenes:seen")
TINY = ("san_tiny", "scan_tiny", "fusioner_tiny", "sam_alpha_clip_tiny", "ovsam_everything_tiny", "oracle")
FOLDED = {
    "names": [
        "water",
        "sky",
        "sunset",
        ["snow", "white snow"],
        "plain red cross",
        "striped red moon",
        "forest",
        "grass",
    ],
    "map": {"sunset": "sky", "white snow": "water", "striped red moon": None, "grass": "4"},
}
"""Two words are the sky and two are water; one word is no label, and most labels have no word"""


def written(folder: Path, text: str | bytes, name: str = "words.yaml") -> str:
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(folder / name)


def mapping(words: WordList, name: str = "cityscapes:19") -> dict[str, str | None]:
    benchmark = catalog.load(name)
    return dict(own_words.of(words, benchmark).card(benchmark)["mapping"])


def plan(config: Any, folder: Path, vocabulary: Any = None, benchmark: str = "scenes:seen", **keys: Any) -> RunPlan:
    settings = {"benchmarks": [benchmark], "limit": 2, "exact": True, "vocabulary": vocabulary, **keys}
    (only,) = plan_runs(config, folder / "run", {"keep_predictions": "none"}, settings).values()
    return only


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("words.txt", "sedan\nsuv\tjeep\n\n"),
        ("words.txt", "\ufeffsedan\r\n  suv \tjeep\r\n"),
        ("words.names", "sedan\nsuv\tjeep"),
        ("words.yaml", "[sedan, [suv, jeep]]"),
        ("words.yml", "names:\n- sedan\n- [suv, jeep]\n"),
        ("words.json", '\t{"names":\n\t["sedan", ["suv", "jeep"]]}'),
        ("words.json", '["sedan", ["suv", "jeep"]]'),
    ],
)
def test_every_form_of_a_file_is_read(name: str, text: str, tmp_path: Path) -> None:
    words, sha256 = word_list.read(written(tmp_path, text, name))
    assert Vocabulary.of(words.names).classes == (("sedan",), ("suv", "jeep"))
    assert len(sha256) == 64


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("words.json", '{"val/1": ["car"], "val/2": []}'),
        ("words.json", '[{"image_id": "1", "classes": ["car"]}]'),
        ("words.jsonl", '{"image_id": "1", "classes": ["car"]}'),
        ("words.parquet", ""),
    ],
)
def test_a_file_with_words_of_each_image_is_recognised(name: str, text: str, tmp_path: Path) -> None:
    assert word_list.read(written(tmp_path, text, name))[0] == WordList(images=f"{tmp_path}/{name}")


def test_words_that_yaml_takes_for_other_values_and_words_of_every_script_are_names(tmp_path: Path) -> None:
    text = "names: [no, 1e3, 道路, Stra\u0301sse]\nmap: {no: car, 1e3: null, 道路: road, Strásse: }\n"
    words, _ = word_list.read(written(tmp_path, text))
    assert words.names == ("no", "1e3", "道路", "Str\u00e1sse")
    assert mapping(words) == {"no": "car", "1e3": None, "道路": "road", "Str\u00e1sse": None}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("words.txt", "", "no words found. Write one class per line"),
        ("words.yaml", "names: []", "no words found"),
        ("words.yaml", "sedan", "no words found"),
        ("words.txt", "car\n\nroad\n", "line 2 is empty"),
        ("words.txt", "car\nro\x07ad\n", r"class 1 .* invalid character: 'ro\\x07ad'"),
        ("words.txt", "car\tcoupe\t\nroad", "class 0 .* empty name"),
        ("words.txt", "Straße\n".encode("latin-1"), "not UTF-8 text"),
        ("words.txt", "car\n".encode("utf-16"), "not UTF-8 text"),
        ("words.json", '{"names": ["car"], "names": ["road"]}', "duplicate key 'names'"),
        ("words.json", '{"names": ["car"', "invalid JSON"),
        ("words.yaml", "names: [car]\nmap: {car: car, car: road}", "duplicate key 'car'"),
        ("words.yaml", "names: [car]\ntemplate: [a]", r"template: unknown\. Did you mean 'templates'"),
        ("words.yaml", "names: [car]\ntemplates: ['a photo']", "the template 'a photo' must have one {}"),
        ("words.yaml", "names: [[car, [coupe]]]", "names.0.1: expected text"),
        ("words.yaml", "names: [car]\nmap: [car]", "map: expected a table"),
        ("words.yaml", "images: a.json\nnames: [car]", "`images` lists the words of each image, so `names` and"),
    ],
)
def test_a_file_that_is_no_list_of_words_is_refused(name: str, text: str | bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(OvssError, match=f"{name}.*{message}"):
        word_list.read(written(tmp_path, text, name))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"names": ["car", "road", "Car "]}, r"the word 'Car' is repeated: words 1 and 3 \(counted from 1\)"),
        ({"names": ["car"], "map": {"car": "carr"}}, r"map: car: unknown class 'carr'\. Did you mean 'car'\?"),
        ({"names": ["car"], "map": {"car": 19}}, "map: car: unknown class 19: the benchmark has 19 classes"),
        ({"names": ["car"], "map": {"cat": "car"}}, r"map: 'cat' is not one of the 1 words\. Did you mean 'car'\?"),
        ({"names": ["car"], "unmapped": "sidewalks"}, r"unmapped: unknown class .* Did you mean 'sidewalk'"),
        ({"names": ["zebra"]}, "none of the 1 words is the name of a label.* 'zebra', and the first label is 'road'"),
        ({"names": "ade20k:15"}, r"unknown benchmark 'ade20k:15'\. Did you mean 'ade20k:150'"),
        ({"map": {"car": "car"}}, "no names"),
        ({"add": True}, "no names"),
    ],
)
def test_words_that_do_not_fit_the_benchmark_are_refused(words: dict[str, Any], message: str) -> None:
    with pytest.raises(OvssError, match=message):
        own_words.of(WordList(**words), CITY)


def test_more_words_than_16_bits_hold_are_refused() -> None:
    names = tuple(f"word {i}" for i in range(INVALID - len(CITY.vocabulary) + 1))
    assert len(own_words.of(WordList(names=(*names, "car")), CITY).index) <= INVALID
    with pytest.raises(OvssError, match=r"too many words: 65,534; at most 65,533 fit into 16 bits"):
        own_words.of(WordList(names=names, add=True), CITY)


def test_a_name_of_several_labels_needs_a_decision() -> None:
    ade = catalog.load("ade20k:150")
    assert [ade.labels[k] for k in (13, 94)] == ["earth, ground", "land, ground, soil"]
    with pytest.raises(OvssError, match=r"the word 'ground' names 2 labels: 13, 94 .*`map: \{ground: 13\}`"):
        own_words.of(WordList(names=("ground", "wall")), ade)
    assert own_words.of(WordList(names=("ground", "wall"), map={"ground": 94}), ade).index == (94, 0)
    with pytest.raises(OvssError, match=r"map: wall: 'ground' is the name of 2 classes. Write the index"):
        own_words.of(WordList(names=("wall",), map={"wall": "ground"}), ade)


def test_a_word_counts_as_its_entry_else_as_the_label_with_its_name_else_as_the_rest() -> None:
    names = ("CAR", ("suv", "jeep"), ("vehicle", "bus"), "pavement, sidewalk", "unicorn")
    expected = {"CAR": "car", "suv": "truck", "vehicle": "bus", "pavement, sidewalk": "sidewalk", "unicorn": None}
    assert mapping(WordList(names=names, map={"Jeep": "truck"})) == expected
    assert mapping(WordList(names=names, map={"suv": 14}, unmapped="terrain")) == {**expected, "unicorn": "terrain"}
    assert mapping(WordList(names=names, map={"suv": 14, "CAR": None}))["CAR"] is None


def test_added_words_follow_the_classes_and_are_not_repeated() -> None:
    own = own_words.of(WordList(names=("sedan", "Road", "unicorn"), add=True, map={"sedan": "car"}), CITY)
    assert own.vocabulary is not None
    assert own.vocabulary.names == (*CITY.labels, "sedan", "unicorn")
    assert own.index == (*range(19), CITY.labels.index("car"), NONE)


def test_the_class_list_of_a_benchmark_is_itself_in_its_own_words() -> None:
    for name in ("ade20k:150", "ade20k:847", "ade20k:847@fcclip", "voc:20b", "pascal_context:459", "scenes:all"):
        benchmark = catalog.load(name)
        for names in (benchmark.vocabulary.classes, name):
            own = own_words.of(WordList(names=names), benchmark)
            assert own.vocabulary is not None
            assert (own.vocabulary.digest, own.index) == (benchmark.vocabulary.digest, benchmark.index)


def test_the_examples_of_the_documentation_are_as_described(tmp_path: Path) -> None:
    text = (ROOT / "docs/own_words.md").read_text("utf-8")
    first, ade, *_ = re.findall(r"^```yaml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    words, _ = word_list.read(written(tmp_path, first))
    assert mapping(words) == {"sedan": "car", "suv": "car", "road": "road", "sky scraper": "building", "unicorn": None}
    own = own_words.of(word_list.read(written(tmp_path, ade))[0], CITY)
    assert own.card(CITY)["without_word"] == ["rider", "train"]


def test_files_of_the_command_are_for_one_benchmark_or_for_all_others(tmp_path: Path) -> None:
    file = written(tmp_path, "car\n", "a=b.txt")
    assert word_list.of_options([file, f"camvid={tmp_path}/c.txt"]) == {"*": file, "camvid": f"{tmp_path}/c.txt"}
    assert word_list.of_options([]) is None
    for options, message in (([file, file], "is already the vocabulary of all benchmarks"), (["camvid="], "no file")):
        with pytest.raises(OvssError, match=message):
            word_list.of_options(options)
    cards = {"cityscapes:19": CITY, "scenes:seen": SEEN}
    words = {"*": WordList(names=("sky",)), "cityscapes:19": WordList(names=("road", "sky"))}
    resolved = own_words.resolve(words, cards)
    assert {name: len(own.index) for name, own in resolved.items()} == {"cityscapes:19": 2, "scenes:seen": 1}
    with pytest.raises(OvssError, match=r"--vocabulary benchmark 'camvid'.*Known: cityscapes:19, scenes:seen"):
        own_words.resolve({"camvid": file}, cards)


def test_every_form_of_a_config_is_written_and_read_back(tmp_path: Path) -> None:
    words = Vocabulary.of(["sky", ["grass", "lawn"]], ["a {}."])
    for value in ("words.txt", ["sky", ["grass", "lawn"]], words, {"scenes:seen": words}, {"*": "a", "x": FOLDED}):
        raw = {"pools": [{"stages": [{"use": "oracle"}]}], "vocabulary": value}
        config = configs.validate(raw, "test")
        assert configs.validate(configs.parse(configs.dump(config), "test"), "test") == config
    assert isinstance(config.vocabulary["x"], WordList)
    with pytest.raises(OvssError, match=r"vocabulary.*mapp: unknown"):
        configs.validate({**raw, "vocabulary": {"names": ["sky"], "mapp": {}}}, "test")


def test_the_report_says_in_a_line_which_words_were_used() -> None:
    own = own_words.of(WordList(**FOLDED), SEEN, "words.json", "0123456789abcdef")
    shown = terminal.own_words(WordsOf(**own.card(SEEN)))
    assert shown == (
        "8 own words of words.json, sha256 0123456789ab, for 5 labels, such as water, snow → water; words without a "
        "label: 1, such as striped red moon; labels without a word (IoU 0): 37, such as sunset"
    )
    prompted = own_words.of(WordList(templates=("a {}.",)), SEEN, "", "0123456789abcdef")
    shown = terminal.own_words(WordsOf(**prompted.card(SEEN)))
    assert (
        shown
        == "the classes of the benchmark, templates of the config, sha256 0123456789ab; templates: 1, such as 'a {}.'"
    )


def test_words_change_the_identity_and_their_absence_does_not(tmp_path: Path) -> None:
    plain = plan("oracle", tmp_path).identity()
    assert "words" not in plain["benchmarks"]["scenes:seen"]
    assert plan("oracle", tmp_path, {}).identity() == plain
    values: list[Any] = [
        SEEN.vocabulary,
        FOLDED,
        {**FOLDED, "map": {}},
        {"templates": ["a {}."]},
        {"templates": ["{}"]},
    ]
    digests = {json.dumps(plan("oracle", tmp_path, value).identity()) for value in values}
    assert len({*digests, json.dumps(plain)}) == 6
    listed = plan("oracle", tmp_path, written(tmp_path, json.dumps(FOLDED), "words.json")).identity()
    assert listed == plan("oracle", tmp_path, FOLDED).identity(), "the form of the file does not matter"
    settings = {"benchmarks": ["scenes:seen"], "vocabulary": f"{tmp_path}/words.json"}
    assert plan_runs("oracle", None, (), settings)["oracle"].folder.uri.endswith("oracle-scenes-seen-words-words")


def test_episodes_take_templates_only(tmp_path: Path) -> None:
    with pytest.raises(OvssError, match="each episode has its own class, so only templates can be set"):
        plan("oracle", tmp_path, ["sky"], "scenes:episodes")
    for config in ("oracle", "fusioner_tiny"):
        prompted = plan(config, tmp_path, {"templates": ["a {}."]}, "scenes:episodes")
        assert {words.templates for words in prompted.vocabularies.values()} == {("a {}.",)}
        plain = plan(config, tmp_path, None, "scenes:episodes")
        assert [words.classes for words in prompted.vocabularies.values()] == [
            words.classes for words in plain.vocabularies.values()
        ]


def test_templates_are_part_of_a_vocabulary_and_of_the_keys_of_prepared_arrays() -> None:
    plain, prompted = Vocabulary.of(["sky"]), Vocabulary.of(["sky"], ["a {}."])
    assert plain.digest == Vocabulary((("sky",),)).digest != prompted.digest
    for config in TINY[:-1]:
        (loaded,) = configs.load_all(ROOT / f"configs/{config}.yaml").values()
        stage = next(stage for stage in loaded.stages() if stage.key(plain))
        assert stage.key(plain) != stage.key(prompted)


def test_a_region_named_by_a_word_without_a_label_is_wrong_and_not_left_to_the_next_word() -> None:
    things = catalog.load("scenes:instances")
    own = own_words.of(WordList(names=("unicorn",), add=True), things)
    benchmark = own.applied(things)
    question = catalog.Benchmarks({"scenes:instances": own})["scenes:instances"].question("")
    assert question == (benchmark.vocabulary, benchmark.index)
    measure = StageConfig(use="measure").build(benchmarks={"scenes:instances": benchmark})
    asked = measure._asked("scenes:instances", "")  # type: ignore[attr-defined]
    scores = np.zeros((1, len(benchmark.index)), np.float32)
    scores[0, -1] = 9
    assert asked.named(scores)[0].tolist() == [NONE]


def computed(run: RunPlan) -> Batch:
    """The columns of a run's images, computed in this process."""
    benchmarks = catalog.Benchmarks(run.words)
    stages = {stage.use: stage.build(benchmarks=benchmarks) for pool in run.pools for stage in pool.stages}
    (table,) = run.manifests.values()
    batch = execution.run(stages, {name: column(table[name].to_pylist()) for name in MANIFEST}, run.vocabularies)
    assert set(batch["error"]) == {""}
    return batch


def cells(row: dict[str, np.ndarray]) -> Counter[tuple[int, int]]:
    keys = zip(row["truth"].tolist(), row["prediction"].tolist(), strict=True)
    return Counter(dict(zip(keys, row["pixels"].tolist(), strict=True)))


def by_hand(truth: np.ndarray, prediction: np.ndarray, index: dict[int, int]) -> Counter[tuple[int, int]]:
    """Count pixels of the labels of `truth` and of the words' labels, with loops in place of tables."""
    pairs = zip(truth.ravel().tolist(), prediction.ravel().tolist(), strict=True)
    return Counter((label, index.get(word, NONE)) for label, word in pairs if label != IGNORE)


def folded() -> dict[int, int]:
    """Word of FOLDED → label, written by hand."""
    label = SEEN.labels.index
    labels = ["water", "sky", "sky", "water", "plain red cross", None, "forest", "grass"]
    return {word: NONE if name is None else label(name) for word, name in enumerate(labels)}


def test_words_of_each_image_may_be_given_as_the_vocabulary_and_count_as_labels(tmp_path: Path) -> None:
    """The oracle predicts the best word of an image: its own mapping, and that of the user."""
    plain = plan("oracle", tmp_path)
    (table,) = plain.manifests.values()
    first, second = table["image_id"].to_pylist()
    names = ["heaven", *(name for name in SEEN.labels if name != "sky")]
    of_images = {first: names, second: [["sky", "heaven"]]}
    file = written(tmp_path, json.dumps(of_images), "words.json")
    listed = plan("oracle", tmp_path, file)
    assert [stage.use for stage in listed.config.stages()] == ["given_words", "oracle"]
    assert listed.config.vocabulary == {}
    assert plan(configs.parse(configs.dump(listed.config), "test"), tmp_path).identity() == listed.identity()
    yaml = written(tmp_path, f"images: {file}\nmap: {{heaven: sky}}\ntemplates: ['a {{}}']\n")
    mapped = plan("oracle", tmp_path, yaml)
    assert mapped.words["scenes:seen"].templates == ("a {}",)
    assert len({json.dumps(run.identity()) for run in (plain, listed, mapped)}) == 3
    truth, of_names, of_map = ([cells(row) for row in computed(run)["confusion"]] for run in (plain, listed, mapped))
    sky = SEEN.labels.index("sky")
    assert any((sky, sky) in image for image in truth)
    for image, words in enumerate(({*SEEN.labels} - {"sky"}, {"sky"})):
        known = {SEEN.labels.index(name) for name in words}
        assert of_names[image] == _lost(truth[image], known)
        assert of_map[image] == _lost(truth[image], known | {sky})


def _lost(counts: Counter[tuple[int, int]], known: set[int]) -> Counter[tuple[int, int]]:
    """The cells of an image whose words name `known` labels only; all other pixels have no word."""
    return Counter({(label, label if label in known else NONE): pixels for (label, _), pixels in counts.items()})


def test_words_of_each_image_are_for_all_benchmarks_and_from_one_stage(tmp_path: Path) -> None:
    file = written(tmp_path, '{"a": ["sky"]}', "words.json")
    settings = {"benchmarks": ["scenes:seen", "scenes:all"], "vocabulary": {"scenes:all": file}}
    with pytest.raises(
        OvssError, match=r"\(scenes:seen, scenes:all\) must use this file, with the same value of `add`"
    ):
        plan_runs("oracle", tmp_path, (), settings)
    with pytest.raises(OvssError, match=r"the stage 'tags' of this config also provides words\. Use"):
        plan("vocabulary_free_tiny", tmp_path, file)
    with pytest.raises(OvssError, match="none of the 1 entries belongs to an image of this run"):
        plan("oracle", tmp_path, file)


@pytest.mark.slow
@pytest.mark.parametrize("config", TINY)
def test_every_method_has_the_same_numbers_in_its_own_words_and_can_be_counted_by_hand(
    config: str, tmp_path: Path
) -> None:
    plain, same = (computed(plan(config, tmp_path, words, limit=1)) for words in (None, SEEN.vocabulary))
    assert cells(plain["confusion"][0]) == cells(same["confusion"][0])
    kept = computed(plan(config, tmp_path, FOLDED, limit=1))
    hand = by_hand(kept["truth"][0], kept["prediction"][0], folded())
    assert cells(kept["confusion"][0]) == hand
    assert len({label for _, label in hand}) > 1
    if config != "oracle":
        other = computed(plan(config, tmp_path, {"templates": ["a {} in the scene"]}, limit=1))
        values = [name for name in ("prediction", "scores") if name in plain]
        assert any(not np.array_equal(other[name][0], plain[name][0]) for name in values)


@pytest.mark.slow
def test_a_run_reports_its_words_and_is_compared_with_another(in_process: None, tmp_path: Path) -> None:
    """Two runs of `san_tiny`, and label maps of the second scored as those of another system."""
    import ovss_ray
    from ovss_ray.api import comparison

    file = written(tmp_path, json.dumps(FOLDED), "words.json")
    runs: list[Report] = []
    settings: list[Any] = [None, file]
    for name, words in zip("ab", settings, strict=True):
        runs.append(ovss_ray.evaluate("san_tiny", "scenes:seen", limit=2, vocabulary=words, out=tmp_path / name))
    plain, own = (run.benchmarks["scenes:seen"] for run in runs)
    assert plain.words is None
    assert own.words is not None
    assert (own.words.file, own.words.words) == (file, 8)
    assert ("striped red moon", None) in own.words.mapping
    assert "snow" in own.words.without_word
    assert [score.truth_pixels for score in own.classes] == [score.truth_pixels for score in plain.classes]
    (paired,) = comparison.differences(tmp_path / "a", tmp_path / "b").values()
    assert paired.refused == ""
    assert "first run has the classes of the benchmark, the second 8 words of " in paired.words
    maps = {"predictions.path": str(tmp_path / "b/scenes-seen/predictions")}
    options = {"limit": 2, "vocabulary": file, "out": tmp_path / "c", "overrides": maps}
    scored = ovss_ray.evaluate("predictions", "scenes:seen", **options).benchmarks["scenes:seen"]
    assert scored.metrics == own.metrics
    assert paired.values is not None
