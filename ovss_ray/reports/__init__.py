"""Report of a run, computed from its records: numbers, tables, comparison with published figures."""
