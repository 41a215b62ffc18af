"""English words: nouns of WordNet, filters from captions to words, and mappings from words to classes.

The data are the file nouns.txt.xz of this folder (see wordnet.py). No module of this package downloads anything.
"""
