"""Published tables, run anew: their figures as theirs, the setting as far as it is known, ours beside it.

`published` says what a table is, `budget` how budgets of methods that prune at different depths compare, `cost` what a
table would take; `prunevid`, `flashvid`, `fastvid` and `glimpse` are the tables. None of these loads torch. `run`
answers, `timing` measures, `page` and `timing_page` write what came of it.
"""
