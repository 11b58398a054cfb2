"""The commands of `python -m residency`, one module each; `register(commands)` adds a module's own to the command line.

Exit status 0 when done, 1 when something failed on the way, 2 for input that cannot be used, said in one line.
"""
