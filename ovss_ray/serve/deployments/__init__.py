"""The service on Ray Serve: deployments, replicas, batches, routing."""
