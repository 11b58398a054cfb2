"""Several ComfyUI servers behind one door: prompts go where their weights are.

    routing      the score of every worker for one prompt, pure
    forecast     the seconds that a prompt takes on a worker, from the session and manager that `plan` simulates
    traffic      requests: generated with the shape of production traces, or read from a file
    policies     the other ways of choosing a worker
    simulation   all of them over one trace on a virtual clock
    virtual_door ours there, by the door's own code

    door         ComfyUI's API in front of all of them; knows nothing of Ray
    access       who may ask
    messages     what a client hears
    prompts      the life of a prompt, from being taken to being kept
    register     those that have not ended
    placing      a worker for one
    moving       another one while it waits
    delivery     into a worker's queue, and out of it
    sightings    what a worker is seen to have: what runs, what has ended, strays
    lost         what is begun again elsewhere
    recall       what an earlier door has left
    choosing     the worker for it now
    watch        who is there, what runs where, who hangs
    ledger       what a door that is started anew must know
    outlook      what is known of the workers, in the router's words
    ahead        what a worker's queue will do, pure
    dispatch     what a worker that is free begins, pure
    seats        one server behind the door; `asking` asks them

    plan         a fleet as it was asked for, by options or a file
    cluster      started, found again, ended
    served       the actors and the ingress

Only this room imports Ray, and only where a fleet is started.
"""
