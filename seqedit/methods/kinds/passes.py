"""Repeated sweeps over the requests of a round."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Passes:
    """NSE's repeated sweeps over the requests of a round that are not yet written.

    Attributes:
        times: largest number of sweeps.
        done_below: α; a request with ‖z* − h‖ ≤ α is left out of the sweep, as one that is written.
        hopeless_from: a request with ‖z* − h‖ of at least this is left out of the sweep.
    """

    times: int
    done_below: float
    hopeless_from: float

    def reason_to_leave(self, distance: float) -> str | None:
        """Why a sweep leaves a request alone whose ‖z* − h‖ is `distance`; None if it does not."""
        if distance <= self.done_below:
            return f"nothing is written for ‖z* − h‖ of at most {self.done_below:g} (done_below)"
        if distance >= self.hopeless_from:
            return f"‖z* − h‖ is {distance:.3g}, beyond {self.hopeless_from:g}"
        return None
