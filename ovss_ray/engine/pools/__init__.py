"""Pools of worker processes, which compute and write records. Each written file is described by a receipt."""
