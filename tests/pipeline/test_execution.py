"""Plan and run: what a pipeline of stages keeps, isolates and refuses."""

import weakref
from typing import ClassVar

import numpy as np
import pytest

from ovss_ray.errors import OvssError
from ovss_ray.pipeline import execution
from ovss_ray.pipeline.stage import Stage, StageConfig
from ovss_ray.structures.columns import COLUMNS, Batch, column
from ovss_ray.structures.vocabulary import Vocabularies


class Paint(Stage):
    """Writes a prediction per row; fails on the images it is told to, and on batches that are too large."""

    reads = ("image_uri",)
    writes = ("prediction",)
    calls: ClassVar[list[list[str]]] = []

    def __init__(self, bad: tuple[str, ...] = (), most: int = 100, error: type[Exception] = ValueError) -> None:
        super().__init__(self.Config())
        self.bad, self.most, self.error = bad, most, error

    def __call__(self, batch: Batch, vocabularies: Vocabularies) -> Batch:
        ids = list(batch["image_id"])
        if len(ids) > self.most:
            raise MemoryError("too many images at once")
        if wrong := [image_id for image_id in ids if image_id in self.bad]:
            raise self.error(f"cannot paint {wrong[0]}")
        return {"prediction": column(np.full((2, 2), int(image_id[1:]), np.uint16) for image_id in ids)}


def batch(n: int) -> Batch:
    return execution.start(n, image_id=[f"i{k}" for k in range(n)])


def test_one_bad_image_does_not_cost_its_neighbours() -> None:
    done = execution.run({"paint": Paint(bad=("i3",))}, batch(8), {})
    assert [bool(error) for error in done["error"]] == [k == 3 for k in range(8)]
    assert done["error"][3].endswith("ValueError: cannot paint i3")
    assert [p.flat[0] for k, p in enumerate(done["prediction"]) if k != 3] == [0, 1, 2, 4, 5, 6, 7]


def test_a_message_meant_for_the_user_stands_alone() -> None:
    done = execution.run({"paint": Paint(bad=("i0",), error=OvssError)}, batch(1), {})
    assert done["error"][0].endswith(": cannot paint i0")
    assert "OvssError" not in done["error"][0]


def test_running_out_of_memory_shrinks_the_batch() -> None:
    done = execution.run({"paint": Paint(most=3)}, batch(8), {})
    assert list(done["error"]) == [""] * 8
    assert [p.flat[0] for p in done["prediction"]] == list(range(8))


def test_what_a_failed_batch_has_taken_is_given_back_before_it_is_halved() -> None:
    class Large:
        """Stands for an array on a full GPU."""

    alive: weakref.WeakSet[Large] = weakref.WeakSet()

    class Greedy(Paint):
        def __call__(self, batch: Batch, vocabularies: Vocabularies) -> Batch:
            assert len(alive) == 0
            mine = Large()
            alive.add(mine)
            return super().__call__(batch, vocabularies)

    assert list(execution.run({"greedy": Greedy(most=1)}, batch(8), {})["error"]) == [""] * 8


def test_a_failed_image_is_passed_by_from_then_on() -> None:
    done = execution.run({"first": Paint(bad=("i1",)), "second": Paint(bad=("i1", "i2"))}, batch(4), {})
    assert "i1" in done["error"][1]
    assert "i2" in done["error"][2]
    assert done["prediction"][1].shape == (0, 0)
    assert done["seconds"][1]["second"] == 0.0
    assert done["seconds"][0]["second"] > 0.0


def test_a_wrong_number_of_rows_stops_the_run() -> None:
    class Short(Paint):
        def __call__(self, batch: Batch, vocabularies: Vocabularies) -> Batch:
            return {"prediction": super().__call__(batch, vocabularies)["prediction"][:-1]}

    with pytest.raises(execution.Contract, match="must write 4 rows of column 'prediction'"):
        execution.run({"short": Short()}, batch(4), {})


def test_a_cuda_error_is_a_death_and_not_the_fault_of_one_image() -> None:
    class Poisoned(Paint):
        def __call__(self, batch: Batch, vocabularies: Vocabularies) -> Batch:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(execution.Poisoned, match="illegal memory access"):
        execution.run({"poisoned": Poisoned()}, batch(4), {})


def test_a_stage_is_given_only_what_it_reads() -> None:
    class Nosy(Paint):
        def __call__(self, batch: Batch, vocabularies: Vocabularies) -> Batch:
            assert set(batch) == {"image_id", "image_uri"}
            return super().__call__(batch, vocabularies)

    assert list(execution.run({"nosy": Nosy()}, batch(2), {})["error"]) == ["", ""]


def test_the_plan_keeps_what_is_read_later_and_drops_the_rest() -> None:
    stages = [StageConfig(use=name) for name in ("decode", "san", "truth", "measure")]
    keeps = execution.plan(
        stages, {"image_id", "image_uri", "truth_uri", "benchmark", "vocabulary", "part"}, {"confusion"}
    )
    assert "image" in keeps[0]
    assert "image" not in keeps[1]
    assert {"prediction", "truth"} <= keeps[2]
    assert keeps[3] == {"confusion"}


def test_a_stage_that_reads_what_nobody_wrote_is_refused_before_anything_runs() -> None:
    with pytest.raises(OvssError, match=r"stage 0 \('san'\) needs column 'image'"):
        execution.plan([StageConfig(use="san")], {"image_id", "vocabulary"}, {"prediction"})


def test_every_empty_value_has_the_declared_dtype_and_rank() -> None:
    for name, declared in COLUMNS.items():
        value = declared.empty()
        if declared.dtype not in ("str", "dict"):
            assert value.dtype == declared.dtype, name
            assert value.ndim == len(declared.shape.split()), name
