"""Arrays in files: caches, shards, indices of captions, and MATLAB files."""
