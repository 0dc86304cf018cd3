"""Exchange with other tools: folders, factors, adapters, differences, the evaluation harness."""
