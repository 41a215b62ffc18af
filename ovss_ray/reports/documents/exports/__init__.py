"""Exports of reports and runs to files that papers and other programs use.

There are four exports: the tables of a report, leaderboards, pixel counts, and predicted label maps. Tables are written
as CSV, Markdown or LaTeX. Leaderboards are written as Markdown or LaTeX. Pixel counts are written as CSV. Label maps
are written in detectron2's JSON format.
"""
