"""Estimate what a run will cost in memory, time and disk before anything is loaded."""
