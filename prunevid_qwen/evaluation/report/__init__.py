"""How results are summed up and shown: intervals, tables and pages, plots. Knows nothing of how they were measured."""
