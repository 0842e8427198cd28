"""A module for each method of the reference files, of the name that the files use: ``check(case)`` runs one case."""
