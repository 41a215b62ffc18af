"""Tests of ovss_ray/api."""
