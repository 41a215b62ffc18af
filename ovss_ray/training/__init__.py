"""Training: the recipes of the tiny shipped networks, and the official recipe of SAN."""
