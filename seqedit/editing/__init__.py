"""What a run of edits is made of, and the loop over rounds."""
