"""Stock ComfyUI and the pack against the same real server, in one run: scenarios, limits, measures, and the results on disk.

`scenarios.py` is the table. `run.py` runs it: models are made, limits held, servers started in turn without the pack and with it, each
prompt timed from outside. Every prompt's raw times go into results.json as soon as it has ended; medians, bounds and ratios are
computed from that file alone (`results.py`), so that tables and pictures can be made later and elsewhere.
"""
