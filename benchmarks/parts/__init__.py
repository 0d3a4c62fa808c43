"""The parts of the suite: each takes a Run and yields its rows."""
