"""The service on Ray Serve: its deployments, the replicas that compute batches, and the routing of requests."""
