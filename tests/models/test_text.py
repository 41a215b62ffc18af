"""Prompts become embeddings, exactly and once."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ovss_ray.datasets import scenes
from ovss_ray.models import fake, runtime, text
from ovss_ray.models.clip import TextTower
from ovss_ray.models.san import network
from ovss_ray.models.san.variants import VARIANTS
from ovss_ray.structures.recent import Recent
from ovss_ray.structures.vocabulary import Vocabulary
from tests.checkpoints import SMALL, golden_overrides, small_state


@pytest.fixture(scope="module")
def tower() -> TextTower:
    made = network.Words(SMALL)
    made.load_state_dict(
        {
            name.removeprefix(network.TEXT): value
            for name, value in small_state().items()
            if name.startswith(network.TEXT)
        },
        strict=False,
    )
    return made.eval().requires_grad_(False)


def golden_tower(shared: Path, short: str) -> TextTower:
    """The text tower with its golden weights, without the rest of the checkpoint."""
    with torch.device("meta"):
        made = network.Words(VARIANTS[f"san_{short}"])
    state = {name: fake.tensor(network.TEXT + name, value.shape) for name, value in made.state_dict().items()}
    bias = golden_overrides(shared, f"{short}_seed0_overrides.npz")[f"{network.TEXT}ln_final.bias"]
    made.load_state_dict(state | {"ln_final.bias": torch.from_numpy(bias)}, assign=True)
    return made.eval().requires_grad_(False)


@pytest.mark.parametrize(
    ("short", "words"),
    [
        ("vit_b_16", "v20"),
        pytest.param("vit_b_16", "coco171", marks=pytest.mark.slow),
        pytest.param("vit_large_14", "v20", marks=pytest.mark.slow),
    ],
)
def test_classifiers_are_those_of_the_official_code(shared: Path, short: str, words: str) -> None:
    with np.load(shared / "parity" / "san" / f"{short}_seed0_text_{words}.npz") as golden:
        names, expected = golden["names"].tolist(), golden["classifier"]
        assert len(expected) == len(names) + 1
        every = slice(None) if len(names) == 20 else slice(None, None, 9)
        rows = network.classifier(golden_tower(shared, short), Vocabulary.of(names[every]))
        expected = np.concatenate([expected[:-1][every], expected[-1:]])
        assert rows.shape == expected.shape
        assert np.abs(rows.numpy() / float(golden["logit_scale_exp"]) - expected).max() <= 2e-6


def test_the_templates_are_the_fourteen_that_san_uses() -> None:
    templates = text.TEMPLATES["vild"]
    assert len(set(templates)) == 14
    assert all(template.count("{}") == 1 for template in templates)
    assert [template for template in templates if not template.endswith(".")] == list(templates[1:5])


def test_prompts_in_buckets_are_embedded_as_padded_ones_are(tower: TextTower) -> None:
    prompts = ["a photo of a dog.", "dog", "There is a large window-blind in the scene.", "a sign symbol", "cat"]
    padded, lengths = text.tokenise(prompts, tower.context)
    x = tower.token_embedding(padded) + tower.positional_embedding
    causal = torch.full((tower.context, tower.context), -torch.inf).triu(1)
    for block in tower.transformer["resblocks"]:
        x = block(x, lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=causal))
    ends = tower.ln_final(x)[torch.arange(len(prompts)), lengths - 1]
    expected = F.normalize(ends @ tower.text_projection, dim=-1)
    assert torch.allclose(text.embed_prompts(tower, prompts), expected, atol=2e-6, rtol=0)


def test_the_order_of_prompts_and_the_size_of_batches_change_nothing(
    tower: TextTower, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [f"{'very ' * (i % 5)}small thing number {i}" for i in range(23)]
    forward = text.embed_prompts(tower, prompts)
    monkeypatch.setattr(text, "BATCH_TOKENS", 7)
    assert torch.allclose(text.embed_prompts(tower, prompts[::-1]).flip(0), forward, atol=1e-6)


def test_a_prompt_that_is_too_long_loses_its_tail_and_keeps_its_end_token(tower: TextTower) -> None:
    tokens, lengths = text.tokenise(["dog " * 200, "dog"])
    assert lengths.tolist() == [77, 3]
    assert tokens[0, -1] == tokens[1, 2] == 49407
    same = text.embed_prompts(tower, ["dog " * 200, "dog " * 75])
    assert torch.equal(same[0], same[1])


def test_tokens_are_those_of_clip_in_lower_case() -> None:
    tokens, _ = text.tokenise(["A photo of a DOG."])
    assert tokens[0, :9].tolist() == [49406, 320, 1125, 539, 320, 1929, 269, 49407, 0]


def test_a_small_tower_reads_whole_words_and_knows_when_it_does_not() -> None:
    table = text.word_table("scenes")
    assert len(table) == VARIANTS["san_tiny"].text_vocabulary
    tokens, lengths = text.tokenise(["A photo of a Striped red STAR.", "a zebra, red"], 24, "scenes")
    words = ["<start>", "a", "photo", "of", "a", "striped", "red", "star", ".", "<end>"]
    assert tokens[0, : lengths[0]].tolist() == [table[word] for word in words]
    assert tokens[1, : lengths[1]].tolist() == [table[w] for w in ("<start>", "a", "<unknown>", ",", "red", "<end>")]
    assert text.tokenise(["red " * 50], 24, "scenes")[0][0].tolist() == [2, *[table["red"]] * 22, table["<end>"]]


def test_every_word_of_the_drawn_scenes_is_in_the_table() -> None:
    table = text.word_table("scenes")
    names = {name for one in scenes.BENCHMARKS.values() for name in one.vocabulary.names}
    names -= {"background"}  # of episodes; a network that segments one class at a time does not get it
    prompts = [template.format(name) for name in names for template in text.TEMPLATES["vild"][:3]]
    tokens, lengths = text.tokenise(prompts, 24, "scenes")
    assert not (tokens == table["<unknown>"]).any()
    assert lengths.max() < 24


def test_repeated_names_get_equal_rows_and_each_name_has_unit_norm(tower: TextTower) -> None:
    reports: list[tuple[float, int]] = []
    with text.reported(lambda done, names: reports.append((done, names))):
        rows = text.embed(tower, ["dog", "cat", "dog"], text.TEMPLATES["vild"])
    assert reports == sorted(reports)
    assert reports[-1] == (2, 2), "repeated names are computed once"
    assert torch.equal(rows[0], rows[2])
    assert not torch.allclose(rows[0], rows[1], atol=1e-3)
    assert torch.allclose(rows.norm(dim=-1), torch.ones(3))


def test_a_memo_keeps_the_values_asked_for_last() -> None:
    memo, made = Recent[str](2), []

    def ask(key: str) -> str:
        return memo.get(key, lambda: made.append(key) or key)

    assert [ask(key) for key in "abacab"] == list("abacab")
    assert made == ["a", "b", "c", "b"]


def test_a_memo_may_be_bounded_by_what_its_values_take_and_keeps_the_last_one_in_any_case() -> None:
    memo, made = Recent[str](4, len), []

    def ask(value: str) -> str:
        return memo.get(value, lambda: made.append(value) or value)

    for value in ("aa", "bb", "aa", "c", "aa", "bb", "large value", "aa"):
        assert ask(value) == value
    assert made == ["aa", "bb", "c", "bb", "large value", "aa"]


def test_of_classes_with_equal_prompts_the_first_is_named() -> None:
    words = Vocabulary.of([["sky", " air"], "tree", "Sky, air ", "TREE", ["air", "sky"]])
    assert text.whole_names(words) == ["sky, air", "tree", "Sky, air", "TREE", "air, sky"]
    assert text.first_of_equal(words).tolist() == [0, 1, 0, 1, 4]


def test_names_are_embedded_once_whatever_vocabulary_they_are_in(
    tower: TextTower, monkeypatch: pytest.MonkeyPatch
) -> None:
    templates, computed, embed = text.TEMPLATES["vild"], [], text.embed
    monkeypatch.setattr(text, "WORDS", Recent[torch.Tensor](1 << 20, lambda row: row.nbytes))
    monkeypatch.setattr(text, "embed", lambda tower, names, some: computed.append(names) or embed(tower, names, some))
    whole = embed(tower, ["dog", "cat", "dog"], templates)
    assert torch.equal(text.embed_cached(tower, ["dog", "cat", "dog"], templates), whole)
    rows = text.embed_cached(tower, ["cow", "cat"], templates)
    assert computed == [["dog", "cat"], ["cow"]]
    assert torch.equal(rows[1], whole[1])
    text.embed_cached(tower, ["cow"], ("{}",))
    other = network.Words(SMALL)
    other.load_state_dict(tower.state_dict())
    text.embed_cached(other.eval(), ["cow"], templates)
    assert computed[2:] == [["cow"]]  # other templates; a tower with equal weights shares the rest


def test_exact_embeddings_do_not_depend_on_the_names_before_them(
    tower: TextTower, monkeypatch: pytest.MonkeyPatch
) -> None:
    names, templates = [f"{'small ' * (n % 3)}thing {n}" for n in range(9)], text.TEMPLATES["vild"]
    rows = []
    for order in (names, names[::-1]):
        monkeypatch.setattr(text, "WORDS", Recent[torch.Tensor](1 << 20, lambda row: row.nbytes))
        text.embed_cached(tower, order[:7], templates)  # by another model of this process, which is not exact
        with runtime.computing(exact=True):
            for begin in range(0, 9, 4):
                text.embed_cached(tower, order[begin : begin + 4], templates)
            rows.append(text.embed_cached(tower, names, templates))
    assert torch.equal(*rows)


def test_the_cache_of_names_is_bounded(tower: TextTower, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = Recent[torch.Tensor](5 * 4 * SMALL.embed, lambda row: row.nbytes)
    monkeypatch.setattr(text, "WORDS", cache)
    for n in range(4):
        text.embed_cached(tower, [f"thing {n} {k}" for k in range(4)], ("{}",))
        assert cache.held <= 5 * 4 * SMALL.embed
    rows = text.embed_cached(tower, [f"word {k}" for k in range(8)], ("{}",))  # more than fit
    assert torch.allclose(rows, text.embed(tower, [f"word {k}" for k in range(8)], ("{}",)), atol=1e-6)
