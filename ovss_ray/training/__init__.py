"""Training of the shipped tiny networks, and of SAN, SCAN, Fusioner and Open-Vocabulary SAM by official recipes."""
