"""Edit requests: one record, files of any schema, published benchmarks."""
