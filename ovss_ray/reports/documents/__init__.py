"""Documents from the reports and records of runs: HTML pages, and tables for papers and for other programs."""
