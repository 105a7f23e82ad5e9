"""The names of the methods without learned weights, for the configuration.

`pipeline.evaluation.baselines` has the methods themselves, and takes longer to import.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence

# In the order of the tables; each is the name under which an evaluation reports the method.
BASELINE_NAMES = (
    "mean colour",
    "membrane",
    "biharmonic",
    "Telea",
    "Navier-Stokes",
    "FSR",
)


def baseline_name_errors(names: Sequence[str]) -> list[str]:
    """Return one sentence for each name that no method has, and for each that occurs twice."""
    errors = []
    for name in dict.fromkeys(names):
        if name not in BASELINE_NAMES:
            by_lower_case = {known.lower(): known for known in BASELINE_NAMES}
            near = difflib.get_close_matches(name.lower(), by_lower_case, n=1)
            known = ", ".join(BASELINE_NAMES)
            remedy = f"did you mean {by_lower_case[near[0]]!r}?" if near else f"known: {known}"
            errors.append(f"evaluation.baselines holds {name!r}, which is no method; {remedy}")
        elif list(names).count(name) > 1:
            errors.append(f"evaluation.baselines holds {name!r} more than once")
    return errors
