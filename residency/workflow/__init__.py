"""Workflow files of both formats: read, converted, and their uses of weights foretold."""
