"""What /metrics counts. Labels are routes and statuses, never anything that a client wrote."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector


class Metrics:
    """The counters of one server, in a registry of its own."""

    def __init__(self, waiting: Callable[[], int]) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter("realm_requests", "Requests answered.", ["route", "status"], registry=registry)
        self.seconds = Histogram(
            "realm_request_seconds", "Seconds from a request to its answer.", ["route"], registry=registry
        )
        self.responses = Counter("realm_responses", "Responses whose reward was answered.", registry=registry)
        self.batches = Histogram(
            "realm_batch_responses",
            "Distinct responses computed together.",
            buckets=[1, 2, 4, 8, 16, 32, 64, 128],
            registry=registry,
        )
        gauge = Gauge("realm_waiting_responses", "Responses that wait for an answer.", registry=registry)
        gauge.set_function(lambda: float(waiting()))
