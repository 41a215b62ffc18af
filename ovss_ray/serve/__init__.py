"""The online service: an HTTP API that runs the same stages as batch runs.

The package `http` does not use Ray. It reads requests, decodes images, checks API keys and limits, and writes answers.
The package `deployments` uses Ray Serve. The module `deployments.replica` holds the stages of a pool in a worker
process. The module `deployments.batch` runs the stages on requests. The module `deployments.app` creates one deployment
for each pool of each model, and one deployment for HTTP.
"""
