"""Tables of reports as CSV, Markdown and LaTeX, leaderboards, and predictions in detectron2's JSON."""
