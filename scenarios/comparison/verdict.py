"""The verdict: what the numbers let one say, as plain sentences, and no more than that."""

from __future__ import annotations

from scenarios.comparison.findings import Verdict

NOTHING = Verdict("There is no result yet.", (), ())
