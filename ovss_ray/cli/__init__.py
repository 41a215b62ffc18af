"""The command `ovss`, one file for each group of commands."""
