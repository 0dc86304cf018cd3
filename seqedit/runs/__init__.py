"""Runs on disk: settings, records, resuming."""
