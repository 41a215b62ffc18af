"""English words: nouns of WordNet, filters from captions to words, and mappings from words to classes.

The data are the file nouns.txt.xz of this folder (see wordnet.py). Nothing here needs a network or a download.
"""
