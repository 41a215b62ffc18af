"""SCAN's parts over one photograph: CPU time and memory of each, beside the plain form where ours computes differently.

The weights are made up: only the number of regions depends on them. The plain forms are those of the official code:

- backbone: maps are padded, rolled and cut into windows, with one mask for each window;
- pixel decoder: `grid_sample` for the points of deformable attention;
- masked decoder: proposals after every layer, whose masks are resized to the next level;
- crops: all crops in one forward pass;
- pixels: the scores of all classes at all pixels at once.

Memory is what the resident set, or torch's allocator on a GPU, grows by at the peak of a call (Linux only, on a CPU).
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ovss_ray.models import semantic
from ovss_ray.models.scan import fake, network
from ovss_ray.models.scan.calibration import overview
from ovss_ray.models.scan.deformable import Cells
from ovss_ray.models.scan.mask_decoder import MaskDecoder, Proposals, attended
from ovss_ray.models.scan.pixel_decoder import SCALES, sine
from ovss_ray.models.scan.swin import ELSEWHERE, Block, Swin, constants, relative_position_index
from ovss_ray.models.scan.towers import UNUSED, classifier, ours
from ovss_ray.models.scan.variants import VARIANTS, Options
from ovss_ray.serve.deployments.replica import give_back
from ovss_ray.structures.vocabulary import Vocabulary
from perf import pictures
from perf.semantic import peak_of
from perf.timing import interleaved, ratio, show, spread, titled

Calls = Mapping[str, Callable[[], object]]


def measure(name: str, size: tuple[int, int], classes: int, device: str, rounds: int) -> None:
    """Print the table of one variant."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    model = made_up(name).to(device)
    clock = time.process_time if device == "cpu" else time.perf_counter
    with torch.inference_mode():
        own, plain, regions = parts(model, pictures.photograph(size), classes)
        differing = {part: difference(own[part](), call()) for part, call in plain.items()}
        peaks, plain_peaks = ({part: _peak(call, device) for part, call in side.items()} for side in (own, plain))
        times = interleaved(own, rounds, device, clock)
        plain_times = interleaved(plain, rounds, device, clock)
    table = titled(
        f"{name}: its parts", "part", "s", "share", "MB", "plain s", "plain / ours", "plain MB", "largest difference"
    )
    total = np.sum([times[part] for part in own if part not in ("text", "whole")], axis=0)
    for part, spent in times.items():
        share = "" if part in ("text", "whole") else spread(100 * spent / total, 0) + " %"
        row = [part, spread(spent), share, f"{peaks[part] / 1e6:,.0f}"]
        if part in plain:
            row += [spread(plain_times[part]), ratio(plain_times[part], spent), f"{plain_peaks[part] / 1e6:,.0f}"]
            row.append(f"{differing[part]:.1e}")
        table.add_row(*row)
    note = f"One photograph of {size[0]} × {size[1]} pixels, {regions} regions, {classes} classes, float32"
    show(table, f"{note}, device {device}. Seconds of {'the CPU' if device == 'cpu' else 'wall time'}.")


def made_up(name: str) -> network.Scan:
    """The network with made-up weights, on the CPU."""
    variant = VARIANTS[name]
    with torch.device("meta"):
        model = network.Scan(variant)
    unused = {*UNUSED, *(f"backbone.{constant}" for constant in constants(variant))}
    state = {ours(key): value for key, value in fake.state_dict(variant).items() if key not in unused}
    model.load_state_dict(state, assign=True)
    return model.eval().requires_grad_(False)


def parts(model: network.Scan, image: np.ndarray, classes: int) -> tuple[Calls, Calls, int]:
    """Part → call, part → call of its plain form, and the number of regions.

    Each call works on inputs that were made before. They are checked to add up to `Scan.segment`.
    """
    vocabulary = Vocabulary.of([f"thing number {number}" for number in range(classes)])
    variant, adapter, head, options = model.variant, model.clip_adapter, model.sem_seg_head, Options()
    inputs, rows = model.preprocess(image), model.classifier(vocabulary)
    padded, whole = inputs.padded[None].to(model.device), inputs.overview[None].to(model.device)
    seen = overview(adapter.original_clip, whole, variant.levels, variant.replaced)
    maps = model.backbone(padded)
    features, levels = head.pixel_decoder(maps)
    (proposals,) = head.predictor(levels, features)

    def calibrated() -> Tensor:
        return F.normalize(model.calibrate(proposals.embeddings, model.clip_tokens(seen.maps), seen.embeddings), dim=-1)

    masks, embeddings = proposals.mask_logits[0], calibrated()[0]
    cut = model.cut(image, inputs, masks, seen.class_tokens[0], options)
    crops, valid = model.embed([cut]), torch.from_numpy(cut.regions.valid).to(model.device)

    def scores() -> Tensor:
        return model.scores(embeddings, crops, valid, rows, options)

    own: Calls = {
        "preprocess": lambda: model.preprocess(image),
        "global CLIP": lambda: overview(adapter.original_clip, whole, variant.levels, variant.replaced),
        "backbone": lambda: model.backbone(padded),
        "pixel decoder": lambda: head.pixel_decoder(maps),
        "masked decoder": lambda: head.predictor(levels, features),
        "calibration": calibrated,
        "regions": lambda: model.cut(image, inputs, masks, seen.class_tokens[0], options),
        "crops": lambda: model.embed([cut]),
        "pixels": lambda: model.labels(masks, scores(), inputs.geometry, vocabulary),
        "whole": lambda: model.segment(image, vocabulary),
        "text": lambda: classifier(adapter.clip_model, adapter.non_object_embedding, vocabulary),
    }
    plain: Calls = {
        "backbone": lambda: plain_backbone(model.backbone, padded),
        "pixel decoder": lambda: plain_pixel_decoder(model, maps),
        "masked decoder": lambda: plain_decoder(head.predictor, levels, features),
        "crops": lambda: model.embed([cut], batch=max(1, len(cut.regions))),
        "pixels": lambda: plain_pixels(masks, scores(), inputs.geometry),
    }
    differing = difference(own["pixels"](), own["whole"]())
    assert differing <= 0.001, f"the parts do not add up to Scan.segment: {differing:.2%} of the pixels differ"
    return own, plain, len(cut.regions)


def plain_backbone(swin: Swin, images: Tensor) -> list[Tensor]:
    """The maps of Swin.forward."""
    x, maps = swin.patch_embed(images).permute(0, 2, 3, 1), []
    for i, stage in enumerate(swin.layers):
        for j, block in enumerate(stage.blocks):
            x = _plain_block(block, x, stage.side, stage.side // 2 * (j % 2))
        maps.append(swin.get_submodule(f"norm{i}")(x).permute(0, 3, 1, 2))
        x = x if stage.downsample is None else stage.downsample(x)
    return maps


def _plain_block(block: Block, x: Tensor, side: int, shift: int) -> Tensor:
    """The output (B, h, w, C) of a block; windows of the padded and rolled map are attended with a mask for each."""
    h, w = x.shape[1:3]
    rolled = F.pad(block.norm1(x), (0, 0, 0, -w % side, 0, -h % side)).roll((-shift, -shift), (1, 2))
    cut = _windows(rolled, side)
    q, k, v = block.attn.qkv(cut).unflatten(-1, (3, block.attn.heads, -1)).permute(2, 0, 3, 1, 4)
    index = relative_position_index(side, x.device)
    logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    logits = logits + block.attn.relative_position_bias_table[index].permute(2, 0, 1)
    if shift:
        mask = _edges(rolled.shape[1], rolled.shape[2], side, shift, x.device)
        logits = logits + mask.repeat(len(x), 1, 1)[:, None]
    seen = block.attn.proj((logits.softmax(-1) @ v).transpose(1, 2).flatten(2))
    across = rolled.shape[2] // side
    back = (
        seen.unflatten(1, (side, side)).unflatten(0, (len(x), -1, across)).transpose(2, 3).flatten(3, 4).flatten(1, 2)
    )
    x = x + back.roll((shift, shift), (1, 2))[:, :h, :w]
    return x + block.mlp["fc2"](F.gelu(block.mlp["fc1"](block.norm2(x))))


def _windows(x: Tensor, side: int) -> Tensor:
    """The windows (n, L, C) of a map (B, h, w, C)."""
    return x.unflatten(2, (-1, side)).unflatten(1, (-1, side)).transpose(2, 3).flatten(3, 4).flatten(0, 2)


def _edges(height: int, width: int, side: int, shift: int, device: torch.device) -> Tensor:
    """The mask (n, L, L) of each window of a rolled map: pairs of tokens from opposite edges."""
    regions = torch.zeros(1, height, width, 1, device=device)
    for i, (top, bottom) in enumerate(pairwise((0, height - side, height - shift, height))):
        for j, (left, right) in enumerate(pairwise((0, width - side, width - shift, width))):
            regions[:, top:bottom, left:right] = 3 * i + j
    cut = _windows(regions, side)[..., 0]
    return ELSEWHERE * (cut[:, :, None] != cut[:, None]).float()


def plain_pixel_decoder(model: network.Scan, maps: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """The outputs of PixelDecoder.forward."""
    with patch.object(Cells, "summed", Cells.sampled):
        return model.sem_seg_head.pixel_decoder(maps)


def plain_decoder(decoder: MaskDecoder, levels: Sequence[Tensor], features: Tensor) -> list[Proposals]:
    """The outputs of MaskDecoder.forward."""
    values = [x.flatten(2).transpose(1, 2) + decoder.level_embed.weight[i] for i, x in enumerate(levels)]
    keys = [x + sine(level.shape[-2:], x.shape[-1], x.device) for x, level in zip(values, levels, strict=True)]
    x, places = decoder.query_feat.weight.expand(len(features), -1, -1), decoder.query_embed.weight
    proposals = [decoder.predict(x, features)]
    cross, among, feed_forward = (
        list(decoder.get_submodule(f"transformer_{kind}_layers").children())
        for kind in ("cross_attention", "self_attention", "ffn")
    )
    for i in range(len(cross)):
        level = i % SCALES
        size = tuple(levels[level].shape[-2:])
        masks = F.interpolate(proposals[-1].mask_logits, size, mode="bilinear", align_corners=False)
        x = cross[i](x, places, keys[level], values[level], attended(masks))
        x = feed_forward[i](among[i](x, places))
        proposals.append(decoder.predict(x, features))
    return proposals[-1:]


def plain_pixels(mask_logits: Tensor, scores: Tensor, placed: semantic.Geometry) -> np.ndarray:
    """The label map (H, W) of Scan.labels, if all classes have different names."""
    masks = semantic.probabilities(mask_logits, placed)
    semseg = torch.einsum("qc,qhw->chw", scores, masks)[None]
    whole = F.interpolate(semseg, placed.original, mode="bilinear", align_corners=False)[0]
    return whole.argmax(0).cpu().numpy().astype(np.uint16)


def difference(value: object, other: object) -> float:
    """The largest difference of tensors, as a part of the largest magnitude; of label maps, the share of pixels."""
    if isinstance(value, np.ndarray):
        return float((value != other).mean())
    one, two = _tensors(value), _tensors(other)
    assert len(one) == len(two)
    return max(float((a - b).abs().max() / a.abs().max()) for a, b in zip(one, two, strict=True))


def _tensors(value: object) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Proposals):
        return [value.embeddings, value.mask_logits]
    assert isinstance(value, list | tuple)
    return [tensor for part in value for tensor in _tensors(part)]


def _peak(call: Callable[[], object], device: str) -> int:
    """Bytes that a call takes, after free memory was returned to the system; an earlier call has loaded the kernels."""
    give_back()
    return peak_of(call, device)
