"""One training, start to end: models, methods, data and the loop. Knows neither Ray nor SQL.

Importing this package is cheap; torch is imported when a run starts:

    for event in worker.run(run, worker.Context(data=Path("data"), runs=Path("runs"))):
        print(event)
"""

from worker.context import Context
from worker.events import Diverged, Epoch, Event, Failed, Finished, Paused, Progress, Started
from worker.kinds import run

__all__ = [
    "Context",
    "Diverged",
    "Epoch",
    "Event",
    "Failed",
    "Finished",
    "Paused",
    "Progress",
    "Started",
    "run",
]
