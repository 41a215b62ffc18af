"""Parts of Segment Anything that several families of networks share.

The parts are encoder blocks, prompts, the mask decoder and the automatic mask generator.
"""
