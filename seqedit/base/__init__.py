"""What every room may use: files that appear whole, paths, precision, a clock."""
