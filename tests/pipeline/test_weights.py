"""Weights on the nodes of a cluster: two machines with different files never compute one run."""

from pathlib import Path

import pytest

from ovss_ray.errors import OvssError
from ovss_ray.io import digests
from ovss_ray.pipeline import weights
from ovss_ray.pipeline.stage import StageConfig


def test_a_node_with_another_file_of_the_same_name_is_refused_with_both_digests(tmp_path: Path) -> None:
    stages, files = {}, {}
    for machine, content in (("driver", "new"), ("node", "old")):
        files[machine] = tmp_path / machine / "san.pth"
        files[machine].parent.mkdir()
        files[machine].write_text(content)
        stages[machine] = StageConfig(use="san", options={"variant": "san_tiny", "weights": str(files[machine])})
    here, there = (digests.sha256_of((files[machine],)) for machine in ("driver", "node"))
    assert here
    weights.check([stages["driver"], StageConfig(use="oracle")], {"san": here}, "10.0.0.1")
    with pytest.raises(OvssError) as refusal:
        weights.check([stages["node"]], {"san": here}, "10.0.0.7")
    for text in ("node 10.0.0.7 has other weights of san", str(files["node"]), here, str(there)):
        assert text in str(refusal.value)
    files["node"].write_text("new")
    weights.check([stages["node"]], {"san": here}, "10.0.0.7")
    files["node"].unlink()
    with pytest.raises(OvssError, match=r"node 10\.0\.0\.7: the weights of san_tiny: file not found: .*san\.pth"):
        weights.check([stages["node"]], {"san": here}, "10.0.0.7")
