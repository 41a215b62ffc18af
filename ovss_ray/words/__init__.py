"""English words: nouns of WordNet, filters from captions to words, and mappings from words to classes.

No module of this package downloads anything.
"""
