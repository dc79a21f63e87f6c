"""Users of the one seam of a session: transcript, countdown, PROXY, faults."""
