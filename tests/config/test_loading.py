"""Configs: one file on top of another, overrides, and errors that say what to type."""

from pathlib import Path

import pytest

from ovss_ray.config import loading as configs
from ovss_ray.errors import OvssError

PLAIN = "benchmarks: [camvid]\npools:\n  - stages:\n      - use: san\n        options: {variant: san_vit_b_16}\n"


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    (tmp_path / "plain.yaml").write_text(PLAIN)
    return tmp_path / "plain.yaml"


def fault(file: Path, *overrides: str) -> str:
    with pytest.raises(OvssError) as found:
        configs.load(file, overrides)
    return str(found.value)


def test_a_config_is_read_back_as_it_was_written(plain: Path) -> None:
    config = configs.load(plain, ["pools.0.workers=[1, 4]", "limit=5", "exact=true"])
    assert configs.validate(configs.parse(configs.dump(config), "dumped"), "dumped") == config


def test_extends_puts_a_file_on_top_of_another(plain: Path) -> None:
    (plain.parent / "over.yaml").write_text("extends: plain.yaml\nlimit: 3\n")
    config = configs.load(plain.parent / "over.yaml")
    assert (config.limit, config.benchmarks, config.pools[0].stages[0].use) == (3, ("camvid",), "san")


def test_extending_oneself_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("extends: b.yaml")
    (tmp_path / "b.yaml").write_text("extends: a.yaml")
    assert "extends itself" in fault(tmp_path / "a.yaml")


def test_overrides_reach_into_lists_and_name_stages(plain: Path) -> None:
    config = configs.load(plain, ["pools.0.batch=4", "san.weights=here.pth", "keep_predictions=none"])
    assert config.pools[0].batch == 4
    assert config.pools[0].stages[0].options == {"weights": str(Path("here.pth").absolute())}
    assert config.keep_predictions == "none"


def test_text_in_an_override_is_taken_as_it_is_typed() -> None:
    raw = "pools: [{stages: [{use: predictions, options: {path: x}}]}]"
    for typed, path in [("/d [1]/#2", "/d [1]/#2"), ("/a #1", "/a #1"), ('"/b"', "/b"), ("'/it''s'", "/it's")]:
        changed = configs._override(configs.parse(raw, "x"), f"predictions.path={typed}")
        assert changed["pools"][0]["stages"][0]["options"] == {"path": path}


def test_exact_is_written_into_the_stages_that_know_it(plain: Path) -> None:
    assert configs.load(plain, ["exact=true"]).pools[0].stages[0].options["exact"] is True


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("limt=3", "limt: unknown. Did you mean 'limit'?"),
        ("pools.0.wokers=3", "pools.0.wokers: unknown. Did you mean 'workers'?"),
        ("san.varient=x", "pools.0.stages.0.options.varient: unknown. Did you mean 'variant'?"),
        ("pools.0.stages.0.optins={}", "pools.0.stages.0.optins: unknown. Did you mean 'options'?"),
        (
            "pools.1.batch=3",
            "'1.batch' must begin with the index of a list entry, counted from 0, but it begins with '1'",
        ),
        ("limit=many", "limit: expected a whole number, found 'many'"),
        ("limit=0", "limit: expected a number from 1, found 0"),
        ("pools.0.workers=[4, 2]", "invalid number of workers: (4, 2)"),
        ("pools.0.stages.0.use=sam2", "unknown stage 'sam2'."),
        ("benchmarks.0.x=3", "cannot set 'x' inside the plain value 'camvid'"),
        ("limit", "expected KEY.SUB=VALUE"),
        ("limit=[", "--set limit=[: invalid YAML"),
    ],
)
def test_a_fault_is_named_with_its_path_and_the_near_miss(plain: Path, override: str, message: str) -> None:
    assert message in fault(plain, override)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("limit: 1\nlimit: 2\n" + PLAIN, "duplicate key 'limit'"),
        ("a: &x 1\nb: *x\n" + PLAIN, "aliases are not allowed"),
        ("- a\n- b\n", "expected a mapping such as `benchmarks: [camvid]`, found list"),
        ("pools: [\n", "invalid YAML"),
        ("benchmarks: [camvid]\n", "pools: Field required"),
        ("pools: []\n", "pools: expected a list of at least 1 item, found []"),
        ("!!python/object/apply:os.system [echo]\n", "tags are not allowed (tag:yaml.org,2002:python/object"),
        ("limit: !!timestamp 9\n" + PLAIN, "line 1: tags are not allowed (tag:yaml.org,2002:timestamp)"),
        ('data_root: "\\ud800"\n' + PLAIN, "line 1: invalid character in '\\ud800'"),
        ('data_root: "a\\0"\n' + PLAIN, "line 1: invalid character in 'a\\x00'"),
        ("? [a]\n: b\n" + PLAIN, "found unhashable key"),
    ],
)
def test_yaml_that_could_mean_something_else_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    assert message in fault(tmp_path / "c.yaml")


def test_a_config_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert "nowhere.yaml: cannot be read: No such file" in fault(tmp_path / "nowhere.yaml")


def test_a_config_that_is_not_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_bytes(b"\xff\xfe\x00")
    assert "invalid YAML" in fault(tmp_path / "c.yaml")


def test_a_config_that_compares_others_puts_itself_on_top_of_each(plain: Path) -> None:
    (plain.parent / "oracle.yaml").write_text("pools:\n  - stages:\n      - use: oracle\n")
    (plain.parent / "both.yaml").write_text("compare: [plain, oracle]\nlimit: 3\nbenchmarks: [camvid]\n")
    made = configs.load_all(plain.parent / "both.yaml", ["san.precision=bf16", "exact=true"], {"split": "test"})
    assert {name: (one.limit, one.split, one.exact) for name, one in made.items()} == {
        "plain": (3, "test", True),
        "oracle": (3, "test", True),
    }
    assert made["plain"].pools[0].stages[0].options["precision"] == "bf16"
    assert configs.load_all(plain) == {"plain": configs.load(plain)}
    with pytest.raises(OvssError, match=r"both.yaml: plain: .*varient: unknown. Did you mean 'variant'"):
        configs.load_all(plain.parent / "both.yaml", ["san.varient=x"])
    with pytest.raises(OvssError, match=r"both.yaml: .*nothing: unknown"):
        configs.load_all(plain.parent / "both.yaml", ["nothing.x=1"])
    assert configs.load_all(plain.parent / "both.yaml", ["compare=[oracle,plain]"]).keys() == {"oracle", "plain"}
    (plain.parent / "one.yaml").write_text("compare: [plain, plain]\n")
    with pytest.raises(OvssError, match="expected a list of at least two different config names"):
        configs.load_all(plain.parent / "one.yaml")
