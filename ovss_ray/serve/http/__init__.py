"""The HTTP side of the service: requests, answers, limits, and the web page. It does not use Ray."""
