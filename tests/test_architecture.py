"""The rules that hold the project together, as tests (design §3, §11)."""

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from functools import cache

import pytest

from tests.paths import ROOT
from tests.sample_prose import nodes

PACKAGE = ROOT / "ovss_ray"
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}
LAYERS = (
    {"errors"},
    {"structures", "registry"},
    {"io"},
    {"words"},
    {"benchmarks", "pipeline", "metrics", "models"},
    {"actors", "datasets", "config"},
    {"runs"},
    {"reports", "training"},
    {"engine"},
    {"serve", "dataprep"},
    {"api", "client"},
    {"cli"},
    {"__main__"},
)
"""Packages and top-level modules of ovss_ray, from the ground up. A module imports from layers below its own only."""
MAY_IMPORT_RAY = {
    f"ovss_ray.{name}"
    for name in (
        "engine.cluster.autoscaler",
        "engine.cluster.connection",
        "engine.cluster.preflight",
        "engine.cluster.ray_internals",
        "engine.cluster.ray_start",
        "engine.cluster.waiting",
        "engine.pools.gauges",
        "engine.pools.ray_data",
        "engine.pools.local",
        "engine.reduce",
        "engine.scatter",
        "engine.watch",
        "engine.pools.worker",
        "serve.command",
        "serve.deployments.app",
        "serve.deployments.pools",
        "serve.deployments.routing",
    )
}
MAY_IMPORT_TORCH = {"actors", "models", "training"}
CATALOGUES = {"actors", "datasets", "engine/trackers", "metrics", "training/recipes"}
"""Folders of things of one kind, a file each: they may be long. Others hold at most twelve files and folders."""
MAY_IMPORT_PEER = {
    ("datasets.pascal5i", "voc"): "a variant: VOC's photographs and label files, asked for one class at a time",
    ("metrics.confusion", "_counting"): "the kernel of this metric alone",
    ("metrics.confusion", "_image_miou"): "the mIoU of each image, for this metric alone",
    ("metrics.confusion", "_resampling"): "its values in bootstrap resamples",
}
"""Module and the peer in its catalogue that it imports: the reason. Others share through the layers below them."""
FAMILIES = {path.parent.name for path in PACKAGE.glob("models/*/variants.py")}
"""Folders of ovss_ray/models, one for each family of networks: a catalogue beside the modules that families share."""
FORBIDDEN_NAMES = {"utils", "util", "common", "helpers", "helper", "manager", "handler", "misc"}


@cache
def imports(module: str) -> tuple[str, ...]:
    """The modules that a module imports, by their full names. Each file is read only once."""
    return tuple(imported(module))


def imported(module: str) -> Iterator[str]:
    for node in nodes(MODULES[module]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import; write the full name"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in MODULES else str(node.module)


def test_ray_is_imported_in_the_listed_modules_only() -> None:
    found = {module for module in MODULES for name in imports(module) if name.split(".")[0] == "ray"}
    assert found == MAY_IMPORT_RAY


def test_torch_is_imported_where_networks_live_only() -> None:
    allowed = {"ovss_ray.cli.doctor"}  # it asks torch for the GPUs
    for module in MODULES:
        if "torch" in {name.split(".")[0] for name in imports(module)}:
            assert package(module) in MAY_IMPORT_TORCH or module in allowed, module


def package(module: str) -> str:
    """The package or module directly below ovss_ray that a module belongs to."""
    return module.split(".")[1] if "." in module else module


def test_packages_import_from_lower_layers_only() -> None:
    layer = {name: number for number, names in enumerate(LAYERS) for name in names}
    assert {package(module) for module in MODULES} - {"ovss_ray"} == set(layer), "LAYERS lists every package"
    for module in MODULES:
        for name in imports(module) if "." in module else ():
            if name in MODULES and package(name) != package(module):
                assert layer[package(name)] < layer[package(module)], f"{module} imports {name}"


def test_things_of_one_kind_do_not_import_one_another() -> None:
    found = set()
    for catalogue in CATALOGUES:
        above = f"ovss_ray.{catalogue.replace('/', '.')}."
        for module in MODULES:
            if module.startswith(above):
                own = module.removeprefix(above).split(".")[0]
                peers = {name.removeprefix(above).split(".")[0] for name in imports(module) if name.startswith(above)}
                found |= {(module.removeprefix("ovss_ray."), peer) for peer in peers - {own}}
    assert found == set(MAY_IMPORT_PEER)


def test_stages_are_handed_their_benchmarks_and_look_up_none() -> None:
    for module in MODULES:
        if package(module) in {"actors", "pipeline"}:
            assert "ovss_ray.benchmarks.catalog" not in set(imports(module)), module
    named = {
        module
        for module, path in MODULES.items()
        for node in nodes(path)
        if isinstance(node, ast.Constant) and str(node.value).split(":")[0] == "ovss_ray.datasets"
    }
    assert named == {"ovss_ray.benchmarks.catalog", "ovss_ray.registry"}


def test_serving_knows_stages_and_data_sets_by_their_contracts_alone() -> None:
    for module in MODULES:
        if package(module) == "serve":
            assert not {package(name) for name in imports(module) if name in MODULES} & {"actors", "datasets"}, module


def test_a_folder_of_unlike_modules_holds_at_most_twelve() -> None:
    for folder in {path.parent for path in MODULES.values()} - {PACKAGE}:
        inside = [path for path in folder.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()]
        if folder == PACKAGE / "models":
            inside = [path for path in inside if path.name not in FAMILIES]
        if folder.relative_to(PACKAGE).as_posix() not in CATALOGUES:
            assert len(inside) - (folder / "__init__.py" in inside) <= 12, folder


def test_networks_of_one_family_do_not_import_those_of_another() -> None:
    assert {"alpha_clip", "sam", "san"} <= FAMILIES
    for module in MODULES:
        if package(module) == "models":
            own, *_ = [*module.split(".")[2:], ""]
            imported = {name.split(".")[2] for name in imports(module) if name.startswith("ovss_ray.models.")}
            assert imported & FAMILIES <= {own}, f"{module} imports {imported & FAMILIES - {own}}"


def test_sizes_and_checkpoints_of_networks_are_known_without_torch() -> None:
    for family in FAMILIES:
        variants = f"ovss_ray.models.{family}.variants"
        assert not [name for name in imports(variants) if name.split(".")[0] == "torch"], variants
        assert {"VARIANTS", "WEIGHTS"} <= set(dir(importlib.import_module(variants)))
        assert "load" in dir(importlib.import_module(f"ovss_ray.models.{family}.network"))


def test_settings_of_the_process_for_networks_are_made_in_one_module() -> None:
    """They are contexts there, set back at the end; the threads of a worker are an argument."""
    for module, path in MODULES.items():
        text = path.read_text()
        assert "OMP_NUM_THREADS" not in text, module
        for setting in ("allow_tf32", "fp32_precision", "set_deterministic_debug_mode"):
            assert setting not in text or module == "ovss_ray.models.runtime", f"{module} sets {setting}"


def test_the_package_shows_its_architecture_at_first_sight() -> None:
    entries = {path.name for path in PACKAGE.iterdir() if not path.name.startswith(("__pycache__", "py.typed"))}
    assert len(entries) <= 23, sorted(entries)


def test_tests_mirror_the_packages() -> None:
    for folder in {path.parent for path in (ROOT / "tests").rglob("test_*.py")}:
        mirrored = folder.relative_to(ROOT / "tests")
        assert (PACKAGE / mirrored).is_dir() or str(mirrored) == "cluster", folder  # that is no package


def test_there_is_no_cycle_of_imports() -> None:
    graph = {module: {name for name in imports(module) if name in MODULES} - {module} for module in MODULES}
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " → ".join((*path, module))
        if module not in done:
            for name in graph[module]:
                visit(name, (*path, module))
            done.add(module)

    for module in graph:
        visit(module, ())


@pytest.mark.parametrize(
    "module",
    [
        "ovss_ray",
        "ovss_ray.api.evaluation",
        "ovss_ray.api.comparison",
        "ovss_ray.api.checking",
        "ovss_ray.cli.app",
        "ovss_ray.config.loading",
        "ovss_ray.runs.plan",
        "ovss_ray.reports.report",
    ],
)
def test_what_a_user_meets_first_loads_neither_torch_nor_ray(module: str) -> None:
    heavy = ["torch", "ray", "open_clip", "numba", "cv2", *(["numpy"] if module == "ovss_ray.cli.app" else [])]
    script = f"import sys, {module}; print([n for n in {heavy} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("module", sorted(MODULES))
def test_functions_fit_forty_lines_and_modules_three_hundred(module: str) -> None:
    text = MODULES[module].read_text()
    assert text.count("\n") < 300, f"{module} has {text.count(chr(10))} lines"
    for node in nodes(MODULES[module]):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            assert lines <= 40, f"{module}.{node.name} has {lines} lines"


def test_only_what_meets_ray_or_a_tracker_catches_everything() -> None:
    found = [
        (module, node.lineno)
        for module in MODULES
        for node in nodes(MODULES[module])
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or (isinstance(node.type, ast.Name) and node.type.id in {"Exception", "BaseException"}))
    ]
    allowed = ["engine.cluster.autoscaler", "engine.cluster.ray_start", "engine.trackers.__main__", "engine.watch"]
    assert sorted(module for module, _ in found) == [f"ovss_ray.{name}" for name in allowed], found


def test_no_module_has_a_name_that_says_nothing() -> None:
    assert not [module for module in MODULES if module.rpartition(".")[2] in FORBIDDEN_NAMES]


def test_every_function_is_annotated() -> None:
    for module, path in MODULES.items():
        for node in nodes(path):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                bare = [
                    a.arg
                    for a in node.args.args + node.args.kwonlyargs
                    if not a.annotation and a.arg not in ("self", "cls")
                ]
                assert not bare, f"{module}.{node.name}: {bare}"
                assert node.returns is not None, f"{module}.{node.name} does not say what it returns"


def test_checkpoints_are_never_unpickled_freely() -> None:
    for module, path in MODULES.items():
        for number, line in enumerate(path.read_text().splitlines(), 1):
            assert "torch.load(" not in line or "weights_only=True" in line, f"{module}:{number}"
            ours = module == "ovss_ray.engine.watch" and "loads(worker)" in line  # the handle of a worker of this run
            assert ours or "pickle.load" not in line, f"{module}:{number}"


def test_a_newcomer_follows_the_job_to_a_network_in_five_files_and_six_hundred_lines() -> None:
    path = ["jobs/eval_ade847.py", "ovss_ray/api/evaluation.py", "ovss_ray/engine/evaluate.py"]
    path += ["ovss_ray/pipeline/execution.py", "ovss_ray/actors/san.py"]
    lines = {file: (ROOT / file).read_text("utf-8").count("\n") for file in path}
    assert sum(lines.values()) <= 600, lines
