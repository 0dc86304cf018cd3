"""Edit requests: the record, files in several schemas, and published benchmarks."""
