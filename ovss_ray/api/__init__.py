"""The Python API behind `import ovss_ray` and the command `ovss`. Nothing here prints or exits."""
