"""What goes from here to other tools: edited models, edits as factors and adapters, differences, the common harness."""
