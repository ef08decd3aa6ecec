"""Comparing methods on tasks: training missing runs, their records, statistics, tables and plots."""
