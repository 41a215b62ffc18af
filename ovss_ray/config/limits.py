"""Limits of the online service. Some apply to each request, others to all requests or all jobs together."""

from pydantic import Field

from ovss_ray.structures.settings import Settings


class Limits(Settings):
    """Limits that keep the online service responsive under load. `--set limits.seconds=60` changes a limit."""

    body: int = Field(default=20_000_000, ge=1)
    """bytes: largest size of a request"""
    pixels: int = Field(default=40_000_000, ge=1)
    """pixels: largest height · width of an image, tested before the image is decoded"""
    side: int = Field(default=8_192, ge=1)
    """pixels: largest height or width of an image"""
    classes: int = Field(default=1_000, ge=1)
    """largest number of classes in a request"""
    letters: int = Field(default=300, ge=1)
    """largest number of characters in a prompt template, or in a class's name and synonyms together"""
    points: int = Field(default=64, ge=1)
    """largest number of points in a prompt"""
    regions: int = Field(default=1_000, ge=1)
    """largest number of regions in an answer; the largest regions are kept, and the total number is reported"""
    corners: int = Field(default=500_000, ge=1)
    """largest number of polygon corners in an answer

    If the polygons have more corners, the answer has status 422. Request the masks as `rle` instead.
    """
    remembered: int = Field(default=500_000_000, ge=1)
    """bytes: largest size of each worker's cache of decoded images and SAM embeddings, which later prompts reuse"""
    waiting: int = Field(default=64, ge=1)
    """largest number of requests in progress, including queued ones; further requests receive status 429"""
    held: int = Field(default=160_000_000, ge=1)
    """pixels: largest sum of height · width of all images that the service has decoded and not yet answered

    If a further image would exceed the sum, the service waits before decoding this image. A pixel takes 3 bytes.
    """
    seconds: float = Field(default=30.0, gt=0)
    """seconds: longest time from the arrival of a complete request to the answer

    After this time, the answer is an error. If workers spent at least half of the time on the request, the
    error has status 504. Otherwise, the request mostly waited for a worker, and the error has status 503.
    """
    images: int = Field(default=16, ge=1)
    """largest number of images in a request with several images, or in a job"""
    jobs: int = Field(default=64, ge=1)
    """largest number of jobs that are running, or whose answers are still stored"""
    stored: int = Field(default=200_000_000, ge=1)
    """bytes: largest total size of the images and answers of all jobs; further jobs are refused"""
    kept: float = Field(default=600.0, gt=0)
    """seconds: time for which the answers of a job are kept after its end"""
    upload: float = Field(default=30.0, gt=0)
    """seconds: longest time for receiving the body of a request; slower requests receive status 408"""
    retry: int = Field(default=1, ge=0)
    """seconds: value of the header Retry-After in answers with status 429 or 503"""
