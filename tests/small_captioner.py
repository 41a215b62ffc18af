"""Image-to-text models of transformers with random weights and tiny sizes, written into a folder as on the hub."""

from pathlib import Path
from typing import Any

WORDS = ["a", "the", "dog", "cat", "tree", "street", "sky", "red", "blue", "on", "with", "of", "photo"]


def tokeniser() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[CLS]", "[SEP]", "[UNK]", *WORDS])}
    plain = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]"}
    return PreTrainedTokenizerFast(tokenizer_object=plain, bos_token="[CLS]", eos_token="[SEP]", **special)


def encoder_decoder(folder: Path) -> Path:
    """A ViT with GPT-2 as its decoder: two files for images and words, no common processor."""
    import torch
    from transformers import GPT2Config, VisionEncoderDecoderConfig, ViTConfig, ViTImageProcessor
    from transformers import VisionEncoderDecoderModel as Model

    torch.manual_seed(0)
    words = tokeniser()
    vit = ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=32)
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32, "initializer_range": 2.0}
    gpt = GPT2Config(vocab_size=len(words), bos_token_id=1, eos_token_id=2, pad_token_id=0, **sizes)
    model = Model(VisionEncoderDecoderConfig.from_encoder_decoder_configs(vit, gpt))
    model.generation_config.update(decoder_start_token_id=1, bos_token_id=1, eos_token_id=2, pad_token_id=0)
    model.save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def blip(folder: Path) -> Path:
    """A BLIP, with a common processor of images and words."""
    import torch
    from transformers import BlipConfig, BlipForConditionalGeneration, BlipImageProcessor, BlipProcessor

    torch.manual_seed(0)
    words = tokeniser()
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    numbers = {"bos_token_id": 1, "eos_token_id": 2, "sep_token_id": 2, "pad_token_id": 0}
    text = {**sizes, **numbers, "vocab_size": len(words), "encoder_hidden_size": 16, "initializer_range": 2.0}
    config = BlipConfig(text_config=text, vision_config={**sizes, "image_size": 32, "patch_size": 16})
    BlipForConditionalGeneration(config).save_pretrained(folder)
    BlipProcessor(BlipImageProcessor(size={"height": 32, "width": 32}), words).save_pretrained(folder)
    return folder
