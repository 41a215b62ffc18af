"""State of the service about requests: places in the queue, long jobs, quotas of keys. It does not use Ray."""
