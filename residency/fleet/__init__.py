"""Several ComfyUI servers behind one door: prompts go where their weights are.

    routing      the score of every worker for one prompt, pure
    forecast     the seconds that a prompt takes on a worker, from the session and manager that `plan` simulates
    traffic      requests: generated with the shape of production traces, or read from a file
    policies     the other ways of choosing a worker
    simulation   all of them over one trace on a virtual clock
    virtual_door ours there, by the door's own code

    door         ComfyUI's API in front of all of them; knows nothing of Ray
    access       who may ask
    messages     the messages to a client
    prompts      the life of a prompt, from being taken to being kept
    register     those that have not ended
    placing      a worker for one
    moving       another one while it waits
    delivery     into a worker's queue, and out of it
    sightings    prompts as seen on a worker: waiting, running, ended, strays
    lost         lost prompts, placed anew
    recall       prompts that an earlier door has left
    choosing     the worker for it now
    watch        which workers are up, which hang, which prompts run there
    ledger       prompts and drained workers that a door started anew must know
    outlook      the workers' queues and memories, in the router's words
    ahead        the future of a worker's queue, pure
    dispatch     the prompt that a free worker begins, pure
    seats        one server behind the door; `asking` asks them

    plan         a fleet as it was asked for, by options or a file
    cluster      started, found again, ended
    served       the actors and the ingress

Only this room imports Ray, and only where a fleet is started.
"""
