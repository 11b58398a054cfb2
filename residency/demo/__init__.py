"""The demo: the pack off and on, side by side."""
