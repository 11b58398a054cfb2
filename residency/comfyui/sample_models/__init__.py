"""Model files of random weights, for the demo, the bench and the tests."""
