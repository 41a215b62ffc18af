"""Evaluate open-vocabulary semantic segmentation at scale.

    import ovss_ray

    report = ovss_ray.evaluate("san_tiny", "scenes:seen", limit=8, out="runs/try")
    report.benchmarks["scenes:seen"].metrics["miou"]  # percent
    ovss_ray.load_model("san_tiny").segment(photograph, ovss_ray.Vocabulary.of(["road", "sky"]))  # (H, W) uint16

docs/python.md describes all functions and classes. `ovss --help` lists the commands.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ovss_ray.api.checking import check
    from ovss_ray.api.comparison import compare
    from ovss_ray.api.evaluation import evaluate
    from ovss_ray.client import Client
    from ovss_ray.config.run import RunConfig
    from ovss_ray.errors import OvssError
    from ovss_ray.models import load as load_model
    from ovss_ray.reports.schema import Report
    from ovss_ray.structures.vocabulary import Vocabulary

__version__ = "0.1.0"

__all__ = [
    "Client",
    "OvssError",
    "Report",
    "RunConfig",
    "Vocabulary",
    "check",
    "compare",
    "evaluate",
    "load_model",
]

# Each name is imported at its first use, so that `import ovss_ray` imports neither torch nor Ray.
_PLACES = {
    "Client": ("ovss_ray.client", "Client"),
    "OvssError": ("ovss_ray.errors", "OvssError"),
    "Report": ("ovss_ray.reports.schema", "Report"),
    "RunConfig": ("ovss_ray.config.run", "RunConfig"),
    "Vocabulary": ("ovss_ray.structures.vocabulary", "Vocabulary"),
    "check": ("ovss_ray.api.checking", "check"),
    "compare": ("ovss_ray.api.comparison", "compare"),
    "evaluate": ("ovss_ray.api.evaluation", "evaluate"),
    "load_model": ("ovss_ray.models", "load"),
}
"""Public name → (module that defines it, name in that module)."""

if not TYPE_CHECKING:  # type checkers would take every name for a known one

    def __getattr__(name: str) -> object:
        if name not in _PLACES:
            raise AttributeError(f"module 'ovss_ray' has no attribute {name!r}")
        import importlib

        module, own_name = _PLACES[name]
        value = globals()[name] = getattr(importlib.import_module(module), own_name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
