"""Stages, and their execution over a batch of images, without Ray."""
