"""The Python API behind `import ovss_ray` and the command `ovss`. Its functions neither print nor end the process."""
