"""Somebody else's application on the Ray cluster at the address argument, served on the port argument under the route argument."""

import sys

import ray
from ray import serve


@serve.deployment(ray_actor_options={"num_cpus": 0.1})
class Theirs:
    """Says that it is there."""

    async def __call__(self, request: object) -> str:
        return "theirs"


if __name__ == "__main__":
    address, port, route = sys.argv[1:]
    ray.init(address, namespace="theirs", logging_level="warning", log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(port)})
    serve.run(Theirs.bind(), name="theirs", route_prefix=route)
