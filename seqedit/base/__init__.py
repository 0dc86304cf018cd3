"""What every room may use: paths, atomic writing, JSON lines, precision and a clock."""
