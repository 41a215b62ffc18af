"""Options of stages with a SAM. No torch is imported here, so that configs are validated quickly."""

from typing import TYPE_CHECKING, ClassVar, Literal

from ovss_ray.io import digests
from ovss_ray.models.network_config import NetworkConfig

if TYPE_CHECKING:  # torch takes seconds to import, which checking a config should not cost
    from ovss_ray.models.sam.network import Sam


class SamConfig(NetworkConfig):
    """Options of a SAM: the network, its precision and its compilation."""

    family: ClassVar[str] = "ovss_ray.models.sam"
    variant: str = "sam_vit_h"
    """sam_tiny, sam_vit_b, sam_vit_l, sam_vit_h, or sam_mobile (MobileSAM)"""
    precision: Literal["fp32", "bf16", "int8"] = "fp32"
    """fp32, bf16 (for GPUs) or int8 (CPUs only). bf16 applies to the image encoder and the automatic mask generator,
    and changes masks slightly. int8 applies to the image encoder"""
    compile: bool | Literal["reduce-overhead", "max-autotune"] = False
    """compilation of the image encoder by torch.compile, at the start of each worker. True selects the default mode.
    The modes reduce-overhead and max-autotune use CUDA graphs on a GPU. If the encoder is compiled, in any mode, an
    incomplete batch takes as long as a full batch. `python -m perf sam-encoder` measures the cost and the gain"""

    def identity(self) -> str:
        """Return the variant, and the SHA-256 of its checkpoint. Raises OvssError if the checkpoint is missing."""
        return f"{self.variant}, sha256 {digests.sha256_of(self.files())}"

    def load(self, images: int = 1) -> "Sam":
        """Load the network. If `compile` is set, compile the network for batches of at most `images` images.

        Raises OvssError if the checkpoint is missing or does not fit the network, or if compilation fails.
        """
        from ovss_ray.models.sam import network

        model = network.load(self.variant, self.files(), self.resolved_device(), self.precision)
        self.compiled(model, images)
        return model

    def compiled(self, model: "Sam", images: int) -> None:
        """Compile a network for batches of at most `images` images, if the option `compile` is set."""
        if self.compile:
            with self.computing():  # under other settings it would be compiled again
                model.compile_for(images, "default" if self.compile is True else self.compile)
