"""What Prometheus is told."""

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from safety_modules.policy.verdict import Verdict

NAME = "safety_modules"
SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 120)
SIZES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """One server's numbers, in a registry of its own."""

    def __init__(self) -> None:
        self._registry = own = CollectorRegistry()
        self.requests = Counter(f"{NAME}_requests", "Requests answered.", ["route", "status"], registry=own)
        self.seconds = Histogram(
            f"{NAME}_request_seconds", "From request to answer.", ["route"], buckets=SECONDS, registry=own
        )
        self.batches = Histogram(f"{NAME}_batch_size", "Requests answered in one call.", buckets=SIZES, registry=own)
        self.waiting = Gauge(f"{NAME}_requests_waiting", "Requests admitted and not yet answered.", registry=own)
        self.pictures = Counter(f"{NAME}_pictures", "Pictures judged.", ["type", "action"], registry=own)
        self.tokens = Counter(f"{NAME}_tokens", "Tokens of prompts and answers.", ["part"], registry=own)

    def judged(self, verdicts: Sequence[Verdict]) -> None:
        """Count verdicts: by the type of the rule that fired, `clean` where none did."""
        for one in verdicts:
            self.pictures.labels(one.type if one.flagged else "clean", one.action).inc()

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self._registry)
