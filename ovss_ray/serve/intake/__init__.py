"""State of the requests in the service: places in the queue, jobs, quotas of API keys. The package does not use Ray."""
