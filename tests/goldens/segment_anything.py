"""Goldens of the released SAM. Run and tested here."""

from pathlib import Path

import numpy as np

from tests.goldens import SEED, Order, drawn, numpy, saved


def write(order: Order) -> list[Path]:
    """Write the image embedding, and the masks for single clicks on a grid, of the released SamPredictor."""
    from segment_anything import SamPredictor

    from ovss_ray.models.sam.variants import VARIANTS
    from tests import official_sam  # imports segment_anything, from the checkout if there is one

    variant = official_sam.SMALL if order.variant == "small" else VARIANTS[order.variant]
    network = official_sam.build(variant)
    network.load_state_dict(official_sam.state(variant, SEED))
    predictor = SamPredictor(network)
    image = drawn()[:200]
    predictor.set_image(image)
    clicks = np.stack(np.meshgrid([40.0, 128.0, 220.5], [30.0, 150.5]), -1).reshape(-1, 2)
    answers = [predictor.predict(click[None], np.ones(1), return_logits=True) for click in clicks]
    logits, scores, low = (np.stack(values) for values in zip(*answers, strict=True))
    arrays = {
        "image": image,
        "clicks": clicks,
        "embedding_sub": numpy(predictor.get_image_embedding()[0, :, ::4, ::4]),
        "low_res_logits": low,
        "predicted_iou": scores,
        "masks_packed": np.packbits(logits > 0, axis=-1),
        "near_zero_packed": np.packbits(np.abs(logits) < 1e-4, axis=-1),
    }
    return [saved(order.out / f"segment_anything/{order.variant}_seed{SEED}.npz", arrays)]
