"""The stages of the batch path, online: an HTTP API whose requests go through the same pipeline.run.

`api` is the service without Ray: what is asked (`asked`), of which image (`photograph`), under which protection
(`guard`), how much at once (`desk`), what is answered (`answer`, `masks`). `batch` runs the stages, `pool` is a worker
that holds them, and `app` makes Ray Serve deployments of all this, one for each pool of each model.
"""
