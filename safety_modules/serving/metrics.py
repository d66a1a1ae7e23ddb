"""What Prometheus is told."""

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

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

    def count(self, name: str, labels: Sequence[str], value: float) -> None:
        """Add to a counter, or a value to a histogram: one of the attributes, by its name."""
        one = getattr(self, name).labels(*labels) if labels else getattr(self, name)
        (one.observe if isinstance(one, Histogram) else one.inc)(value)

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self._registry)
