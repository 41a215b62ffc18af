"""Tests of ovss_ray/words."""
