"""The online service: an HTTP API that runs the same stages as batch runs.

The package `http` does not use Ray. It reads requests, decodes images, checks API keys and limits, and writes answers.
The package `deployments` uses Ray Serve. Its module `batch` runs the stages, and `replica` holds them in a worker
process. `app` creates the deployments: one per pool of each model, and one for HTTP.
"""
