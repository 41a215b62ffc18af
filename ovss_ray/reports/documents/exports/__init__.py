"""Exports of reports and runs to files that papers and other programs use.

The exports are tables of reports, leaderboards, pixel counts and predicted label maps. Tables are written as CSV,
Markdown or LaTeX. Leaderboards are written as Markdown or LaTeX. Pixel counts are written as CSV. Label maps are
written in detectron2's JSON format.
"""
