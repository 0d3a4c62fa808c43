"""What adapters cost: as inputs of an engine, when they change, and when the rows of a batch differ."""
