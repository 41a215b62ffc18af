"""What one request to the online service may ask for, and how much of it is in hand at once."""

from pydantic import Field

from ovss_ray.stage import Config


class Limits(Config):
    """Bounds that keep a service answering, whatever it is sent: `--set limits.seconds=60` changes one."""

    body: int = Field(default=20_000_000, ge=1)
    """bytes of a request"""
    pixels: int = Field(default=40_000_000, ge=1)
    """of an image; its header is asked before anything is decoded"""
    side: int = Field(default=8_192, ge=1)
    """pixels of an image's longer side"""
    classes: int = Field(default=1_000, ge=1)
    """that a request may name"""
    letters: int = Field(default=300, ge=1)
    """of one class, all its names together; the networks read 77 tokens at most"""
    points: int = Field(default=64, ge=1)
    """of a prompt"""
    regions: int = Field(default=1_000, ge=1)
    """that an answer tells, the largest; how many there are it says as well"""
    corners: int = Field(default=500_000, ge=1)
    """places where the outlines of an answer may turn; for more its masks are to be asked for as `rle`"""
    remembered: int = Field(default=500_000_000, ge=1)
    """bytes of images, decoded and as SAM sees them, that a worker keeps to answer further prompts about them"""
    waiting: int = Field(default=64, ge=1)
    """requests in hand, computed or waiting; one more is told to come again (429)"""
    held: int = Field(default=160_000_000, ge=1)
    """pixels of the images that are decoded and not answered yet, 3 bytes each; further ones wait. One always goes"""
    seconds: float = Field(default=30.0, gt=0)
    """that a request may take from its arrival to its answer; then it is told to come again (503)"""
    retry: int = Field(default=1, ge=0)
    """seconds after which it should (Retry-After)"""
