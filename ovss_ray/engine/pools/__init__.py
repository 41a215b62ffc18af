"""Pools of worker processes: from images to receipts of written records."""
