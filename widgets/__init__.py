"""Live pages built from systems, records and views."""
