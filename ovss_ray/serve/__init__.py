"""The online service: an HTTP API that runs the same stages as batch runs.

The package `http` works without Ray. The package `deployments` runs the stages in Ray Serve.
"""
