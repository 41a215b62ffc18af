"""The report of a run, computed from its records: metrics, tables, and a comparison with published figures."""
