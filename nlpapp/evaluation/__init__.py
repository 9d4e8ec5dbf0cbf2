"""Numbers to people: metrics, statistics, plots, reports, submissions."""
