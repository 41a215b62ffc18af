"""Check that every machine of a cluster has the same weights as the machine where the command was started."""

from collections.abc import Iterable, Mapping

from ovss_ray.errors import OvssError
from ovss_ray.io import digests
from ovss_ray.pipeline.stage import StageConfig


def check(stages: Iterable[StageConfig], expected: Mapping[str, str], node: str) -> None:
    """Check that this machine has the same weights as the machine where the command was started.

    `expected`: name of a stage → expected SHA-256 of the stage's files (see digests.sha256_of). Stages without an
    entry in `expected` are not checked. `node`: IP address of this machine.
    Raises OvssError if a SHA-256 is not the expected one, or if a file is missing and cannot be downloaded.
    """
    for stage in stages:
        if stage.use in expected:
            try:
                stage_files = stage.kind().files(stage.settings())
                digest = digests.sha256_of(stage_files)
            except (OSError, OvssError) as failure:
                raise OvssError(f"node {node}: {failure}") from failure
            if digest != expected[stage.use]:
                raise OvssError(
                    f"node {node} has other weights of {stage.use} than the machine where you started the command. "
                    f"SHA-256 of {', '.join(map(str, stage_files))}: {digest} on the node, {expected[stage.use]} on "
                    "your machine. Copy the files from your machine to the node. Or set, in the options of "
                    f"{stage.use}, a path or URI that all nodes can read"
                )
