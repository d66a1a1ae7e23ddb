"""What Prometheus is told."""

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from safety_modules.policy.verdict import Verdict

SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 120)
SIZES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """One server's numbers, in a registry of its own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        common = {"namespace": "safety_modules", "registry": self._registry}
        self.requests = Counter("requests", "Requests answered.", ["route", "status"], **common)
        self.seconds = Histogram("request_seconds", "From request to answer.", ["route"], buckets=SECONDS, **common)
        self.batches = Histogram("batch_size", "Requests answered in one call.", buckets=SIZES, **common)
        self.waiting = Gauge("requests_waiting", "Requests admitted and not yet answered.", **common)
        self.pictures = Counter("pictures", "Pictures judged.", ["type", "action"], **common)
        self.tokens = Counter("tokens", "Tokens of prompts and answers.", ["part"], **common)

    def judged(self, verdicts: Sequence[Verdict]) -> None:
        """Count verdicts: by the type of the rule that fired, `clean` where none did."""
        for one in verdicts:
            self.pictures.labels(one.type if one.flagged else "clean", one.action).inc()

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self._registry)
