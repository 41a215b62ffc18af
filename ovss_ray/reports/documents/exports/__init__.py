"""Tables of reports as CSV, Markdown and LaTeX, pixel counts, leaderboards, and predictions in detectron2's JSON."""
