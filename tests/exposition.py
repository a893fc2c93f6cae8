"""What a process shows to Prometheus, read over HTTP as Prometheus reads it."""

from __future__ import annotations

import asyncio
import socket
import urllib.request

from prometheus_client.parser import text_string_to_metric_families

from tests.waiting import HANGS_S


class Exposition:
    """All samples of one scrape; names without the `gramserve_` in front."""

    def __init__(self, text: str) -> None:
        self._samples = {
            (sample.name.removeprefix("gramserve_"), frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def value(self, name: str, **labels: str) -> float | None:
        """The value of one series; None where there is none."""
        return self._samples.get((name, frozenset(labels.items())))

    def series(self, name: str) -> dict[frozenset[tuple[str, str]], float]:
        """The series of one name, by their labels."""
        return {labels: value for (found, labels), value in self._samples.items() if found == name}

    def total(self, name: str) -> float:
        """The sum over all series of one name."""
        return sum(self.series(name).values())

    def __len__(self) -> int:
        return len(self._samples)


async def scrape(port: int) -> Exposition:
    """What http://127.0.0.1:port/metrics says now."""

    def read() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=HANGS_S) as answer:
            text: str = answer.read().decode()
            return text

    return Exposition(await asyncio.to_thread(read))


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
