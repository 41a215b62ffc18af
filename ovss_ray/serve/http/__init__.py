"""The HTTP side of the service: requests, answers, limits, and the web page. The package does not use Ray."""
