"""How far a judge can be trusted: gold sets, calibration, the report of a check."""
