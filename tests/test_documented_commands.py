"""Every command in the documentation is valid; it is executed by a test, or its page says what it needs."""

import functools
import re
import runpy
import shlex
import sys
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray.scripts.scripts
import ray.serve.scripts
import typer.main
from fastapi.testclient import TestClient
from PIL import Image
from typer.testing import CliRunner

from ovss_ray.benchmarks import catalog
from ovss_ray.cli import app, evaluation
from ovss_ray.config import loading as configs
from ovss_ray.config.limits import Limits
from ovss_ray.config.shipped import find_config
from ovss_ray.config.word_list import of_options
from ovss_ray.engine.cluster import estimate
from ovss_ray.models import zoo
from ovss_ray.reports import subsets
from ovss_ray.serve.http import api
from ovss_ray.serve.http.admission import Model
from ovss_ray.training import config as trainings
from perf.__main__ import app as perf
from perf.gpu.__main__ import app as gpu_kit
from tests.paths import ROOT
from tests.serve.bright import MODEL, OUTLINER, WORDS, Toy, picture
from tests.serve.http.test_own_words import FINDER, send
from tests.shell_blocks import PAGES, Command, commands, sources
from tests.test_python_document import of_quick_start, on_finished_runs

pytestmark = pytest.mark.ray
NEEDS = {
    "GPU": r"\bneeds?\b[^.]*\bGPUs?\b|a machine with a GPU",
    "data": r"\bneeds?\b[^.]*\b(data|photographs|files)\b",
    "run": r"\b(finished|existing) runs?\b|\bany run\b",
    "disk": r"\bneeds?\b[^.]* MB\b",
    "network": r"\bneeds?\b[^.]*\bnetwork\b|machine with a network",
    "cluster": r"\bneeds?\b[^.]*\bcluster\b|on a running cluster",
    "package": r"\bneeds?\b[^.]*\bpackages?\b",
    "port": r"\bport\b|127\.0\.0\.1:8000",
    "time": r"\bminutes\b",
}
"""What a command may need → the words that its block, or the paragraph before or after it, then has"""
EXECUTED = {
    "ovss evaluate": "tests/test_documents.py::test_the_first_command_prints_the_table_of_the_readme",
    "ovss evaluate vocabulary_free_tiny": "tests/test_vocabulary_free.py"
    "::test_128_scenes_have_their_miou_to_a_tenth_from_nothing",
    "ovss evaluate examples/majority.yaml --benchmark scenes:seen --limit 8": "tests/test_examples.py"
    "::test_the_config_of_the_example_runs_a_stage_of_ones_own",
    "ovss evaluate fusioner_tiny --benchmark scenes:episodes --benchmark scenes:episodes-held-out": "tests/"
    "test_shipped.py::test_what_is_evaluated_has_its_miou_to_a_tenth",
    "ovss metrics sg-iou --from-checkout SCAN --table ade20k_847": "tests/cli/test_metrics.py"
    "::test_a_relations_file_is_written_once_from_a_checkout",
    "ovss check folder:field/carrots.yaml --data-root field": "tests/datasets/folder/test_own_data.py"
    "::test_the_documented_check_finds_no_fault_and_names_one_that_is_there",
    "python jobs/environment.py HF_TOKEN": "tests/test_jobs.py"
    "::test_a_submitted_job_gets_folders_and_the_keys_that_are_named",
    "ovss serve san_tiny mine.yaml --host 0.0.0.0 --write serve.yaml": "tests/serve/test_deploy.py"
    "::test_serve_takes_the_file_that_is_written",
    "python -m perf.gpu --device cpu --tiny": "tests/test_gpu_kit.py",
    **dict.fromkeys(("ruff check", "ruff format --check", "mypy ovss_ray", "pytest", "pip install uv"), ".ci/run"),
    "sphinx-build -W -c docs . build/docs": ".ci/run",
}
"""Command → the test that executes it, with its own values of options"""
PLACEHOLDERS = {"CONFIG", "NAME", "RUN", "RUNS…", "…"}
FOREIGN = {"AWS_ACCESS_KEY_ID", "PYTHONPATH", "RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_TMPDIR"}
"""Variables of Python, Ray and others; ours occur in the code"""
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the images of the examples."""
    made = tmp_path_factory.mktemp("typed")
    for name in ("photo.jpg", "a.jpg", "b.jpg"):
        Image.fromarray(picture(120, 160)).save(made / name)
    return made


@pytest.fixture(scope="module")
def typed(folder: Path) -> list[Command]:
    """All commands of all pages."""
    return commands([source for page in PAGES for source in sources(page)], folder)


def bare(words: Sequence[str]) -> tuple[str, ...]:
    """The words of a command without `uv run`. The group of `--group` exists."""
    if tuple(words[:2]) != ("uv", "run"):
        return tuple(words)
    rest = words[2:]
    if rest[:1] == ("--group",):
        assert rest[1] in PROJECT["dependency-groups"], rest[1]
        rest = rest[2:]
    return tuple(rest)


@functools.cache
def parser(typer_app: typer.Typer) -> Any:
    """The parser of an application."""
    return typer.main.get_command(typer_app)


def parsed(command: Any, words: Sequence[str], mention: bool = False) -> tuple[str, dict[str, Any]]:
    """The name and the values of a command line. A mention in the text may leave out arguments and subcommands."""
    rest, names = [word for word in words if word != "…"], list[str]()
    while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        names.append(rest.pop(0))
        assert names[-1] in command.commands, f"no such command: {' '.join(names)}"
        command = command.commands[names[-1]]
    try:
        return " ".join(names), command.make_context("x", rest).params
    except Exception as failure:  # Typer has its own copy of Click
        if not mention or type(failure).__name__ not in ("BadOptionUsage", "MissingParameter", "NoArgsIsHelpError"):
            raise
        return " ".join(names), {}


def of_config(values: dict[str, Any]) -> set[str]:
    """Check the configs, options and benchmarks of `ovss evaluate` and `ovss plan`. Return the needs of a run."""
    name, benchmarks = values["config"], [each for each in values["benchmarks"] or () if each not in PLACEHOLDERS]
    if name in PLACEHOLDERS:
        name = "oracle"
    keys = {"benchmarks": benchmarks} if benchmarks else {}
    if values.get("wait_for"):
        keys["wait_for"] = values["wait_for"]
    loaded = configs.load_all(find_config(name), values["overrides"] or (), keys)
    of_options(values["vocabulary"])
    if values.get("on"):
        estimate.imagined(values["on"])
    drawn = [catalog.load(each).drawn for run in loaded.values() for each in catalog.expanded(run.benchmarks)]
    foreign = any(stage.use.startswith("my_") for run in loaded.values() for stage in run.stages())
    needs = {"package"} if values.get("track") or foreign else {"cluster"} if values.get("wait_for") else set()
    return needs | ({"GPU"} if large(loaded.values()) else set()) | (set() if all(drawn) else {"data"})


def large(runs: Any) -> bool:
    """Whether any stage has a network that is not one of the small shipped ones."""
    stages = [stage for run in runs for stage in run.stages() if stage.kind().gpu]
    variants = [getattr(stage.kind().Config(**stage.options), "variant", "") for stage in stages]
    return not all(variant.endswith("_tiny") for variant in variants)


def of_ovss(words: Sequence[str], mention: bool) -> set[str]:
    """Check a command `ovss …` with the parser and the settings of the project. Return its needs."""
    name, values = parsed(parser(app.app), words, mention)
    if not values or PLACEHOLDERS & {str(values.get("name")), str(values.get("benchmark"))}:
        return set()
    if name in ("evaluate", "plan"):
        return of_config(values)
    if name in ("download", "check", "prepare"):
        data = catalog.load(values["benchmark"]) if values["benchmark"] else None
        assert name != "download" or (data and data.archives), "nothing to download"
        return {"network"} if name == "download" else {"data"}
    if name == "train":
        if values["config"] not in PLACEHOLDERS:
            trainings.load(find_config(values["config"]), values["set_"] or ())
        return {"time"} if values["config"].endswith(("_tiny", "_tiny_neck")) else {"GPU"}
    if name == "serve":
        loaded = configs.load_several(map(find_config, values["config"] or app.SERVED), values["set_"] or ())
        return ({"port"} if not values["write"] else set()) | ({"GPU"} if large(loaded.values()) else set())
    if name.startswith("weights ") and "name" in values:
        assert values["name"] in {*zoo.known(), *zoo.families(), *zoo.fakeable()}, values["name"]
        return {{"weights fetch": "network", "weights fake": "disk", "weights merge": "data"}[name]}
    if name == "report":
        subsets.words_of(values["metrics"])
        subsets.parse(values["merge"] or [])
    return {"run"} if name in ("report", "compare", "leaderboard") else set()


def of_python(words: Sequence[str], mention: bool) -> set[str]:
    """Check `python -m MODULE …` and `python jobs/NAME.py …`. Return the needs."""
    if words[0] == "-m":
        modules = {"perf": perf, "perf.gpu": gpu_kit}
        if words[1] in modules:
            parsed(parser(modules[words[1]]), words[2:], mention or len(words) == 2)
            return {"GPU"} if "cuda" in words else set()
        if words[1:] == ("perf.gpu.pack",):
            return {"network"}
        assert mention
        assert words[1] == "http.server" or (ROOT / f"{words[1].replace('.', '/')}.py").is_file()
        return set()
    assert (ROOT / words[0]).is_file(), words[0]
    return {"cluster"} | (of_job(words) if "/eval_" in words[0] else set())


def of_job(words: Sequence[str]) -> set[str]:
    """Check the options of a job with the parser that the job itself calls."""
    caught: list[Sequence[str]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", list(words))
        patch.setattr(evaluation, "script", lambda run, arguments: caught.append(("evaluate", *arguments)))
        patch.setattr(app, "main", lambda arguments: caught.append(arguments))
        runpy.run_path(str(ROOT / words[0]), run_name="__main__")
    return of_ovss(caught[0], mention=False) - {"data", "GPU"}  # a cluster has both


def of_bash(words: Sequence[str], mention: bool) -> set[str]:
    assert words[0] == "perf/gpu/run.sh"
    if not mention:
        parsed(parser(gpu_kit), words[1:])
    return {"GPU"}


def of_ray(words: Sequence[str], mention: bool) -> set[str]:
    at = words.index("--") if "--" in words else len(words)
    parsed(ray.scripts.scripts.cli, [*words[:at], *(("true",) if words[1:2] == ("submit",) else ())], mention)
    return {"cluster"} | (of_program(words[at + 1 :], mention) if at < len(words) else set())


def of_serve(words: Sequence[str], mention: bool) -> set[str]:
    parsed(ray.serve.scripts.cli, words, mention)
    return {"cluster"}


def of_pip(words: Sequence[str], mention: bool) -> set[str]:
    for extras in re.findall(r"ovss_ray\[(.*?)\]", " ".join(words)):
        assert set(extras.split(",")) <= set(PROJECT["project"]["optional-dependencies"]), extras
    return {"network"}


@functools.cache
def variables() -> set[str]:
    """The variables of the environment whose names are in the code."""
    sources = [path.read_text("utf-8") for path in (ROOT / "ovss_ray").rglob("*.py")]
    return set(re.findall(r"OVSS_\w+", "".join(sources)))


def of_export(words: Sequence[str], mention: bool) -> set[str]:
    name = words[0].partition("=")[0]
    assert name in FOREIGN or name in variables(), f"no such variable: {name}"
    return set()


def of_network(words: Sequence[str], mention: bool) -> set[str]:
    assert all(word.startswith("https://github.com/") for word in words if "://" in word)
    return {"network"}


def of_container(words: Sequence[str], mention: bool) -> set[str]:
    assert mention, "docker and kubectl are for files of cluster/, whose comments have the commands"
    return {"cluster"}


def of_tool(words: Sequence[str], mention: bool) -> set[str]:
    """Requests of curl are sent by another test of this module; `.ci/run` starts the linters."""
    return set()


PROGRAMS: dict[str, Callable[[Sequence[str], bool], set[str]]] = {
    "ovss": of_ovss, "python": of_python, "bash": of_bash, "ray": of_ray, "serve": of_serve, "pip": of_pip,
    "export": of_export, "git": of_network, "hf": of_network, "docker": of_container, "kubectl": of_container,
    **dict.fromkeys(("pytest", "ruff", "mypy", "sphinx-build", "openssl", "wandb", "curl"), of_tool),
}  # fmt: skip
"""Program → check of its arguments, which returns the needs"""


def of_program(words: Sequence[str], mention: bool) -> set[str]:
    """Check a command. Return its needs."""
    program, *rest = bare(words)
    assert program in PROGRAMS, f"{program}: unknown program"
    return PROGRAMS[program](tuple(rest), mention)


def carried_out() -> set[str]:
    """The commands that tests execute, each as it is typed. Those tests exist and have the same names."""
    for command, test in EXECUTED.items():
        file, _, name = test.partition("::")
        source = (ROOT / file).read_text("utf-8")
        assert f"def {name}(" in source or not name, test
        values = [word for word in shlex.split(command)[2:] if not re.search(r"[/.]|^-|^[A-Z]+$|^\d+$", word)]
        assert all(value in source for value in values), f"{test} has other values than {command}"
    return {*EXECUTED, *of_quick_start(), *on_finished_runs()}


def files_of(page: str, folder: Path) -> None:
    """Write the YAML files of a page whose first line is their name, as a reader would."""
    text = (ROOT / page).read_text("utf-8")
    files = {"mine.yaml": "pools: [{stages: [{use: oracle}]}]\n"}  # a config of the reader
    for language, block in reversed(re.findall(r"^```(yaml|python)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)):
        if language == "yaml" and (name := re.match(r"# ([\w/]+\.yaml)", block)):
            files[name[1]] = block
        if language == "python" and (name := re.search(r"`(my_package/\w+\.py)`", text)):
            files[name[1]] = block
    for file, content in files.items():  # the first block of a name is written last
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_text(content, "utf-8")


def runs_here(command: Command) -> bool:
    """Whether a test of this module executes a command that needs nothing."""
    words = bare(command.words)
    return words[:2] in (("ovss", "evaluate"), ("ovss", "plan")) or words == ("python", "-m", "perf")


def faults(typed: Sequence[Command], folder: Path) -> Iterator[str]:
    done = carried_out()
    page = ""
    for command in typed:
        mention = command.source.inline
        if page != command.source.document:
            files_of(page := command.source.document, folder)
        try:
            needs = of_program(command.words, mention)
        except (Exception, SystemExit) as failure:  # noqa: BLE001 - all faults are listed
            yield f"{command}\n    {type(failure).__name__}: {failure}"
            continue
        if mention or PLACEHOLDERS & set(command.words) or command.words[0] in ("curl", "export", "openssl"):
            continue
        if " ".join(bare(command.words)) in done or (not needs and runs_here(command)):
            continue
        yield from (
            f"{command}\n    its block does not say that it needs: {need}"
            for need in needs
            if not re.search(NEEDS[need], command.source.near)
        )
        if not needs:
            yield f"{command}\n    needs nothing, and no test executes it"


def test_every_command_is_valid_and_is_executed_or_says_what_it_needs(
    typed: list[Command], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "my_library", SimpleNamespace(predict=None))
    assert len(typed) > 300
    listed = list(faults(typed, tmp_path))
    assert not listed, "\n".join(listed)


@pytest.mark.slow
def test_commands_that_need_nothing_are_carried_out_on_one_image(
    in_process: None, typed: list[Command], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = carried_out()
    lines = {bare(command.words) for command in typed if not command.source.inline and runs_here(command)}
    own = [words for words in sorted(lines) if words[0] == "ovss" and " ".join(words) not in done]
    own = [words for words in own if words[2].endswith("_tiny") and "--track" not in words]
    assert len(own) >= 5
    for number, words in enumerate(own):
        short = ["--limit", "1", "--out", f"runs/{number}"] if words[1] == "evaluate" else []
        result = CliRunner().invoke(app.app, [*words[1:], *short])
        assert result.exit_code == 0, f"{words}: {result.output}"
    listed = CliRunner().invoke(perf, [])
    assert "sam-encoder" in listed.output


def request(client: TestClient, command: Command, folder: Path) -> Any:
    """The answer of the service to a command `curl …`."""
    words, files, fields, headers, content, method = list(command.words[1:]), [], [], {}, None, ""
    address = ""
    while words:
        word = words.pop(0)
        if word == "-F":
            name, _, value = words.pop(0).partition("=")
            if value.startswith("@"):
                files.append((name, (value[1:], (folder / value[1:]).read_bytes())))
            else:
                fields.append((name, value))
        elif word == "-H":
            name, _, value = words.pop(0).partition(": ")
            headers[name] = value
        elif word == "--data-binary":
            value = words.pop(0)
            content = command.sent.encode() if value == "@-" else (folder / value[1:]).read_bytes()
        elif word == "-X":
            method = words.pop(0)
        elif word == "-o":
            words.pop(0)
        elif word != "-i":
            assert not address
            address = word
    parts = [*files, *((name, (None, value)) for name, value in fields)]
    body = {"files": parts} if parts else {"content": content} if content else {}
    return client.request(method or ("POST" if body else "GET"), f"http://{address}", headers=headers, **body)


def test_requests_of_the_service_are_answered(typed: list[Command], folder: Path) -> None:
    lines = [command for command in typed if command.words[0] == "curl" and not command.source.inline]
    finder = FINDER | {"name": "vocabulary_free_tiny"}
    models = [Model(one, Toy().send, WORDS) for one in (MODEL | {"name": "san_tiny"}, OUTLINER)]
    service = api.build([*models, Model(finder, send, WORDS)], Limits(), None)
    identifier, statuses = "", list[int]()
    with TestClient(service, base_url="http://localhost:8000", client=("127.0.0.1", 50000)) as client:
        for command in lines:
            words = tuple(word.replace("/ID", f"/{identifier}") for word in command.words)
            answer = request(client, replace(command, words=words), folder)
            identifier = answer.json()["id"] if answer.status_code == 202 else identifier
            statuses.append(answer.status_code)
    assert statuses[:13] == [200] * 12 + [202], [*zip(statuses, lines, strict=True)]
    assert statuses[13] == 200
    assert {*statuses[14:16]} <= {200, 409}, "the job may still run"
    assert statuses[16:] == [204]
