"""A client for the service that `ovss serve` runs.

A request is repeated if the service is busy, not ready or faulty (429, 503, 500, …). It is also repeated if the
connection is refused or lost. The argument `patience` of Client is the time in seconds for which a request is repeated.
If the last attempt fails, the client raises an error (see serve/retries.py). A request that exceeded the service's time
limit (504, code `deadline`) is not repeated. A repeated request gives the same answer. Repeating the request for a job
begins no second job.

    client = Client("http://127.0.0.1:8000")
    segmentation = client.segment("street.jpg", ["road", "car", ["tree", "bush"]])
    segmentation.labels  # (H, W) uint16: indices into the classes
    client.prompt("street.jpg", [(120, 80, 1)], classes=["road", "car"]).masks[0]  # object at the point, (H, W) bool
    client.segment_batch(["a.jpg", "b.jpg"], ["road", "car"])  # a Segmentation or an error for each image
    for segmentation in client.segment_job(["a.jpg", "b.jpg"], ["road", "car"]):  # each is yielded when it is ready
        ...
"""

from ovss_ray.client.client import Client
from ovss_ray.client.connection import PATIENCE, DeadlinePassed, NotThere
from ovss_ray.client.photographs import Photograph
from ovss_ray.client.results import Found, Segmentation
from ovss_ray.client.several import Job

__all__ = ["PATIENCE", "Client", "DeadlinePassed", "Found", "Job", "NotThere", "Photograph", "Segmentation"]
