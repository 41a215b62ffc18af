"""Routing of requests: all requests for an image go to the same replica, which then has the image in memory.

By rendezvous hashing (Thaler and Ravishankar, 1998), all routers choose the same replica without communication. If a
replica is added or removed, only the images of that replica move.
"""

import hashlib
import random

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

from ovss_ray.engine.cluster.ray_internals import report_missing


# Two features of Ray Serve were not suitable. Model multiplexing learns only after a delay what a replica has loaded.
# ConsistentHashRouter (experimental in Ray 2.60) may choose a busy replica for a request without an image.
class ByImage(RequestRouter):
    """Router that chooses a replica by the image's SHA-256, which requests carry as `multiplexed_model_id`.

    Requests without this digest go to the less busy of two random replicas.
    """

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Return a list that contains one inner list of replicas.

        For a request with an image, the inner list has only the replica of the image. Otherwise, the inner list has up
        to two random replicas. Ray Serve sends the request to the listed replica with the shortest queue.
        """
        image = ""
        if pending_request is not None:
            image = _image(pending_request)
        if not image:
            return [random.sample(candidate_replicas, min(2, len(candidate_replicas)))]
        return [[max(candidate_replicas, key=lambda replica: weight(image, _name(replica)))]]


def _image(request: PendingRequest) -> str:
    """Return the SHA-256 of a request's image, or "" for a request without an image.

    Also set `should_backoff` of the request. Ray Serve then pauses between attempts to send the request to a busy
    replica.
    """
    try:
        request.routing_context.should_backoff = True
        return request.metadata.multiplexed_model_id
    except AttributeError:
        report_missing("PendingRequest.routing_context and metadata", "A click may have to encode its image again")
        return ""


def _name(replica: RunningReplica) -> str:
    return str(getattr(replica.replica_id, "unique_id", replica.replica_id))


def weight(image: str, replica: str) -> bytes:
    """Return a hash of an image and a replica, as 32 bytes. The image goes to the replica with the highest hash."""
    return hashlib.sha256(f"{image} {replica}".encode()).digest()
