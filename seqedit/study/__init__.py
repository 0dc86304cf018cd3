"""Runs, their settings and their records: a run writes a record, chapters read it."""
