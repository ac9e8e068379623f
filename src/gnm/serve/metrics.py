"""What Prometheus reads of the service. Labels are routes, methods and reasons, never users, memories or texts."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)
_QUESTIONS = (1, 2, 4, 8, 16, 32)


class Metrics:
    """The service's counters, in a registry of their own."""

    def __init__(self):
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "gnm_requests", "Requests that were answered", ("route", "method", "status"), registry=self.registry
        )
        self.seconds = Histogram(
            "gnm_request_seconds", "Until an answer began", ("route",), buckets=_SECONDS, registry=self.registry
        )
        self.refused = Counter(
            "gnm_refused",
            "Requests without a turn: too many waited, were a user's, moved files or connected, or the wait was long",
            ("reason",), registry=self.registry,
        )  # fmt: skip
        self.waiting = Gauge("gnm_waiting", "Requests that wait for the model or are in it", registry=self.registry)
        self.batch = Histogram(
            "gnm_batch_questions", "Questions answered side by side", buckets=_QUESTIONS, registry=self.registry
        )
        self.written = Counter("gnm_documents_written", "Documents that were written", registry=self.registry)
        self.cached = Gauge("gnm_cached_slots", "Slots of the memories that are loaded", registry=self.registry)

    def page(self) -> bytes:
        """All of them in Prometheus's text form."""
        return generate_latest(self.registry)
