"""A CLIPSeg of transformers with random weights and tiny sizes, written into a folder as on the hub."""

from pathlib import Path

WORDS = ["a", "photo", "of", "dog", "cat", "tree", "sky", "street", "."]


def write(folder: Path) -> Path:
    """Write the model. Its weights are large, so that several classes win somewhere."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import CLIPSegConfig, CLIPSegForImageSegmentation, CLIPSegProcessor, PreTrainedTokenizerFast
    from transformers import ViTImageProcessor as Images

    torch.manual_seed(0)
    numbers = {word: number for number, word in enumerate(["[PAD]", "[BEGIN]", "[UNK]", *WORDS, "[END]"])}
    plain = Tokenizer(models.WordLevel(numbers, unk_token="[UNK]"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [(token, numbers[token]) for token in ("[BEGIN]", "[END]")]
    plain.post_processor = processors.TemplateProcessing("[BEGIN] $A [END]", special_tokens=ends)
    words = PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="[PAD]", unk_token="[UNK]")
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    text = {**sizes, "vocab_size": len(numbers), "max_position_embeddings": 16, "eos_token_id": numbers["[END]"]}
    decoder = {"projection_dim": 8, "reduce_dim": 8, "extract_layers": [0, 1], "decoder_num_attention_heads": 2}
    decoder["decoder_intermediate_size"] = 16
    vision = {**sizes, "image_size": 32, "patch_size": 8}
    model = CLIPSegForImageSegmentation(CLIPSegConfig(text_config=text, vision_config=vision, **decoder))
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    model.save_pretrained(folder)
    CLIPSegProcessor(Images(size={"height": 32, "width": 32}), words).save_pretrained(folder)
    return folder
