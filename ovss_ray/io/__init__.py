"""Readers and writers of files: images, MATLAB and YAML files, caches on disk."""
