"""SAM's mask decoder (Kirillov et al., 2023, §3 and appendix A).

The parameters have the official names. Dimensions: P prompts, N tokens per prompt, g side of the embedding, L =
g² cells, D channels.
"""

from torch import Tensor, nn

from ovss_ray.models.layers import Mlp
from ovss_ray.models.sam.variants import Variant
from ovss_ray.models.sam_layers.decoder import MaskHead

MASKS = 4
"""Number of masks that the decoder predicts per prompt: the first for unambiguous prompts, three for ambiguous ones"""


class MaskDecoder(MaskHead):
    """Decoder that gets image embeddings and prompt tokens. It predicts mask logits, and the IoU of each mask."""

    iou_token: nn.Embedding

    def __init__(self, variant: Variant) -> None:
        super().__init__(variant, MASKS, token="iou_token")
        self.iou_prediction_head = Mlp(variant.embed, variant.fit_width, MASKS, nn.Linear)

    def forward(self, image: Tensor, tokens: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits (P, MASKS, 4 g, 4 g) and predicted IoU (P, MASKS) of all masks.

        Inputs: image embeddings (P, D, g, g), prompt tokens (P, N, D), position encodings of the cells (L, D).
        """
        answer, masks = self.decode(self.iou_token.weight, image, tokens, positions)
        return masks, self.iou_prediction_head(answer)
