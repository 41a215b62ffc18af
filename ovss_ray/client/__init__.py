"""A client for the service that `ovss serve` runs.

If the service is busy, is not reachable or reports an internal error, the client repeats the request (see
serve/retries.py). `Client(patience=60)` limits the repetition to 60 seconds. A repeated request begins no second job.

    client = Client("http://127.0.0.1:8000")
    segmentation = client.segment("street.jpg", ["road", "car", ["tree", "bush"]])
    segmentation.labels  # (H, W) uint16: indices into the classes
    client.prompt("street.jpg", [(120, 80, 1)], classes=["road", "car"]).masks[0]  # object at the point, (H, W) bool
    client.segment_batch(["a.jpg", "b.jpg"], ["road", "car"])  # a Segmentation or an error for each image
    for segmentation in client.segment_job(["a.jpg", "b.jpg"], ["road", "car"]):  # in the order of the images
        ...
"""

from ovss_ray.client.client import Client
from ovss_ray.client.connection import PATIENCE, DeadlinePassed, NotThere
from ovss_ray.client.photographs import Photograph
from ovss_ray.client.results import Found, Segmentation
from ovss_ray.client.several import Job

__all__ = ["PATIENCE", "Client", "DeadlinePassed", "Found", "Job", "NotThere", "Photograph", "Segmentation"]
