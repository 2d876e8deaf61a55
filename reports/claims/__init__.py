"""The paper's claims as declared tests over a store: effect, interval, verdict."""

from reports.claims.declared import CLAIMS, Claim
from reports.claims.judging import Judged, judge
from reports.claims.output import FORMATS, render

__all__ = ["CLAIMS", "FORMATS", "Claim", "Judged", "judge", "render"]
