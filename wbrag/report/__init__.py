"""Scores, statistics, tables, plots, one page of HTML, and the life of one example."""
