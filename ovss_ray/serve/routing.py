"""Which replica gets a request: one about an image always the same, which then has it in memory.

By rendezvous hashing (Thaler and Ravishankar, 1998): an image belongs to the replica whose name, hashed together with
its own, comes out highest. Whoever routes finds the same one without asking anybody, so the second click meets the
first one's replica however soon it comes, and a replica more or less moves only the images that become or were its own.
Serve's multiplexing learns where a model lies only some time after it was loaded there; its ConsistentHashRouter,
experimental in 2.60, would not look for the less busy replica for all other requests.
"""

import hashlib
import random

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica


class ByImage(RequestRouter):
    """Requests with a `multiplexed_model_id`, the image's sha256, by that; others to the less busy of two at random."""

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Those of which Serve takes the one with the shortest queue; if all are full it asks again, after a pause."""
        image = ""
        if pending_request is not None:
            pending_request.routing_context.should_backoff = True
            image = pending_request.metadata.multiplexed_model_id
        if not image:
            return [random.sample(candidate_replicas, min(2, len(candidate_replicas)))]
        return [[max(candidate_replicas, key=lambda one: weight(image, one.replica_id.unique_id))]]


def weight(image: str, replica: str) -> bytes:
    """How much an image belongs to a replica."""
    return hashlib.sha256(f"{image} {replica}".encode()).digest()
