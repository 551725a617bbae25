"""The reward over HTTP: ``realm serve``.

``batching`` gathers concurrent requests, whose texts are taken by ``turns``, and computes equal texts once; ``wire`` is
what is sent and answered, ``strict_json`` reads it, ``connections`` and ``guards`` are the limits and the token,
``service`` loads the reward and turns faults into statuses, ``app`` has the routes, ``running`` binds the address and
stops gracefully.
"""

from realm_lib.inference.server.limits import Limits, ServerError

__all__ = ["Limits", "ServerError"]
