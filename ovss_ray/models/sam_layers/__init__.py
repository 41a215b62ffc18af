"""Parts of Segment Anything that several families share: encoder blocks, prompts, mask decoder, mask generator."""
