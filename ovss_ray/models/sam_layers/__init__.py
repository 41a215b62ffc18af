"""Layers of Segment Anything that several families share: its blocks, prompts, decoder, and resize of masks."""
