"""Ids to batches: all that is random or ordered about data."""
