"""Second moments of keys over a text: collected, merged, kept."""
