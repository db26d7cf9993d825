"""The decision point: pure functions over what was declared."""
