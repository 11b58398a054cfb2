"""Several ComfyUI servers behind one door: prompts go where their weights are.

    routing      the score of every worker for one prompt, pure
    forecast     the seconds that a prompt takes on a worker, from the session and manager that `plan` simulates
    traffic      requests: generated with the shape of production traces, or read from a file
    policies     the other ways of choosing a worker
    simulation   all of them over one trace on a virtual clock

Only this room imports Ray, and only where a fleet is started.
"""
