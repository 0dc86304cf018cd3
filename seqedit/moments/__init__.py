"""Second moments of a model's keys over a text: collected, merged and kept in files."""
