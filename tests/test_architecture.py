"""The rules that hold the project together, as tests (design §3, §11)."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "ovss_ray"
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}
MAY_IMPORT_RAY = {
    f"ovss_ray.{name}"
    for name in (
        "cluster",
        "evaluate",
        "ray_start",
        "reduce",
        "scatter",
        "supervise",
        "worker",
        "serve.app",
        "serve.command",
        "serve.routing",
    )
}
MAY_IMPORT_TORCH = ("ovss_ray.actors.", "ovss_ray.models", "ovss_ray.text", "ovss_ray.training")
SIBLINGS = ("ovss_ray.actors", "ovss_ray.datasets", "ovss_ray.metrics")
FORBIDDEN_NAMES = {"utils", "util", "common", "helpers", "helper", "manager", "handler", "misc"}


def imports(module: str, top_level: bool = False) -> Iterator[str]:
    """The modules that a module imports, by their full names."""
    tree = ast.parse(MODULES[module].read_text())
    for node in tree.body if top_level else ast.walk(tree):
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
    allowed = {"ovss_ray.inventory"}  # `ovss doctor` asks torch for the GPUs
    for module in MODULES:
        if "torch" in {name.split(".")[0] for name in imports(module)}:
            assert module.startswith(MAY_IMPORT_TORCH) or module in allowed, module


def test_models_know_neither_ray_nor_data_sets_nor_stages() -> None:
    for module in MODULES:
        if module.startswith("ovss_ray.models"):
            for name in imports(module):
                assert not name.startswith((*SIBLINGS, "ray", "ovss_ray.stage", "ovss_ray.evaluate")), (
                    f"{module} → {name}"
                )


def test_actors_datasets_and_metrics_never_import_one_another() -> None:
    for module in MODULES:
        own = next((package for package in SIBLINGS if module.startswith(package)), None)
        for name in imports(module) if own else ():
            others = tuple(package for package in SIBLINGS if package != own)
            assert not name.startswith(others), f"{module} imports {name}"


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
    "module", ["ovss_ray", "ovss_ray.cli", "ovss_ray.config", "ovss_ray.request", "ovss_ray.report"]
)
def test_what_a_user_meets_first_loads_neither_torch_nor_ray(module: str) -> None:
    script = (
        f"import sys, {module}; print([n for n in ('torch', 'ray', 'open_clip', 'numba', 'cv2') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("module", sorted(MODULES))
def test_functions_fit_forty_lines_and_modules_three_hundred(module: str) -> None:
    text = MODULES[module].read_text()
    assert text.count("\n") < 300, f"{module} has {text.count(chr(10))} lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            assert lines <= 40, f"{module}.{node.name} has {lines} lines"


def test_only_the_start_of_ray_and_the_thread_that_waits_catch_everything() -> None:
    found = [
        (module, node.lineno)
        for module in MODULES
        for node in ast.walk(ast.parse(MODULES[module].read_text()))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or (isinstance(node.type, ast.Name) and node.type.id in {"Exception", "BaseException"}))
    ]
    assert sorted(module for module, _ in found) == ["ovss_ray.ray_start", "ovss_ray.supervise"], found


def test_no_module_has_a_name_that_says_nothing() -> None:
    assert not [module for module in MODULES if module.rpartition(".")[2] in FORBIDDEN_NAMES]


def test_every_function_is_annotated() -> None:
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
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
            assert "pickle.load" not in line, f"{module}:{number}"
