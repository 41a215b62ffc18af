"""The stages of the batch path, online: an HTTP API whose requests go through the same pipeline.run.

`api` is the service without Ray: what is asked (`asked`), of which image (`photograph`), under which protection
(`guard`), what is answered (`answer`). `pool` and `app` put the stages behind it as Ray Serve deployments, one for each
pool of the config.
"""
