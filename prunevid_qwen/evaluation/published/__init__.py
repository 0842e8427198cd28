"""Published tables, run anew: their figures as theirs, the setting as far as it is known, ours beside it.

The tables are the YAML files here, which `table` reads; `budget` makes methods that prune at different depths compare,
`estimate` says what a table would take. None of these loads torch. `reproduce` answers, `timing` measures, `page`
writes the result.
"""
